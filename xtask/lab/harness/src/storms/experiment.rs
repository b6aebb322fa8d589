//! `cargo xtask lab storm`: one storm from set-up to report, and whether the counts agree.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use lab_protocol::daemon_cli::{HOT_PATH, REHEARSE};
use lab_protocol::daemon_lines;
use lab_protocol::storm::{Page, Poison, Storm, StormPlan};
use serde_json::Value;
use xtask_support::paths::Paths;
use xtask_support::progress::Progress;

use super::count_check::{Row, compare};
use super::lab::{StormLab, StormRun};
use super::reports::{KEPT, file, incident};
use super::{dram_check, flush_check, storm_cases, table, timing, two_boots};
use crate::Processor;
use crate::options::{Format, Guest, StormOptions};
use crate::run_files::{keep, timeline_entries};

/// The programs of an experiment, as they were built.
pub struct Programs {
    /// `None`: the VMM runs alone.
    pub daemon: Option<PathBuf>,
    /// The folder of the programs inside the emulated host.
    pub lab: PathBuf,
}

pub fn storm(
    paths: &Paths,
    options: &StormOptions,
    programs: &Programs,
    progress: &Progress,
) -> Result<ExitCode> {
    let daemon = programs.daemon.as_deref();
    if options.guest == Guest::Linux {
        return flush_check::guest(paths, options, daemon, &programs.lab, progress);
    }
    let mut lab = StormLab::set_up(paths, &options.lab.kernel, &programs.lab, progress)?;
    if options.perf {
        lab = lab.with_perf(paths, progress)?;
    }
    if options.all {
        let processors = options
            .cpu
            .map_or(vec![Processor::Intel, Processor::Amd], |cpu| vec![cpu]);
        return table::all(
            &lab,
            &options.lab.kernel,
            &processors,
            daemon,
            options.keep.as_deref(),
            progress,
        );
    }
    let processor = options.cpu.unwrap_or(Processor::Intel);
    let name = format!(
        "storm-{}-{}-{}-{}-{}",
        options.lab.kernel,
        processor.name(),
        options.poison,
        options.mode,
        options.instruction
    );
    let plan = StormPlan {
        mode: options.mode,
        instruction: options.instruction,
        exits: options.exits,
        until_signal: options.kill_daemon > 0,
        sregs2: options.sregs2,
        poison: options.poison,
        page: options.page,
        pinned: options.pinned,
    };
    let mut storms = storm_cases::with_and_without(plan, options.watch(), options.ftrace());
    storms.iter_mut().for_each(|storm| storm.perf = options.perf);
    storms[1].kills = options.kill_daemon;
    storms[1].until_detached = options.until_detached;
    storms[1].look_at_exits = options.until_detached;
    storms[1].check = options.until_detached;
    if let (Some(daemon), Some(when)) = (&mut storms[1].daemon, &options.hot_path) {
        daemon.extend([HOT_PATH.to_owned(), when.clone()]);
    }
    if let (Some(daemon), 1..) = (&mut storms[1].daemon, options.cycles) {
        daemon.extend([REHEARSE.to_owned(), options.cycles.to_string()]);
        storms[1].bystander = true;
        storms[1].look_at_exits = true;
    }
    if options.twice {
        return in_two_boots(&lab, &name, processor, &storms[1], daemon, progress);
    }
    if daemon.is_none() {
        let runs = lab.run(&name, processor, &storms[..1], None, progress)?;
        progress.finish();
        for run in runs {
            let run = run?;
            println!("{}", serde_json::to_string_pretty(&run.result)?);
            println!("{}", serde_json::to_string_pretty(&run.counters)?);
        }
        return Ok(ExitCode::SUCCESS);
    }
    if options.pinned {
        let mut runs = lab.run(&name, processor, &storms[1..], daemon, progress)?;
        progress.finish();
        let run = runs.pop().context("the storm is missing")??;
        return pinned(&run, options);
    }
    let (alone, run) = storm_cases::both(lab.run(&name, processor, &storms, daemon, progress)?)?;
    progress.finish();
    if let Some(folder) = &options.keep {
        keep(&run.out, &KEPT, folder)?;
    }
    answer(&alone, &run, options)
}

/// The VMM dies at once: there are no exits to count.
fn pinned(run: &StormRun, options: &StormOptions) -> Result<ExitCode> {
    if let Some(folder) = &options.keep {
        keep(&run.out, &KEPT, folder)?;
    }
    let (incident, _) = incident(run)?;
    print!("{}", file(run, "explain.txt")?);
    dram_check::pinned(run, &incident).with_context(|| format!("files in {}", run.out.display()))?;
    Ok(ExitCode::SUCCESS)
}

fn in_two_boots(
    lab: &StormLab,
    name: &str,
    processor: Processor,
    storm: &Storm,
    daemon: Option<&Path>,
    progress: &Progress,
) -> Result<ExitCode> {
    ensure!(
        daemon.is_some(),
        "--twice compares poisontrace's reports: leave --no-daemon out"
    );
    let boot = |n: u32| -> Result<Value> {
        let runs = lab.run(
            &format!("{name}-boot-{n}"),
            processor,
            std::slice::from_ref(storm),
            daemon,
            progress,
        )?;
        let run = runs.into_iter().next().context("the storm is missing")??;
        Ok(incident(&run)?.0)
    };
    let pairs = two_boots::compare(&boot(1)?, &boot(2)?)?;
    progress.finish();
    println!(
        "EMULATED: times are counts of instructions.\n\n{}",
        two_boots::HEADING
    );
    pairs.iter().for_each(|pair| println!("{pair}"));
    Ok(match pairs.iter().all(two_boots::Pair::agrees) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn answer(alone: &StormRun, run: &StormRun, options: &StormOptions) -> Result<ExitCode> {
    let (incident, json) = incident(run)?;
    let rows = compare(&run.counters, &incident, options.watch().hidden());
    let times = if options.ftrace() {
        timing::compare(alone, run, &incident)?
    } else {
        Vec::new()
    };
    let reasons = if options.perf {
        timing::reasons(alone, run)?
    } else {
        Vec::new()
    };
    match options.format {
        Format::Json => print!("{json}"),
        Format::Text => {
            println!(
                "EMULATED: this host ran in Bochs, where time is a count of instructions; its times say nothing \
                 about real hardware.\n"
            );
            println!(
                "{}, Linux {}, {} by {}\n",
                run.result.processor, run.result.kernel, options.instruction, options.mode
            );
            print!("{}", file(run, "explain.txt")?);
            print!("\n{}", counts(&rows));
            println!("\n{}", timing::added(&alone.counters, &run.counters));
            println!("{}", witness(run)?);
            if !times.is_empty() {
                println!("\n{}", timing::HEADING);
                times.iter().for_each(|row| println!("{row}"));
            }
            if !reasons.is_empty() {
                println!("\n{}", timing::REASONS);
                reasons.iter().for_each(|row| println!("{row}"));
            }
        }
    }
    if options.poison == Poison::Dram {
        dram_check::holds(run, &incident).with_context(|| format!("files in {}", run.out.display()))?;
    }
    if options.page == Page::Table {
        storm_cases::page_walks(run, &incident).with_context(|| format!("files in {}", run.out.display()))?;
    }
    let mut survived = true;
    if options.kill_daemon > 0 {
        let gaps = timeline_entries(&incident, daemon_lines::RESTARTED);
        eprintln!(
            "\npoisontrace was killed during the storm and started again {} times; the timeline shows {gaps} gaps",
            run.result.killed
        );
        survived = run.result.killed == options.kill_daemon && gaps as u64 == u64::from(options.kill_daemon);
    }
    let left = run.result.left_attached.clone().unwrap_or_default();
    eprintln!(
        "After SIGTERM ({} ms) {} probes and pinned files are left{}",
        run.result.daemon_stop_ms.unwrap_or_default(),
        left.len(),
        left.iter().map(|line| format!("\n  {line}")).collect::<String>()
    );
    let mut gone = left;
    if options.kill_daemon > 0 {
        let pinned = run.result.left_by_death.unwrap_or_default();
        let after = run.result.left_after_detach.clone().unwrap_or_default();
        eprintln!(
            "Killed for good it leaves {pinned}; after `poisontrace detach` {} are left{}",
            after.len(),
            after.iter().map(|line| format!("\n  {line}")).collect::<String>()
        );
        survived &= pinned > 0 && run.result.left_after_detach.is_some();
        gone.extend(after);
    }
    if !survived || !gone.is_empty() {
        eprintln!(
            "error: poisontrace did not outlive its death, or left something behind; files in {}",
            run.out.display()
        );
        return Ok(ExitCode::FAILURE);
    }
    if options.until_detached && !only_while_there_is_poison(run) {
        return Ok(ExitCode::FAILURE);
    }
    let wrong: Vec<&str> = rows
        .iter()
        .filter(|row| !row.agrees())
        .map(|row| row.name)
        .chain(times.iter().filter(|row| !row.agrees()).map(|row| row.name))
        .chain(
            reasons
                .iter()
                .filter(|row| !row.agrees())
                .map(|row| row.name.as_str()),
        )
        .collect();
    if wrong.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!(
        "error: poisontrace and the VMM do not agree about: {}; files in {}",
        wrong.join(", "),
        run.out.display()
    );
    Ok(ExitCode::FAILURE)
}

/// Prints what was attached to the hooks of every exit, and whether nothing was but while there was poison.
fn only_while_there_is_poison(run: &StormRun) -> bool {
    let looks = [
        ("before the poison", &run.result.on_exits_before, false),
        ("after the storm", &run.result.on_exits_after, true),
        ("once it was detached", &run.result.on_exits_detached, false),
    ];
    let mut right = true;
    if let Ok(check) = file(run, "check.txt") {
        eprint!("{check}");
    }
    for (when, found, wanted) in looks {
        let found = found.as_deref().unwrap_or_default();
        eprintln!(
            "On the exits {when}: {}",
            if found.is_empty() {
                "nothing".to_owned()
            } else {
                found.join(", ")
            }
        );
        right &= found.is_empty() != wanted;
    }
    right
}

/// The storm's effect on poisontrace itself.
fn witness(run: &StormRun) -> Result<String> {
    let (before, after) = (run.result.daemon_kib_before, run.result.daemon_kib_after);
    let (before, after) = before
        .zip(after)
        .context("the lab did not look at poisontrace's memory")?;
    let lost: u64 = file(run, "recording.ptrace")?
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter_map(|event| event["event"]["lost"]["records"].as_u64())
        .sum();
    Ok(format!(
        "poisontrace: {before} KiB resident when it was ready, {after} KiB after the storm; {lost} records lost"
    ))
}

fn counts(rows: &[Row]) -> String {
    let mut text = format!("{:25}{:>20}{:>20}\n", "", "VMM's own count", "poisontrace");
    for row in rows {
        let remark = if row.agrees() { "" } else { "  DIFFERENT" };
        text.push_str(&format!(
            "{:25}{:>20}{:>20}{remark}\n",
            row.name, row.vmm, row.poisontrace
        ));
    }
    text
}
