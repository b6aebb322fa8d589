//! SIGKILL in the middle of a storm, and another daemon after it: nothing of the counts is missing, the incident is the
//! same one, and its timeline has the gap.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use lab_protocol::daemon_lines;
use lab_protocol::storm::{Instruction, Mode, StormPlan};

use super::storm;
use crate::tally::Tally;
use lab_harness::Processor;
use lab_harness::run_files::{Files, timeline_entries};
use lab_harness::storms::{StormLab, StormRun, storm_cases};
use xtask_support::progress::Progress;

const NAME: &str = "lab::killed";
const KILLS: u32 = 1;
/// Longer than a daemon takes to be ready again.
const PLAN: StormPlan = StormPlan {
    exits: 100_000,
    ..StormPlan::new(Mode::Swallow, Instruction::Clflush)
};

pub fn run(lab: &StormLab, daemon: &Path, tally: &mut Tally, progress: &Progress) {
    let mut storms = storm_cases::with_and_without(PLAN, storm_cases::Watch::Plain, false);
    storms[1].kills = KILLS;
    let outcome = lab
        .run("test-killed", Processor::Intel, &storms, Some(daemon), progress)
        .and_then(storm_cases::both);
    progress.aside(|| match outcome {
        Ok((_, run)) => examine(&run, tally),
        Err(error) => tally.check(NAME, "runs", Err(error)),
    });
}

fn examine(run: &StormRun, tally: &mut Tally) {
    let files = Files { out: &run.out };
    tally.check(
        NAME,
        "daemon_dies_and_is_replaced_in_the_storm",
        in_the_storm(run),
    );
    tally.check(NAME, "counts_are_those_of_the_vmm", storm::counts(run, &files));
    tally.check(NAME, "timeline_has_the_gap", gap(&files));
    tally.check(
        NAME,
        "sigterm_leaves_nothing_attached",
        nothing(run.result.left_attached.as_deref()),
    );
    tally.check(NAME, "detach_removes_what_a_dead_daemon_left", removed(run));
}

fn in_the_storm(run: &StormRun) -> Result<()> {
    ensure!(run.result.killed == KILLS, "{} times", run.result.killed);
    Ok(())
}

fn gap(files: &Files) -> Result<()> {
    let incident = files.only_incident()?;
    let timeline = incident["timeline"].to_string();
    let gaps = timeline_entries(&incident, daemon_lines::RESTARTED);
    ensure!(gaps == KILLS as usize, "{gaps} gaps: {timeline}");
    ensure!(
        timeline.contains(daemon_lines::PROBES_STAYED),
        "the timeline does not report the state of the probes: {timeline}"
    );
    Ok(())
}

fn nothing(left: Option<&[String]>) -> Result<()> {
    let left = left.context("nobody looked")?;
    ensure!(left.is_empty(), "{}", left.join(", "));
    Ok(())
}

fn removed(run: &StormRun) -> Result<()> {
    ensure!(
        run.result.left_by_death.unwrap_or(0) > 0,
        "a dead daemon left nothing"
    );
    nothing(run.result.left_after_detach.as_deref())
}
