//! `poisontrace detach`: removes what a daemon that is gone has left attached.

use std::{path::Path, process::ExitCode};

use super::{Failure, Outcome, output};
use crate::pins;

pub fn detach() -> Outcome {
    let root = Path::new(pins::ROOT);
    if pins::in_use(root) {
        return Err(Failure::new(
            "poisontrace is running: stop it first, which detaches its probes too",
        ));
    }
    let removed = pins::detach(root)
        .map_err(|err| Failure::new(format!("{}: {err}; removing it needs root", root.display())))?;
    output::print(&match removed {
        0 => "nothing was pinned\n".to_owned(),
        n => format!("detached: {n} pinned maps and links removed\n"),
    })?;
    Ok(ExitCode::SUCCESS)
}
