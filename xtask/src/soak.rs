//! `cargo xtask soak`: a mixed load of made-up stories and the lab's recordings through the whole daemon, in its release
//! build, and the floods after it. Loads and what is right of them: `daemon/tests/soak.rs`, `daemon/tests/daemon_floods.rs`.

use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::builds::{self, Profile};
use xtask_support::paths::Paths;
use xtask_support::progress::Progress;

pub fn soak(paths: &Paths, minutes: u32, progress: &Progress) -> Result<ExitCode> {
    let object = builds::probes(paths, progress)?;
    let daemon = builds::daemon_with(paths, &object, Profile::Release, progress)?;
    progress.step("building the load");
    let mut cargo = builds::cargo(paths, &object);
    cargo
        .args([
            "test",
            "--quiet",
            "--package",
            "poisontrace",
            "--test",
            "soak",
            "--test",
            "daemon_floods",
            "--",
            "--nocapture",
            "--test-threads=1",
        ])
        .env("POISONTRACE_UNDER_TEST", daemon)
        .env("POISONTRACE_SOAK_SECONDS", (u64::from(minutes) * 60).to_string());
    let status = progress.aside(|| cargo.status().context("cannot start cargo"))?;
    progress.finish();
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
