//! `poisontrace check`: attaches everything once, says what came of it, and lets go.

use std::process::ExitCode;

use super::{Outcome, attach, output};
use crate::kernel::plan::Plan;

pub fn check() -> Outcome {
    let attached = attach::probes(0)?;
    attach::print_probes(&attached.loaded.probes)?;
    attach::print_limits(&attached.facts)?;
    let missing = Plan::verdict_needs(|name| attached.session.has(name));
    if missing.is_empty() {
        output::print("a verdict is possible on this kernel\n")?;
        return Ok(ExitCode::SUCCESS);
    }
    output::print(&format!(
        "no verdict is possible on this kernel without: {}\n",
        missing.join(", ")
    ))?;
    Ok(ExitCode::from(1))
}
