//! `poisontrace run`, `record` and `replay`: from arguments to the engine's options.

use std::{process::ExitCode, time::Duration};

use super::{Outcome, ProbeArgs, RecordArgs, ReplayArgs, RunArgs, SourceArgs, Speed};
use crate::{
    config::Config,
    engine::{
        attach::ProbeOptions,
        replay::{self, ReplayOptions},
        run::{self, RecordOptions, RunOptions},
    },
    service::logging,
};

pub fn run(args: &RunArgs, source: &SourceArgs) -> Outcome {
    let (layers, config) = args.settings(source)?;
    let log = logging::start(&config.log);
    let options = RunOptions {
        layers,
        probes: args.probes.options(&config),
        config,
        pinned: !args.no_pins,
        record: args.record.clone(),
    };
    run::run(options, log)?;
    Ok(ExitCode::SUCCESS)
}

pub fn record(args: &RecordArgs, source: &SourceArgs) -> Outcome {
    let config = source.layers().read()?;
    logging::start(&config.log);
    run::record(RecordOptions {
        read_code: args.guest.read_guest_code || config.guest.read_code,
        probes: args.probes.options(&config),
        config,
        output: args.output.clone(),
    })?;
    Ok(ExitCode::SUCCESS)
}

pub fn replay(args: &ReplayArgs, source: &SourceArgs) -> Outcome {
    let mut layers = source.layers();
    args.web.note(&mut layers);
    layers.flag("metrics.per_vm", args.per_vm_metrics.then_some(true));
    let config = layers.read()?;
    let log = logging::start(&config.log);
    replay::replay(&ReplayOptions {
        config,
        log_json: log.to_journal(),
        from: args.from.clone(),
        state_dir: args.state_dir.clone(),
        speed: match args.speed {
            Speed::Real => replay::Speed::Real,
            Speed::Max => replay::Speed::Max,
        },
        max_pause: Duration::from_secs(args.max_pause),
        keep_serving: args.keep_serving,
    })?;
    Ok(ExitCode::SUCCESS)
}

impl ProbeArgs {
    pub fn options(&self, config: &Config) -> ProbeOptions {
        ProbeOptions {
            hot_path: self.hot_path.unwrap_or(config.probes.hot_path),
            disabled_attach_types: self.disable_attach_type.clone(),
            page_totals: self.page_totals,
            rehearsals: self.rehearse,
        }
    }
}
