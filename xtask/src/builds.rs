//! Building the product.

use std::env;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::toolchain;
use xtask_support::command;
use xtask_support::paths::Paths;
use xtask_support::progress::Progress;

const OBJECT_VARIABLE: &str = "POISONTRACE_BPF_OBJECT";
const REVISION_VARIABLE: &str = "POISONTRACE_REVISION";

/// The BPF object: the one that the user names, else our own build of it.
pub fn probes(paths: &Paths, progress: &Progress) -> Result<PathBuf> {
    if let Some(object) = env::var_os(OBJECT_VARIABLE) {
        let object = PathBuf::from(object);
        return std::path::absolute(&object)
            .ok()
            .filter(|path| path.is_file())
            .with_context(|| format!("{OBJECT_VARIABLE} names {}, which is no file", object.display()));
    }
    let toolchain = toolchain::set_up(paths, progress)?;
    progress.step("building the BPF programs");
    let object = paths.bpf_object();
    progress.aside(|| toolchain.build_probes(paths, "bpf", &object))?;
    Ok(object)
}

/// The same programs, empty where they are hot.
pub fn empty_probes(paths: &Paths, progress: &Progress) -> Result<PathBuf> {
    let toolchain = toolchain::set_up(paths, progress)?;
    progress.step("building empty BPF programs");
    let object = paths.bpf_object().with_extension("empty");
    progress.aside(|| toolchain.build_probes(paths, "bpf,empty", &object))?;
    Ok(object)
}

/// What measures the probes on this machine and in the lab, with the same object as the daemon.
pub fn bench_tool(paths: &Paths, object: &Path, progress: &Progress) -> Result<PathBuf> {
    progress.step("building poisontrace-bench");
    // With all that the daemon is built with: its library is then built once.
    let mut cargo = cargo(paths, object);
    cargo.args(["build", "--release", "--package", "poisontrace-bench"]);
    progress.aside(|| command::shown(&mut cargo, "building poisontrace-bench"))?;
    Ok(paths.target.join("release/poisontrace-bench"))
}

/// The BPF object, then the daemon with it inside.
pub fn daemon(paths: &Paths, progress: &Progress) -> Result<PathBuf> {
    daemon_with(paths, &probes(paths, progress)?, progress)
}

pub fn daemon_with(paths: &Paths, object: &Path, progress: &Progress) -> Result<PathBuf> {
    progress.step("building poisontrace");
    let mut cargo = cargo(paths, object);
    cargo.args(["build", "--release", "--package", "poisontrace"]);
    progress.aside(|| command::shown(&mut cargo, "building poisontrace"))?;
    Ok(paths.daemon())
}

/// The same, with the list of its dependencies inside, for scanners (cargo-auditable).
pub fn daemon_auditable(paths: &Paths, object: &Path, auditable: &Path, progress: &Progress) -> Result<()> {
    progress.step("building poisontrace");
    let with_cargo = cargo(paths, object);
    let mut build = command::clean(auditable);
    build
        .current_dir(&paths.root)
        .args(["auditable", "build", "--release", "--package", "poisontrace"]);
    for (name, value) in with_cargo.get_envs() {
        if let Some(value) = value {
            build.env(name, value);
        }
    }
    progress.aside(|| command::shown(&mut build, "building poisontrace"))
}

/// cargo in the workspace, with what the daemon's build asks for: the BPF object and the revision.
pub fn cargo(paths: &Paths, object: &Path) -> Command {
    let mut cargo = command::clean(paths.cargo());
    cargo.current_dir(&paths.root).env(OBJECT_VARIABLE, object);
    // A source archive has no repository: who builds from one names the revision, or it is not known.
    if env::var_os(REVISION_VARIABLE).is_none() {
        let mut git = command::clean("git");
        git.current_dir(&paths.root)
            .args(["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]);
        if let Ok(revision) = command::output(&mut git) {
            cargo.env(REVISION_VARIABLE, revision.trim());
        }
    }
    cargo
}

/// The first processes of the emulated host and of its guest: static, because their initramfs holds nothing else.
pub fn lab_programs(paths: &Paths, progress: &Progress) -> Result<PathBuf> {
    const TARGET: &str = "x86_64-unknown-linux-gnu";
    progress.step("building the lab's programs");
    let mut cargo = command::clean(paths.cargo());
    cargo
        .current_dir(&paths.root)
        .args(["build", "--quiet", "--release", "--target", TARGET])
        .args(["--package", "host-init", "--package", "guest-init"])
        .args(["--package", "storm-vmm", "--package", "scenario-vmm"])
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static");
    progress.aside(|| command::shown(&mut cargo, "building the lab's programs"))?;
    Ok(paths.target.join(TARGET).join("release"))
}

/// All of the workspace's own tests.
pub fn workspace_tests(paths: &Paths, object: &Path) -> Result<bool> {
    let mut cargo = command::clean(paths.cargo());
    cargo
        .current_dir(&paths.root)
        .args(["test", "--workspace"])
        .env(OBJECT_VARIABLE, object);
    Ok(cargo.status().context("cannot start cargo")?.success())
}

/// Becomes the daemon on this host.
pub fn run(paths: &Paths, progress: &Progress, arguments: &[String]) -> Result<()> {
    let daemon = daemon(paths, progress)?;
    progress.finish();
    let error = command::clean(&daemon).arg("run").args(arguments).exec();
    bail!("cannot start {}: {error}", daemon.display())
}
