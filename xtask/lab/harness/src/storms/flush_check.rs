//! The storm of the LKML thread with a real guest: its console, compared with poisontrace's report.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use lab_protocol::flush::FlushResult;
use serde_json::Value;

use xtask_support::paths::Paths;
use xtask_support::progress::Progress;

use super::linux_guest::{LinuxLab, LinuxRun};
use crate::Processor;
use crate::options::{Format, StormOptions};
use crate::run_files::{expect, keep};

const KEPT: [&str; 7] = [
    "recording.ptrace",
    "explain.json",
    "explain.txt",
    "console.txt",
    "qemu.log",
    "result.json",
    "host.log",
];

/// Functions that the guest flushes in: `clflush_cache_range()` is part of its caller on most kernels.
const FLUSHING: [&str; 2] = ["{clflush_cache_range", "{cpa_flush"];

pub fn guest(
    paths: &Paths,
    options: &StormOptions,
    daemon: Option<&Path>,
    programs: &Path,
    progress: &Progress,
) -> Result<ExitCode> {
    ensure!(
        options.cpu != Some(Processor::Amd),
        "a Linux guest flushes on Intel's processors only: leave --cpu amd out"
    );
    let daemon = daemon.context("--guest linux checks poisontrace's report: leave --no-daemon out")?;
    let lab = LinuxLab::set_up(paths, &options.lab.kernel, programs, progress)?;
    let started = Instant::now();
    let name = format!("storm-{}-linux-guest", options.lab.kernel);
    let run = lab.run(&name, daemon, options.watch().options(), progress)?;
    let took = started.elapsed().as_secs();
    progress.finish();
    if let Some(folder) = &options.keep {
        keep(&run.out, &KEPT, folder)?;
    }
    match options.format {
        Format::Json => print!("{}", read(&run, "explain.json")?),
        Format::Text => {
            println!(
                "EMULATED: this host ran in Bochs, where time is a count of instructions; its times say nothing \
                 about real hardware.\n"
            );
            print!("{}", read(&run, "explain.txt")?);
            println!("\nThe guest's console:");
            let console = read(&run, "console.txt")?;
            last_words(&console).for_each(|line| println!("  {line}"));
            println!("\n{}", times(&run.result, took));
        }
    }
    if let Err(error) = judge(&run, options.read_guest_code) {
        eprintln!("error: {error:#}; files in {}", run.out.display());
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn read(run: &LinuxRun, name: &str) -> Result<String> {
    let path = run.out.join(name);
    let bytes = fs::read(&path).with_context(|| format!("the lab left no {}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn last_words(console: &str) -> impl Iterator<Item = &str> {
    console.lines().filter(|line| {
        ["Hardware Error", "Memory failure", "Kernel panic"]
            .iter()
            .any(|word| line.contains(word))
    })
}

fn times(result: &FlushResult, took: u64) -> String {
    format!(
        "The run took {took} s here. Of the host's own time the guest took {:.1} s to boot, and {:.1} s from the machine check to \
         QEMU's end",
        result.page_ready_s - result.started_s,
        result.ended_s - result.injected_s
    )
}

/// By its console the guest panicked in a flush, and poisontrace reports the same.
pub fn judge(run: &LinuxRun, reads_code: bool) -> Result<()> {
    let report: Value =
        serde_json::from_str(&read(run, "explain.json")?).context("explain printed no JSON")?;
    let console = read(run, "console.txt")?;
    ensure!(
        console.contains("Kernel panic") && FLUSHING.iter().any(|function| console.contains(function)),
        "by its console the guest did not die flushing the page"
    );
    let incidents = report["incidents"].as_array().map_or(0, Vec::len);
    ensure!(incidents == 1, "{incidents} incidents in place of one");
    let incident = &report["incidents"][0];
    let is = |pointer: &str, wanted: Value| expect(incident, pointer, wanted);
    is("/outcome", "guest_panicked".into())?;
    is("/exits/count", 1.into())?;
    is("/exits/line_bitmap", "0x1".into())?;
    is("/signals/action_required", 1.into())?;
    is("/injections/action_required", 1.into())?;
    if reads_code {
        is("/cause", "clflush".into())?;
        is("/confidence", "certain".into())?;
        is("/flush/basis", "instruction_bytes".into())?;
        return is("/flush/verdict", "flush_only".into());
    }
    // One exit of a kernel's at the first line: a flush looks like any read.
    is("/cause", "kernel_access".into())?;
    is("/flush/basis", "single_exit".into())
}
