//! Hostile tenants: each attack as a bounded test, its figures printed. What each proves: `daemon/docs/threat-model.md`.
//!
//! | attacks | on |
//! |---|---|
//! | floods, endpoints, terminals, disks | the pipeline and a daemon that replays, by `cargo test`; memory below 128 MiB |
//! | files | the importers |
//! | poison that a process claims | a daemon at work in this machine's kernel, and in the lab's, under the unit's limits |

mod machine;

use std::path::Path;

use anyhow::{Context, Result, ensure};
use lab_harness::scenarios::story::recording;
use lab_harness::scenarios::{Lab, Story, verdict_check};
use lab_protocol::vmm_fate::VmmFate;

use crate::builds;
use crate::cli::Test;
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
const UNITS: [(&str, &[&str]); 3] = [
    ("poisontrace", &["fair::", "outputs::"]),
    ("poisontrace-http", &[]),
    (
        "poisontrace-sources",
        &[
            "inputs::qmp",
            "inputs::vmm_log",
            "inputs::vm_registry",
            "inputs::path_template",
        ],
    ),
];

pub fn run(paths: &Paths, options: &Test, tally: &mut Tally, progress: &Progress) {
    let attacks = attacks(paths, options.minutes, progress);
    progress.aside(|| tally.check(NAME, "attacks_on_the_daemon", attacks));
    let files = files(paths, progress);
    progress.aside(|| tally.check(NAME, "hostile_files", files));
    let builds = builds_agree(paths, progress);
    progress.aside(|| tally.check(NAME, "debug_and_release_agree", builds));
    if let Err(error) = claims(paths, options, tally, progress) {
        progress.aside(|| tally.check(NAME, "claims", Err(error)));
    }
}

/// Poison that a process claims, to a daemon at work.
fn claims(paths: &Paths, options: &Test, tally: &mut Tally, progress: &Progress) -> Result<()> {
    let programs = builds::lab_programs(paths, progress)?;
    let daemon = builds::daemon(paths, builds::Profile::Dev, progress)?;
    match machine::unavailable() {
        Some(reason) => tally.skip("tenants on this machine", &reason),
        None => {
            for attack in machine::attacks() {
                progress.step(format!("{attack} on this machine"));
                let outcome = machine::attack(&daemon, &programs.join("scenario-vmm"), attack);
                progress.aside(|| {
                    let name = format!("{attack}_on_this_machine");
                    let outcome = outcome.map(|figures| println!("{figures}"));
                    tally.check(NAME, &name, outcome);
                });
            }
        }
    }
    if let Some(reason) = options
        .no_lab
        .then(|| "--no-lab".to_owned())
        .or_else(lab_harness::unavailable)
    {
        tally.skip("tenants in the lab", &reason);
        return Ok(());
    }
    let kernel = &options.lab.kernel;
    let lab = Lab::set_up(paths, kernel, kernel, &programs, progress)?;
    in_the_lab(Before::NothingLost, &lab, &daemon, tally, progress)?;
    in_the_lab(Before::MemoryLost, &lab, &daemon, tally, progress)
}

/// What the lab's host went through before it was attacked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    NothingLost,
    /// A VMM lost a page.
    MemoryLost,
}

fn in_the_lab(
    before: Before,
    lab: &Lab,
    daemon: &Path,
    tally: &mut Tally,
    progress: &Progress,
) -> Result<()> {
    let mut scenario = Story::Vmms.scenario();
    let (name, after) = match before {
        Before::NothingLost => ("test-tenants", ""),
        Before::MemoryLost => ("test-tenants-lost", "_after_a_loss"),
    };
    let loss = (before == Before::MemoryLost).then_some(VmmFate::OwnMemory);
    scenario.fates = loss.into_iter().chain(VmmFate::CLAIMS).collect();
    let run = lab.run(name, &scenario, daemon, progress)?;
    for (fate, (_, end)) in scenario.fates.into_iter().zip(&run.result.fates) {
        let outcome =
            verdict_check::incidents(daemon, &run.out.join(recording(fate))).and_then(|incidents| {
                match (before, loss == Some(fate)) {
                    (Before::MemoryLost, false) => verdict_check::claims_after_a_loss(fate, &incidents),
                    _ => verdict_check::of_vmm(fate, &incidents),
                }?;
                Ok(incidents.len())
            });
        let figures = std::fs::read_to_string(run.out.join(format!("{fate}.figures"))).unwrap_or_default();
        progress.aside(|| {
            let name = format!("{fate}{after}_on_{}", run.result.kernel);
            let outcome =
                outcome.map(|count| println!("{fate}: {count} incidents, {figures}, the VMM {end}"));
            tally.check(NAME, &name, outcome);
        });
    }
    Ok(())
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
    UNITS.into_iter().try_for_each(|(package, modules)| {
        let units = [&["--package", package, "--lib", "--"], modules].concat();
        test(paths, progress, &units, &[])
    })
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
