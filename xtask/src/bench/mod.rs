//! `cargo xtask bench`: what poisontrace costs.

mod this_machine;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use lab_protocol::bench::Kind;

use lab_harness::exit_costs::table::Cost;
use lab_harness::exit_costs::{Built, Lab, Options};
use lab_harness::{Processor, options};
use xtask_support::paths::Paths;
use xtask_support::progress::Progress;

use crate::builds::{self, Profile};
use crate::cli::{BenchOptions, BenchPart};

/// As many as suffice where time is a count of instructions.
const QUICK_EXITS: u32 = 7680;

pub fn bench(paths: &Paths, options: &BenchOptions, progress: &Progress) -> Result<ExitCode> {
    let wanted = |part| match options.quick {
        true => part == BenchPart::Exits,
        false => options.part.is_empty() || options.part.contains(&part),
    };
    let here: Vec<BenchPart> = [BenchPart::Programs, BenchPart::Pipeline, BenchPart::Idle]
        .into_iter()
        .filter(|part| wanted(*part))
        .collect();
    if !here.is_empty() {
        this_machine::measure(paths, &here, &paths.target.join("bench"), progress)?;
    }
    if !wanted(BenchPart::Exits) {
        return Ok(ExitCode::SUCCESS);
    }
    let costs = exits(paths, options, progress)?;
    let worse = match options.quick {
        true => compare(&committed(paths), &costs)?,
        false => Vec::new(),
    };
    for what in &worse {
        eprintln!("error: dearer than the committed table: {what}");
    }
    Ok(if worse.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The costs that `--quick` finds above the committed table.
pub fn dearer(paths: &Paths, lab: &options::LabOptions, progress: &Progress) -> Result<Vec<String>> {
    let costs = exits(paths, &BenchOptions::quick(lab), progress)?;
    compare(&committed(paths), &costs)
}

fn exits(paths: &Paths, options: &BenchOptions, progress: &Progress) -> Result<Vec<Cost>> {
    let peers = !options.no_peers && !options.quick;
    let built = built(paths, options, progress)?;
    let lab = Lab::set_up(paths, &options.lab.kernel, built, peers, progress)?;
    let mut costs = Vec::new();
    for processor in [Processor::Intel, Processor::Amd] {
        if options.cpu.is_some_and(|cpu| cpu != processor) || (options.quick && processor == Processor::Amd) {
            continue;
        }
        let measure = Options {
            exits: if options.quick { QUICK_EXITS } else { options.exits },
            kinds: &Kind::ALL,
            only: &options.only,
        };
        let run = lab.measure(paths, processor, &measure, progress)?;
        progress.finish();
        let cost = Cost::of(&run);
        println!("EMULATED: time is a count of instructions.\n{}", cost.markdown());
        for ended in &run.result.ended {
            let left = ended
                .left
                .map_or_else(String::new, |bytes| format!(", left {bytes} bytes"));
            println!("{}: {}{left}", ended.step, ended.end);
        }
        costs.push(cost);
    }
    println!("peers: {}", lab.versions().join(", "));
    keep(&paths.target.join("bench"), &costs)?;
    Ok(costs)
}

fn built(paths: &Paths, options: &BenchOptions, progress: &Progress) -> Result<Built> {
    let empty = builds::empty_probes(paths, progress)?;
    let (daemon, built_in) = match options.object {
        Some(_) => (paths.release_daemon(), paths.bpf_object()),
        None => {
            let object = builds::probes(paths, progress)?;
            (
                builds::daemon_with(paths, &object, Profile::Release, progress)?,
                object,
            )
        }
    };
    Ok(Built {
        daemon,
        empty,
        object: options.object.clone().unwrap_or_else(|| built_in.clone()),
        in_place_of_daemon: options.object.is_some(),
        tool: builds::bench_tool(paths, &built_in, progress)?,
        programs: builds::lab_programs(paths, progress)?,
    })
}

/// The table that --quick compares with; a full run leaves its successor in target/bench.
fn committed(paths: &Paths) -> PathBuf {
    paths.root.join("xtask/bench/cost.json")
}

fn keep(folder: &Path, costs: &[Cost]) -> Result<()> {
    fs::create_dir_all(folder)?;
    let markdown: Vec<String> = costs.iter().map(Cost::markdown).collect();
    for (name, text) in [
        ("cost.json", serde_json::to_string_pretty(costs)? + "\n"),
        ("cost.md", markdown.join("\n")),
    ] {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("written: {}", path.display());
    }
    Ok(())
}

fn compare(table: &Path, costs: &[Cost]) -> Result<Vec<String>> {
    let text = fs::read_to_string(table).with_context(|| format!("cannot read {}", table.display()))?;
    let committed: Vec<Cost> =
        serde_json::from_str(&text).with_context(|| format!("{} is not readable", table.display()))?;
    let mut worse = Vec::new();
    for cost in costs {
        let before = committed.iter().find(|before| before.processor == cost.processor);
        let before = before.with_context(|| format!("{} has no {}", table.display(), cost.processor))?;
        worse.extend(cost.worse_than(before));
    }
    Ok(worse)
}
