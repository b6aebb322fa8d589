//! `cargo xtask lab storm`: one storm from set-up to report, and whether the counts agree.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use lab_contract::storm::StormPlan;
use serde_json::Value;

use crate::builds;
use crate::cli::{Format, StormOptions};
use crate::demo::keep;
use crate::lab::storm::agreement::{Row, compare};
use crate::lab::storm::{StormLab, StormRun, Watch};
use crate::paths::Paths;
use crate::progress::Progress;

/// What --keep copies.
const KEPT: [&str; 7] = [
    "recording.ptrace",
    "explain.json",
    "explain.txt",
    "vmm.json",
    "vmm.log",
    "result.json",
    "host.log",
];

pub fn storm(paths: &Paths, options: &StormOptions, progress: &Progress) -> Result<ExitCode> {
    let daemon = match (&options.daemon, options.no_daemon) {
        (_, true) => None,
        (Some(daemon), false) => Some(daemon.clone()),
        (None, false) => Some(builds::daemon(paths, progress)?),
    };
    let programs = builds::lab_programs(paths, progress)?;
    let lab = StormLab::set_up(paths, &options.lab.kernel, &programs, progress)?;
    let plan = StormPlan {
        mode: options.mode,
        instruction: options.instruction,
        exits: options.exits,
    };
    let name = format!(
        "storm-{}-{}-{}-{}",
        options.lab.kernel,
        options.cpu.name(),
        options.mode,
        options.instruction
    );
    let watch = daemon.as_deref().map(|daemon| Watch {
        daemon,
        read_guest_code: options.read_guest_code,
        check: false,
    });
    let run = lab.run(&name, options.cpu, plan, watch, progress)?;
    progress.finish();
    if let Some(folder) = &options.keep {
        keep(&run.out, &KEPT, folder)?;
    }
    if daemon.is_none() {
        println!("{}", serde_json::to_string_pretty(&run.result)?);
        println!("{}", serde_json::to_string_pretty(&run.counters)?);
        return Ok(ExitCode::SUCCESS);
    }
    answer(&run, options)
}

fn answer(run: &StormRun, options: &StormOptions) -> Result<ExitCode> {
    let read = |name: &str| -> Result<String> {
        let path = run.out.join(name);
        fs::read_to_string(&path).with_context(|| format!("the lab left no {}", path.display()))
    };
    let json = read("explain.json")?;
    let report: Value = serde_json::from_str(&json).with_context(|| no_report(&run.out))?;
    let incidents = report["incidents"].as_array().map_or(0, Vec::len);
    ensure!(
        incidents == 1,
        "{incidents} incidents in place of one; see {}",
        run.out.display()
    );
    let rows = compare(&run.counters, options.mode, &report["incidents"][0]);
    let agreed = rows.iter().all(Row::agrees);
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
            print!("{}", read("explain.txt")?);
            print!("\n{}", table(&rows));
        }
    }
    if agreed {
        return Ok(ExitCode::SUCCESS);
    }
    let names: Vec<&str> = rows
        .iter()
        .filter(|row| !row.agrees())
        .map(|row| row.name)
        .collect();
    eprintln!(
        "error: poisontrace and the VMM do not agree about: {}; files in {}",
        names.join(", "),
        run.out.display()
    );
    Ok(ExitCode::FAILURE)
}

fn no_report(out: &Path) -> String {
    format!(
        "poisontrace explain gave no report; see {}",
        out.join("host.log").display()
    )
}

fn table(rows: &[Row]) -> String {
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
