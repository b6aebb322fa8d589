//! Scenarios in QEMU's host.

use anyhow::Result;
use lab_harness::run_files::Files;
use lab_harness::scenarios::{Lab, Run, Story};
use std::path::Path;
use xtask_support::paths::Paths;
use xtask_support::progress::Progress;

use super::schema::Schema;
use super::{bad_files, control, late, reloads, replay, report, scenarios};
use crate::builds::Built;
use crate::tally::Tally;

const RELOADS: &str = "lab::reload";

/// Panic and survive, looked at in full, and KVM reloaded under the daemon: three boots.
pub fn scenarios(
    paths: &Paths,
    series: &str,
    built: &Built,
    tally: &mut Tally,
    progress: &Progress,
) -> Result<()> {
    let daemon = &built.daemon;
    let lab = Lab::set_up(paths, series, series, &built.programs, progress)?;
    let schema = Schema::read(&paths.root)?;
    for (story, scenario) in [
        (Story::Panic, Story::Panic.scenario()),
        (Story::Survive, Story::Survive.scenario_among_others()),
    ] {
        let name = format!("lab::{}", story.name());
        match lab.run(&format!("test-{}", story.name()), &scenario, daemon, progress) {
            Ok(run) => progress.aside(|| examine(&name, story, &run, daemon, &schema, tally)),
            Err(error) => progress.aside(|| tally.check(&name, "runs", Err(error))),
        }
    }
    let scenario = Story::Panic.scenario_with_reloads();
    match lab.run("test-reloads", &scenario, daemon, progress) {
        Ok(run) => progress.aside(|| {
            let files = Files { out: &run.out };
            report::examine(RELOADS, Story::Panic, &run, &files, tally);
            reloads::examine(RELOADS, &files, &schema, tally);
        }),
        Err(error) => progress.aside(|| tally.check(RELOADS, "runs", Err(error))),
    }
    Ok(())
}

/// The others, in one boot.
pub fn all_scenarios(
    paths: &Paths,
    series: &str,
    built: &Built,
    tally: &mut Tally,
    progress: &Progress,
) -> Result<()> {
    let lab = Lab::set_up(paths, series, series, &built.programs, progress)?;
    scenarios::run(&scenarios::ALL, &lab, &built.daemon, tally, progress);
    Ok(())
}

/// Everything that must hold after a scenario.
fn examine(name: &str, story: Story, run: &Run, daemon: &Path, schema: &Schema, tally: &mut Tally) {
    let files = Files { out: &run.out };
    tally.check(name, "runs", Ok(()));
    report::examine(name, story, run, &files, tally);
    tally.check(
        name,
        "report_follows_the_schema",
        schema.holds(&files, "explain.json"),
    );
    control::examine(&run.result, &files, tally);
    late::examine(&run.result, &files, schema, tally);
    replay::examine(name, &files, daemon, schema, tally);
    // Broken files are refused whatever the scenario: once is enough.
    if story == Story::Panic {
        bad_files::examine(&files, daemon, tally);
    }
}
