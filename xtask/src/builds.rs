//! Building the product.

use std::env;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, bail};

use crate::toolchain;
use xtask_support::command;
use xtask_support::paths::Paths;
use xtask_support::progress::Progress;

const OBJECT_VARIABLE: &str = "POISONTRACE_BPF_OBJECT";
const REVISION_VARIABLE: &str = "POISONTRACE_REVISION";

/// How the daemon is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Cargo's dev profile, in which the tests are built too: demo, tests and experiments build each crate once.
    Dev,
    /// As it is shipped and measured.
    Release,
}

/// Cargo unifies features over the selected packages and, where a test is built, their dev-dependencies. With the
/// selection of `cargo test --workspace`, and its smallest test, the tests take over what is built for the daemon.
const AS_FOR_TESTS: [&str; 4] = ["--workspace", "--bin=poisontrace", "--test", "protocol_names"];

impl Profile {
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Dev => &AS_FOR_TESTS,
            Self::Release => &["--release", "--package", "poisontrace"],
        }
    }

    pub fn daemon(self, paths: &Paths) -> PathBuf {
        match self {
            Self::Dev => paths.lab_daemon(),
            Self::Release => paths.release_daemon(),
        }
    }
}

/// The BPF object: the one that the user names, else our own build of it.
pub fn probes(paths: &Paths, progress: &Progress) -> Result<PathBuf> {
    if let Some(object) = env::var_os(OBJECT_VARIABLE) {
        let object = PathBuf::from(object);
        return std::path::absolute(&object)
            .ok()
            .filter(|path| path.is_file())
            .with_context(|| format!("{OBJECT_VARIABLE} names {}, which is no file", object.display()));
    }
    let toolchain = progress.task("BPF toolchain", || toolchain::set_up(paths, progress))?;
    progress.step(format!(
        "building the BPF programs by {}",
        toolchain.description()
    ));
    let object = paths.bpf_object();
    progress.task("BPF programs", || toolchain.build_probes(paths, "bpf", &object))?;
    Ok(object)
}

/// The same programs, empty where they are hot.
pub fn empty_probes(paths: &Paths, progress: &Progress) -> Result<PathBuf> {
    let toolchain = toolchain::set_up(paths, progress)?;
    progress.step("building empty BPF programs");
    let object = paths.bpf_object().with_extension("empty");
    toolchain.build_probes(paths, "bpf,empty", &object)?;
    Ok(object)
}

/// The program that measures the probes on this machine and in the lab, with the daemon's object.
pub fn bench_tool(paths: &Paths, object: &Path, progress: &Progress) -> Result<PathBuf> {
    progress.step("building poisontrace-bench");
    // With the daemon's environment: its library is then built once.
    let mut cargo = cargo(paths, object);
    cargo.args(["build", "--release", "--package", "poisontrace-bench"]);
    command::shown(&mut cargo, "building poisontrace-bench")?;
    Ok(paths.target.join("release/poisontrace-bench"))
}

/// The BPF object, then the daemon with it inside.
pub fn daemon(paths: &Paths, profile: Profile, progress: &Progress) -> Result<PathBuf> {
    daemon_with(paths, &probes(paths, progress)?, profile, progress)
}

pub fn daemon_with(paths: &Paths, object: &Path, profile: Profile, progress: &Progress) -> Result<PathBuf> {
    progress.step("building poisontrace");
    let mut cargo = cargo(paths, object);
    cargo.args(["build", "--quiet"]).args(profile.arguments());
    progress.task("poisontrace", || {
        command::shown(&mut cargo, "building poisontrace")
    })?;
    Ok(profile.daemon(paths))
}

/// The programs of the lab, built in the dev profile.
pub struct Built {
    pub object: PathBuf,
    pub daemon: PathBuf,
    /// The folder of the programs inside the emulated host.
    pub programs: PathBuf,
}

/// Builds the daemon and the lab's programs; `beside` runs meanwhile, as downloads do.
///
/// Where there is no BPF object yet, the crates that the daemon depends on are compiled while the BPF toolchain is
/// downloaded.
pub fn for_the_lab<T: Send>(
    paths: &Paths,
    progress: &Progress,
    beside: impl FnOnce(&Progress) -> Result<T> + Send,
) -> Result<(Built, T)> {
    // A machine that lacks something learns that before a minute of building.
    if env::var_os(OBJECT_VARIABLE).is_none() {
        toolchain::possible()?;
    }
    thread::scope(|scope| {
        let [downloads, crates] = [progress.beside(), progress.beside()];
        let beside = scope.spawn(move || beside(&downloads));
        let programs = scope.spawn(move || {
            let programs = lab_programs(paths, &crates)?;
            if env::var_os(OBJECT_VARIABLE).is_none() && !paths.bpf_object().is_file() {
                dependencies(paths, &crates);
            }
            anyhow::Ok(programs)
        });
        let object = probes(paths, progress);
        let programs = joined(programs)?;
        let object = object?;
        let daemon = daemon_with(paths, &object, Profile::Dev, progress)?;
        let built = Built {
            object,
            daemon,
            programs,
        };
        progress.step("waiting for the packages of the lab");
        Ok((built, joined(beside)?))
    })
}

/// The result of a thread that does not panic.
pub fn joined<T>(thread: thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    match thread.join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Compiles the crates that the daemon depends on. Without the BPF object the build script of its sources fails, which
/// `--keep-going` leaves to the end; its status is of no interest.
fn dependencies(paths: &Paths, progress: &Progress) {
    progress.step("building the crates that poisontrace depends on");
    let mut cargo = cargo(paths, &paths.bpf_object());
    cargo.args(["build", "--keep-going"]).args(AS_FOR_TESTS);
    let log = paths.target.join("log/dependencies.log");
    progress.task("crates that poisontrace depends on", || {
        command::logged(&mut cargo, &log, "building the dependencies").ok()
    });
}

/// The same, with the list of its dependencies inside, for scanners (cargo-auditable).
pub fn daemon_auditable(paths: &Paths, object: &Path, auditable: &Path, progress: &Progress) -> Result<()> {
    progress.step("building poisontrace");
    let with_cargo = cargo(paths, object);
    let mut build = command::clean(auditable);
    build.current_dir(&paths.root).args([
        "auditable",
        "build",
        "--release",
        "--quiet",
        "--package",
        "poisontrace",
    ]);
    for (name, value) in with_cargo.get_envs() {
        if let Some(value) = value {
            build.env(name, value);
        }
    }
    progress.task("poisontrace for the packages", || {
        command::shown(&mut build, "building poisontrace")
    })
}

/// cargo in the workspace, with the environment of the daemon's build: the BPF object and the revision.
pub fn cargo(paths: &Paths, object: &Path) -> Command {
    with_environment(command::clean(paths.cargo()), paths, object)
}

fn with_environment(mut cargo: Command, paths: &Paths, object: &Path) -> Command {
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

/// The first processes of the emulated host and of its guest, and the VMMs: static, because their initramfs holds
/// nothing else.
pub fn lab_programs(paths: &Paths, progress: &Progress) -> Result<PathBuf> {
    const TARGET: &str = "x86_64-unknown-linux-gnu";
    progress.step("building the lab's programs");
    let mut cargo = command::clean(paths.cargo());
    cargo
        .current_dir(&paths.root)
        .args(["build", "--quiet", "--target", TARGET])
        .args(["--package", "host-init", "--package", "guest-init"])
        .args(["--package", "storm-vmm", "--package", "scenario-vmm"])
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static");
    progress.task("programs of the lab", || {
        command::shown(&mut cargo, "building the lab's programs")
    })?;
    Ok(paths.target.join(TARGET).join("debug"))
}

/// All of the workspace's own tests: built, and run unless `no_run`.
pub fn workspace_tests(paths: &Paths, object: &Path, no_run: bool) -> Result<bool> {
    let program = if no_run {
        command::gently(paths.cargo())
    } else {
        command::clean(paths.cargo())
    };
    let mut cargo = with_environment(program, paths, object);
    cargo.args(["test", "--workspace", "--no-fail-fast"]);
    if no_run {
        cargo.args(["--quiet", "--no-run"]);
    }
    Ok(cargo.status().context("cannot start cargo")?.success())
}

/// Becomes the daemon on this host.
pub fn run(paths: &Paths, progress: &Progress, arguments: &[String]) -> Result<()> {
    let daemon = daemon(paths, Profile::Release, progress)?;
    progress.finish();
    let error = command::clean(&daemon).arg("run").args(arguments).exec();
    bail!("cannot start {}: {error}", daemon.display())
}
