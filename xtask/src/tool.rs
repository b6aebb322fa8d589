//! Cargo's tools by other people: each of one version, built below target/ once.

use std::path::PathBuf;

use anyhow::Result;

use xtask_support::command;
use xtask_support::paths::Paths;
use xtask_support::progress::Progress;

/// Where the tool is; built where it is not there yet.
pub fn set_up(paths: &Paths, (name, version): (&str, &str), progress: &Progress) -> Result<PathBuf> {
    // A folder each: the BPF toolchain's is emptied when it is set up anew.
    let folder = paths.target.join("tools-dist").join(format!("{name}-{version}"));
    let program = folder.join("bin").join(name);
    if program.is_file() {
        return Ok(program);
    }
    progress.step(format!("building {name} {version} (some minutes, once)"));
    let mut cargo = command::gently(paths.cargo());
    cargo
        // Its own flags only: the user's may forbid warnings.
        .env_remove("RUSTFLAGS")
        // Crates that two tools share are built once.
        .env("CARGO_TARGET_DIR", paths.target.join("tools-dist/build"))
        // They have little to do: how soon they are built matters more than how fast they are.
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
        .args(["install", name, "--version", version, "--locked", "--root"])
        .arg(&folder);
    let log = paths.target.join("tools-dist").join(format!("{name}.log"));
    command::logged(&mut cargo, &log, &format!("cargo install {name}"))?;
    Ok(program)
}
