//! `poisontrace check`: attaches everything once, prints the result, and detaches. With facts in a folder: what would
//! be attached on the kernel that they are of, on any machine.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;

use super::{Outcome, ProbeArgs, SourceArgs};
use crate::{
    config::HotPathChoice,
    engine::{attach, plan_text, probe_table},
    terminal,
};
use poisontrace_kernel_facts::{facts::Facts, plan::Plan};
use poisontrace_model::event::probe::ProbeId;

#[derive(Args)]
pub struct CheckArgs {
    /// Also show how large the programs are, as the kernel counts
    #[arg(long)]
    verbose: bool,
    /// Write the facts of this kernel to a new folder (small text files), and print the plan made of them; attaches
    /// nothing. This is how to report a kernel that is not served well
    #[arg(long, value_name = "DIR", conflicts_with = "facts")]
    save_facts: Option<PathBuf>,
    /// Print the plan for the kernel whose facts lie in this folder; needs no privileges
    #[arg(long, value_name = "DIR")]
    facts: Option<PathBuf>,
    #[command(flatten)]
    probes: ProbeArgs,
}

pub fn check(args: &CheckArgs, source: &SourceArgs) -> Outcome {
    if let Some(folder) = &args.facts {
        let mut facts = Facts::load(folder)?;
        facts
            .disabled_attach_types
            .extend(args.probes.disable_attach_type.iter().cloned());
        return plan(&facts, args.probes.hot_path.unwrap_or_default());
    }
    let options = args.probes.options(&source.layers().read()?);
    if let Some(folder) = &args.save_facts {
        let facts = attach::facts(&options)?;
        facts.save(Path::new("/"), folder)?;
        return plan(&facts, options.hot_path);
    }
    let attached = attach::probes(&options, 0, true, None)?;
    probe_table::print_probes(&attached.loaded, args.verbose)?;
    probe_table::print_hot_path(attached.loaded.hot_path())?;
    probe_table::print_hot_path_of_service(attached.loaded.hot_path(), &attached.facts)?;
    probe_table::print_limits(&attached.facts)?;
    let possible = probe_table::print_verdict(&attached.session, &attached.facts)?;
    Ok(ExitCode::from(u8::from(!possible)))
}

/// Prints the plan. Its exit status is that of `check` on a kernel that takes all that it offers.
fn plan(facts: &Facts, hot_path: HotPathChoice) -> Outcome {
    let mut plan = Plan::new(facts, true);
    if hot_path == HotPathChoice::OnPoison {
        plan = plan.on_poison(facts, false);
    }
    terminal::print(&plan_text::text(&plan, facts))?;
    probe_table::print_hot_path(&plan.hot_path)?;
    probe_table::print_hot_path_of_service(&plan.hot_path, facts)?;
    probe_table::print_limits(facts)?;
    let offered = |probe: &ProbeId| {
        let row = plan.rows.iter().find(|row| row.probe == *probe);
        row.is_some_and(|row| row.offered().next().is_some())
    };
    Ok(ExitCode::from(u8::from(!Plan::verdict_needs(offered).is_empty())))
}
