//! `poisontrace check`: attaches everything once, says what came of it, and lets go.

use std::process::ExitCode;

use super::{Outcome, attach, output};

pub fn check() -> Outcome {
    let attached = attach::probes(0, true)?;
    attach::print_probes(&attached.loaded.probes)?;
    attach::print_limits(&attached.facts)?;
    if !attach::print_verdict(&attached.session)? {
        return Ok(ExitCode::from(1));
    }
    output::print("a verdict is possible on this kernel\n")?;
    Ok(ExitCode::SUCCESS)
}
