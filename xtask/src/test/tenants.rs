//! Hostile tenants: each attack as a bounded test, its figures printed, in the release build of the tests and with the
//! unit's MemoryMax= and TasksMax= in mind: the tests themselves hold less (128 MiB). What each proves:
//! `daemon/docs/threat-model.md`.

use anyhow::{Context, Result, ensure};

use crate::tally::Tally;
use xtask_support::command;
use xtask_support::paths::Paths;
use xtask_support::progress::Progress;

const NAME: &str = "tenants";
/// Test binaries of the daemon, and those of its unit tests that are attacks.
const TARGETS: [&str; 6] = [
    "tenants",
    "http_abuse",
    "hostile_names",
    "closed_terminal",
    "store_faults",
    "kill",
];
const UNITS: [&str; 7] = [
    "fair::",
    "outputs::",
    "http::",
    "inputs::qmp",
    "inputs::vmm_log",
    "inputs::vm_registry",
    "config::template",
];

pub fn run(paths: &Paths, minutes: Option<u32>, tally: &mut Tally, progress: &Progress) {
    let attacks = attacks(paths, minutes, progress);
    progress.aside(|| tally.check(NAME, "attacks_on_the_daemon", attacks));
    let files = files(paths, progress);
    progress.aside(|| tally.check(NAME, "hostile_files", files));
    let builds = builds_agree(paths, progress);
    progress.aside(|| tally.check(NAME, "debug_and_release_agree", builds));
}

fn test(paths: &Paths, progress: &Progress, arguments: &[&str], variables: &[(&str, String)]) -> Result<()> {
    let mut cargo = command::clean("cargo");
    cargo
        .current_dir(&paths.root)
        .args(["test", "--quiet"])
        .args(arguments)
        .envs(variables.iter().map(|(name, value)| (name, value)));
    let status = progress.aside(|| cargo.status().context("cannot start cargo"))?;
    ensure!(status.success(), "cargo test {} failed", arguments.join(" "));
    Ok(())
}

fn attacks(paths: &Paths, minutes: Option<u32>, progress: &Progress) -> Result<()> {
    progress.step("attacks on the daemon");
    let mut whole = vec!["--package", "poisontrace"];
    whole.extend(TARGETS.iter().flat_map(|target| ["--test", target]));
    whole.extend(["--", "--nocapture", "--test-threads=1"]);
    let seconds = minutes.map(|minutes| {
        (
            "POISONTRACE_TENANTS_SECONDS",
            (u64::from(minutes) * 60).to_string(),
        )
    });
    test(paths, progress, &whole, seconds.as_slice())?;
    let mut units = vec!["--package", "poisontrace", "--lib", "--"];
    units.extend(UNITS);
    test(paths, progress, &units, &[])
}

fn files(paths: &Paths, progress: &Progress) -> Result<()> {
    progress.step("hostile files");
    let import = ["--package", "poisontrace-import", "--lib", "--test", "cost"];
    test(paths, progress, &import, &[])?;
    let explain = ["--package", "poisontrace", "--test", "import", "--", "files::"];
    test(paths, progress, &explain, &[])?;
    test(
        paths,
        progress,
        &[
            "--package",
            "poisontrace-report",
            "--test",
            "stories",
            "--",
            "claims::",
        ],
        &[],
    )
}

/// Overflows panic in debug builds and wrap in release builds: mutated inputs must do neither, and the answers be the same.
fn builds_agree(paths: &Paths, progress: &Progress) -> Result<()> {
    progress.step("10,000 mutated inputs in a debug and in a release build");
    let out = paths.target.join("tenants");
    std::fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    let mut answers = Vec::new();
    for profile in ["dev", "release"] {
        let file = out.join(profile);
        let variables = [
            ("POISONTRACE_MUTATED_INPUTS", "10000".to_owned()),
            ("POISONTRACE_MUTATED_ANSWERS", file.display().to_string()),
        ];
        let arguments = [
            "--profile",
            profile,
            "--package",
            "poisontrace",
            "--test",
            "mutated",
        ];
        test(paths, progress, &arguments, &variables)?;
        answers
            .push(std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?);
    }
    let differs = answers[0]
        .lines()
        .zip(answers[1].lines())
        .position(|(debug, release)| debug != release);
    ensure!(
        differs.is_none(),
        "input {} has another answer in a release build",
        differs.unwrap_or(0)
    );
    ensure!(answers[0] == answers[1], "not as many answers in a release build");
    Ok(())
}
