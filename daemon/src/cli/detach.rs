//! `poisontrace detach`: removes what a daemon that is gone has left attached.

use std::{path::Path, process::ExitCode};

use super::Outcome;
use crate::{failure::Failure, terminal};
use poisontrace_sources::probes::bpffs;

pub fn detach() -> Outcome {
    let root = Path::new(bpffs::ROOT);
    if bpffs::in_use(root) {
        return Err(Failure::new(
            "poisontrace is running: stop it first, which detaches its probes too",
        ));
    }
    let removed = bpffs::detach(root)
        .map_err(|err| Failure::new(format!("{}: {err}; removing it needs root", root.display())))?;
    terminal::print(&poisontrace_report::cli::detached(removed))?;
    Ok(ExitCode::SUCCESS)
}
