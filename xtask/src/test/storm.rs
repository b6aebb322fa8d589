//! One storm of real CLFLUSH on each kind of processor: poisontrace's counts are the VMM's own.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use lab_protocol::storm::{Instruction, LINES, Mode, Poison, Storm, StormPlan};

use super::replay;
use super::schema::Schema;
use crate::tally::Tally;
use lab_harness::Processor;
use lab_harness::run_files::{Files, expect};
use lab_harness::storms::count_check::{Row, compare};
use lab_harness::storms::storm_cases::StormCase;
use lab_harness::storms::{StormLab, StormRun, storm_cases, timing};
use xtask_support::progress::Progress;

/// After the set-up, with nothing else on the machine.
const LIMIT: Duration = Duration::from_secs(180);
const PLAN: StormPlan = StormPlan {
    exits: LINES,
    ..StormPlan::new(Mode::StepOver, Instruction::Clflush)
};

/// In the same boot, after that: poison in DRAM that the guest consumes, and a page table that is lost.
const BESIDE: [StormCase; 2] = [storm_cases::CONSUMED, storm_cases::PAGE_TABLE];

/// Bochs has one thread and a time of its own: both processors run at once.
pub fn run(lab: &StormLab, daemon: &Path, schema: &Schema, tally: &mut Tally, progress: &Progress) {
    let storm = |processor: Processor, progress: &Progress| {
        let folder = format!("test-storm-{}", processor.name());
        let started = Instant::now();
        let mut storms = storm_cases::with_and_without(PLAN, storm_cases::Watch::Plain, true).to_vec();
        storms.extend(BESIDE.iter().map(|case| Storm {
            ftrace: case.poison == Poison::Dram,
            ..case.storm()
        }));
        let outcome = lab
            .run(&folder, processor, &storms, Some(daemon), progress)
            .and_then(|mut runs| {
                let beside = runs.split_off(2);
                storm_cases::both(runs).map(|both| (both, beside))
            });
        (outcome, started.elapsed())
    };
    let beside = progress.beside();
    let (intel, amd) = thread::scope(|scope| {
        let amd = scope.spawn(move || storm(Processor::Amd, &beside));
        let intel = storm(Processor::Intel, progress);
        (intel, amd.join())
    });
    let amd = amd.unwrap_or_else(|_| (Err(anyhow!("the storm's thread panicked")), Duration::ZERO));
    for (processor, (outcome, took)) in [(Processor::Intel, intel), (Processor::Amd, amd)] {
        let name = format!("lab::storm::{}", processor.name());
        progress.aside(|| match outcome {
            Ok(((alone, run), beside)) => {
                tally.check(&name, "runs_within_three_minutes", in_time(took));
                examine(&name, processor, &alone, &run, daemon, schema, tally);
                for (case, run) in BESIDE.iter().zip(beside) {
                    tally.check(
                        &name,
                        &case.name(),
                        run.and_then(|run| examine_beside(case, &alone, &run)),
                    );
                }
            }
            Err(error) => tally.check(&name, "runs_within_three_minutes", Err(error)),
        });
    }
}

fn in_time(took: Duration) -> Result<()> {
    ensure!(took < LIMIT, "it took {} s", took.as_secs());
    Ok(())
}

fn examine(
    name: &str,
    processor: Processor,
    alone: &StormRun,
    run: &StormRun,
    daemon: &Path,
    schema: &Schema,
    tally: &mut Tally,
) {
    let files = Files { out: &run.out };
    tally.check(name, "vmm_walked_the_page", walked(run));
    tally.check(name, "counts_are_those_of_the_vmm", counts(run, &files));
    tally.check(name, "every_line_has_its_exit", every_line(&files));
    tally.check(name, "sums_are_those_of_ftrace", sums(alone, run, &files));
    tally.check(name, "storm_is_a_line_walk_of_flushes_only", flushes_only(&files));
    if processor == Processor::Amd {
        tally.check(name, "bytes_of_the_instruction_tell", by_its_bytes(run, &files));
    }
    tally.check(
        name,
        "report_follows_the_schema",
        schema.holds(&files, "explain.json"),
    );
    tally.check(name, "daemon_stops_cleanly_on_sigterm", stopped(run));
    replay::examine(name, &files, daemon, schema, tally);
}

/// The verdict, the counts of the VMM, and for what was recorded the sums of ftrace: the time of `memory_failure()` is none of
/// an exit on the page.
fn examine_beside(case: &StormCase, alone: &StormRun, run: &StormRun) -> Result<()> {
    let files = Files { out: &run.out };
    case.holds(run, &files.only_incident()?)?;
    counts(run, &files)?;
    if case.poison == Poison::Dram {
        sums(alone, run, &files)?;
    }
    Ok(())
}

fn walked(run: &StormRun) -> Result<()> {
    let counters = &run.counters;
    ensure!(
        counters.finished && counters.exits == LINES && counters.line_bitmap == u64::MAX,
        "the VMM counted {counters:?}"
    );
    Ok(())
}

/// poisontrace's counts are the VMM's.
pub fn counts(run: &StormRun, files: &Files) -> Result<()> {
    let rows = compare(&run.counters, &files.only_incident()?, &[]);
    let wrong: Vec<String> = rows
        .iter()
        .filter(|row| !Row::agrees(row))
        .map(|row| format!("{}: VMM {}, poisontrace {}", row.name, row.vmm, row.poisontrace))
        .collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    Ok(())
}

fn sums(alone: &StormRun, run: &StormRun, files: &Files) -> Result<()> {
    let rows = timing::compare(alone, run, &files.only_incident()?)?;
    let wrong: Vec<String> = rows
        .iter()
        .filter(|row| !row.agrees())
        .map(|row| format!("{}: {:+.0} ns an exit", row.name, row.difference()))
        .collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    Ok(())
}

fn every_line(files: &Files) -> Result<()> {
    let incident = files.only_incident()?;
    expect(&incident, "/exits/count", LINES)?;
    expect(&incident, "/exits/distinct_lines", LINES)?;
    expect(&incident, "/exits/line_bitmap", "0xffffffffffffffff")?;
    expect(&incident, "/exits/distinct_rips", 1)
}

fn flushes_only(files: &Files) -> Result<()> {
    let incident = files.only_incident()?;
    expect(&incident, "/storm/kind", "line_walk")?;
    expect(&incident, "/flush/verdict", "flush_only")
}

/// Decode assists leave no doubt.
fn by_its_bytes(run: &StormRun, files: &Files) -> Result<()> {
    ensure!(
        run.result.decode_assists,
        "the emulated processor has no decode assists"
    );
    let incident = files.only_incident()?;
    expect(&incident, "/flush/basis", "instruction_bytes")?;
    expect(&incident, "/flush/confidence", "certain")?;
    let instruction = incident["flush"]["instruction"].as_str().unwrap_or_default();
    ensure!(
        instruction.starts_with("clflush "),
        "the instruction is {instruction:?}"
    );
    Ok(())
}

fn stopped(run: &StormRun) -> Result<()> {
    let status = run.result.daemon_exit;
    ensure!(status == Some(0), "exit status {status:?}");
    Ok(())
}
