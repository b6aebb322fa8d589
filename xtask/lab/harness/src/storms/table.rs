//! `cargo xtask lab storm --all`: every kind of storm, in one boot a processor, and a table of the verdicts.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use lab_protocol::storm::MISSING_INSTRUCTION;
use serde_json::Value;

use xtask_support::progress::Progress;

use super::count_check::{Row, compare};
use super::lab::{StormLab, StormRun};
use super::reports::{KEPT, incident};
use super::storm_cases::{self, StormCase};
use crate::Processor;
use crate::run_files::keep;

pub fn all(
    lab: &StormLab,
    series: &str,
    processors: &[Processor],
    daemon: Option<&Path>,
    kept: Option<&Path>,
    progress: &Progress,
) -> Result<ExitCode> {
    ensure!(
        daemon.is_some(),
        "--all checks poisontrace's reports: leave --no-daemon out"
    );
    let cases = storm_cases::all();
    let storms: Vec<_> = cases.iter().map(StormCase::storm).collect();
    let mut lines = Vec::new();
    let mut wrong = 0;
    for processor in processors {
        let name = format!("storms-{series}-{}", processor.name());
        let runs = lab.run(&name, *processor, &storms, daemon, progress)?;
        for (case, run) in cases.iter().zip(runs) {
            if let (Some(folder), Ok(run)) = (kept, &run) {
                keep(&run.out, &KEPT, &folder.join(processor.name()).join(case.name()))?;
            }
            let (line, good) = describe(*processor, case, run);
            wrong += usize::from(!good);
            lines.push(line);
        }
    }
    progress.finish();
    println!(
        "EMULATED: times are counts of instructions and say nothing about real hardware. Linux {series}\n"
    );
    println!(
        "{:6}{:30}{:>12}  {:15}{:18}{:18}{:10}{:>8}{:>7}  ",
        "", "storm", "exits, lines", "storm", "flush", "basis", "", "63 in", "gup"
    );
    lines.iter().for_each(|line| println!("{line}"));
    println!("\n{} of {} are as they must be", lines.len() - wrong, lines.len());
    Ok(if wrong == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn describe(processor: Processor, case: &StormCase, run: Result<StormRun>) -> (String, bool) {
    let head = format!("{:6}{:30}", processor.name(), case.name());
    let outcome = run.and_then(|run| {
        let (incident, _) = incident(&run)?;
        Ok((judge(case, &run, &incident), incident))
    });
    match outcome {
        Ok((Ok(()), incident)) => (format!("{head}{}", summary(&incident)), true),
        Ok((Err(error), incident)) => (format!("{head}{}  WRONG: {error:#}", summary(&incident)), false),
        // A processor without the instruction has no such storm.
        Err(error) if format!("{error:#}").contains(MISSING_INSTRUCTION) => {
            (format!("{head}  not run: {error:#}"), true)
        }
        Err(error) => (format!("{head}  FAILED: {error:#}"), false),
    }
}

fn judge(case: &StormCase, run: &StormRun, incident: &Value) -> Result<()> {
    let rows = compare(&run.counters, incident, case.watch.hidden());
    let wrong = rows.iter().find(|row| !Row::agrees(row));
    if let Some(row) = wrong {
        anyhow::bail!("{}: VMM {}, poisontrace {}", row.name, row.vmm, row.poisontrace);
    }
    case.holds(run, incident).context("the report")
}

fn summary(incident: &Value) -> String {
    let word = |pointer: &str| incident.pointer(pointer).and_then(Value::as_str).unwrap_or("-");
    let number = |pointer: &str| incident.pointer(pointer).and_then(Value::as_u64);
    let micros = number("/latency_ns/claim_63_exits/in_kernel_ns")
        .map_or_else(|| "-".to_owned(), |ns| format!("{} µs", ns / 1000));
    let gup = incident["latency_ns"]["gup_share"]
        .as_f64()
        .map_or_else(|| "-".to_owned(), |share| format!("{:.0} %", share * 100.0));
    format!(
        "{:>8},{:>3}  {:15}{:18}{:18}{:10}{micros:>8}{gup:>7}",
        number("/exits/count").unwrap_or(0),
        number("/exits/distinct_lines").unwrap_or(0),
        word("/storm/kind"),
        word("/flush/verdict"),
        word("/flush/basis"),
        word("/flush/confidence"),
    )
}
