//! SIGKILL before the poison, while the daemon attaches to the exits, in the middle of a storm, and while it detaches, and another
//! daemon after each: nothing of the counts is missing, the incident is the same one, and its timeline has the gaps.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use lab_protocol::daemon_cli::HOT_PATH;
use lab_protocol::daemon_lines;
use lab_protocol::storm::{Instruction, Mode, State, StormPlan};

use super::storm;
use crate::tally::Tally;
use lab_harness::Processor;
use lab_harness::run_files::{Files, timeline_entries};
use lab_harness::storms::{StormLab, StormRun, storm_cases};
use xtask_support::progress::Progress;

const NAME: &str = "lab::killed";
const KILLS: u32 = 1;
/// And then; an emulated minute passes until the last.
const WHILE: [State; 3] = [State::StandBy, State::Attaching, State::Detaching];
/// The storm outlasts the daemons, however long each takes to be ready again.
const PLAN: StormPlan = StormPlan {
    exits: 100_000,
    until_signal: true,
    ..StormPlan::new(Mode::Swallow, Instruction::Clflush)
};

/// `alone`: of all states.
pub fn run(lab: &StormLab, daemon: &Path, alone: bool, tally: &mut Tally, progress: &Progress) {
    let states = if alone { &WHILE[..] } else { &[] };
    let mut storms = storm_cases::with_and_without(PLAN, storm_cases::Watch::Plain, false);
    let killed = &mut storms[1];
    killed.kills = KILLS;
    killed.kills_while = states.to_vec();
    killed.until_detached = alone;
    killed.look_at_exits = alone;
    if let (Some(daemon), true) = (&mut killed.daemon, alone) {
        daemon.extend([HOT_PATH.to_owned(), "on_poison".to_owned()]);
    }
    let outcome = lab
        .run("test-killed", Processor::Intel, &storms, Some(daemon), progress)
        .and_then(storm_cases::both);
    progress.aside(|| match outcome {
        Ok((_, run)) => examine(&run, states, alone, tally),
        Err(error) => tally.check(NAME, "runs", Err(error)),
    });
}

fn examine(run: &StormRun, states: &[State], alone: bool, tally: &mut Tally) {
    let files = Files { out: &run.out };
    tally.check(
        NAME,
        "daemon_dies_and_is_replaced_in_the_storm",
        in_the_storm(run, states),
    );
    tally.check(NAME, "counts_are_those_of_the_vmm", storm::counts(run, &files));
    tally.check(NAME, "timeline_has_the_gaps", gaps(run, &files));
    if alone {
        tally.check(
            NAME,
            "exits_are_free_again",
            nothing(run.result.on_exits_detached.as_deref()),
        );
    }
    tally.check(
        NAME,
        "sigterm_leaves_nothing_attached",
        nothing(run.result.left_attached.as_deref()),
    );
    tally.check(NAME, "detach_removes_what_a_dead_daemon_left", removed(run));
}

fn in_the_storm(run: &StormRun, states: &[State]) -> Result<()> {
    ensure!(run.result.killed == KILLS, "{} times", run.result.killed);
    ensure!(
        run.result.killed_while == states,
        "besides, {:?}",
        run.result.killed_while
    );
    Ok(())
}

/// One for each daemon that was killed after it had stored the incident. Of one on stand-by there is none yet, and of one that is killed
/// some milliseconds after the poison there may be none: the next begins it, from the records that were left.
fn gaps(run: &StormRun, files: &Files) -> Result<()> {
    let stored = run.result.killed_with_incident;
    ensure!(stored >= KILLS, "{stored} had stored their incident");
    let incident = files.only_incident()?;
    let timeline = incident["timeline"].to_string();
    let gaps = timeline_entries(&incident, daemon_lines::RESTARTED);
    ensure!(
        gaps == stored as usize,
        "{gaps} gaps, and {stored} daemons had stored the incident: {timeline}"
    );
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
