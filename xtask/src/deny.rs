//! cargo-deny, which holds the dependencies against `deny.toml`: built below target/ once.

use std::path::PathBuf;

use anyhow::Result;

use crate::command;
use crate::paths::Paths;
use crate::progress::Progress;
use crate::stamp::{self, Stamp};

const VERSION: &str = "0.20.2";

/// Where it is; built where it is not there yet.
pub fn set_up(paths: &Paths, progress: &Progress) -> Result<PathBuf> {
    let folder = paths.target.join("deny/tool");
    let wanted = vec![format!("cargo-deny {VERSION}")];
    if stamp::read(&folder, &wanted).is_none() {
        stamp::start_over(&folder)?;
        progress.step(format!("building cargo-deny {VERSION} (once)"));
        let mut cargo = command::clean(paths.cargo());
        cargo
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_TARGET_DIR")
            .args([
                "install",
                "cargo-deny",
                "--version",
                VERSION,
                "--locked",
                "--root",
            ])
            .arg(&folder);
        command::logged(
            &mut cargo,
            &folder.join("install.log"),
            "cargo install cargo-deny",
        )?;
        let installed = wanted.clone();
        stamp::write(&folder, &Stamp { wanted, installed })?;
    }
    Ok(folder.join("bin/cargo-deny"))
}

/// One of cargo-deny's checks, without the network.
///
/// # Errors
/// With what it has to say against the dependencies.
pub fn check(paths: &Paths, tool: &PathBuf, what: &str) -> Result<()> {
    let mut deny = command::clean(tool);
    deny.current_dir(&paths.root).args([
        "--offline",
        "--color",
        "never",
        "check",
        "--hide-inclusion-graph",
        what,
    ]);
    let log = paths.target.join("deny").join(format!("{what}.log"));
    command::logged(&mut deny, &log, &format!("cargo deny check {what}"))
}
