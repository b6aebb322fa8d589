//! `run` and `record`: from options to attached probes and a running event loop.

use std::path::{Path, PathBuf};

use super::{
    attach::{self, Attached, ProbeOptions},
    event_loop, forecast,
    forecaster::Iterator as VcpuReader,
    kvm_module,
    pipeline::Pipeline,
    probe_table, serving,
    settings::Settings,
};
use crate::{
    config::{Config, Layers},
    failure::Failure,
    outputs::{
        Outputs,
        metrics::Metrics,
        recording::Recording,
        store::{Lock, Retention, Store},
    },
    service::{logging, notify},
};
use poisontrace_http::Server;
use poisontrace_sources::probes::bpffs::{self, Pins};

/// What `run` does beside the settings.
pub struct RunOptions {
    /// Where the settings come from: they are read again on SIGHUP.
    pub layers: Layers,
    pub config: Config,
    pub probes: ProbeOptions,
    /// Whether programs and totals outlive a daemon that is killed.
    pub pinned: bool,
    /// Where all events are recorded too.
    pub record: Option<PathBuf>,
}

/// What `record` does.
pub struct RecordOptions {
    pub config: Config,
    pub probes: ProbeOptions,
    /// Whether the instruction that touched a poisoned page is read from the guest's memory.
    pub read_code: bool,
    pub output: PathBuf,
}

pub fn run(options: RunOptions, log: logging::Handle) -> Result<(), Failure> {
    let RunOptions {
        layers,
        config,
        probes,
        pinned,
        record,
    } = options;
    // Before anything is attached: the probes that another one has pinned are not taken from it.
    let _lock = Lock::take(&config.state_dir)?;
    kvm_module::wait(|| notify::ready("waiting for KVM"))?;
    let mut attached = attach::probes(
        &probes,
        logging::probe_level(config.log.level),
        config.guest.read_code,
        pinned.then(|| Pins::take(Path::new(bpffs::ROOT))).flatten(),
    )?;
    let ready = serving::readiness(|probe| attached.loaded.has(probe));
    let server = serving::server_or_none(&config.web, ready, &config.state_dir)?;
    let vcpus = server.as_ref().map(|_| forecast::iterator(Path::new("/")));
    attached.give_up_privileges()?;
    let max_vms = config.metrics.max_labelled_vms();
    let session = attached.session.clone();
    let mut outputs = Outputs::new(Metrics::new(&session, session.clock, max_vms)?);
    outputs.log.json = log.to_journal();
    outputs.store = Some(Store::paced(
        &config.state_dir,
        &session.host,
        Retention::from(&config.store),
    ));
    outputs.recording = record
        .map(|path| Recording::create(&path, &session))
        .transpose()?;
    let mut pipeline = Pipeline::live(session, outputs, config.guest.read_code, config.vmm.clone());
    pipeline.configure(&config);
    pipeline.resume(&config.state_dir, attached.totals_continuity());
    let settings = Settings { layers, config, log };
    serve(&mut attached, pipeline, server, Some(settings), vcpus)
}

pub fn record(options: RecordOptions) -> Result<(), Failure> {
    let RecordOptions {
        config,
        probes,
        read_code,
        output,
    } = options;
    kvm_module::wait(|| {})?;
    let mut attached = attach::probes(&probes, logging::probe_level(config.log.level), read_code, None)?;
    attached.give_up_privileges()?;
    let session = attached.session.clone();
    let mut outputs = Outputs::new(Metrics::new(&session, session.clock, None)?);
    outputs.recording = Some(Recording::create(&output, &session)?);
    let mut pipeline = Pipeline::live(session, outputs, read_code, config.vmm.clone());
    pipeline.configure(&config);
    serve(&mut attached, pipeline, None, None, None)
}

fn serve(
    attached: &mut Attached,
    pipeline: Pipeline,
    server: Option<Server>,
    settings: Option<Settings>,
    vcpus: Option<VcpuReader>,
) -> Result<(), Failure> {
    probe_table::print_probes(&attached.loaded, false)?;
    probe_table::print_hot_path(attached.loaded.hot_path())?;
    probe_table::print_limits(&attached.facts)?;
    probe_table::warn_without_verdict(&attached.session)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|err| Failure::new(format!("cannot start the event loop: {err}")))?;
    runtime.block_on(event_loop::run(attached, pipeline, server, settings, vcpus))
}
