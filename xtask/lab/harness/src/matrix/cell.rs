//! One kernel on one processor.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use lab_protocol::storm::Storm;
use lab_protocol::{FACTS_FOLDER, PLAN_FILE};
use serde::Serialize;
use serde_json::Value;

use xtask_support::command;
use xtask_support::paths::Paths;
use xtask_support::progress::Progress;

use super::check_output::{Probe, probes};
use crate::Processor;
use crate::scenarios::story::SURVIVE_PREFIX;
use crate::scenarios::{Lab, Story};
use crate::storms::count_check::{Row, compare};
use crate::storms::storm_cases::{POORER, StormCase, WALK, Watch};
use crate::storms::{StormLab, StormRun};

/// The guests' kernel, whatever the host's.
const GUEST: &str = "6.12";

pub struct Bench<'a> {
    pub paths: &'a Paths,
    pub daemon: PathBuf,
    pub programs: PathBuf,
    pub keep: Option<&'a Path>,
    pub progress: &'a Progress,
}

#[derive(Debug, Serialize)]
pub struct Cell {
    pub kernel: String,
    pub release: String,
    pub cpu: &'static str,
    pub probes: Vec<Probe>,
    pub scenarios: Vec<Scenario>,
}

#[derive(Debug, Default, Serialize)]
pub struct Scenario {
    pub name: &'static str,
    /// The emulator of the processor.
    pub emulator: &'static str,
    pub verdict: String,
    pub exits_seen: Option<u64>,
    pub exits_true: Option<u64>,
    /// The first mismatch; `None` where the scenario passed.
    pub wrong: Option<String>,
}

impl Cell {
    pub fn right(&self) -> bool {
        !self.scenarios.is_empty() && self.scenarios.iter().all(|scenario| scenario.wrong.is_none())
    }
}

impl Bench<'_> {
    /// Downloads what the cells of a kernel need.
    pub fn set_up(&self, series: &str, only: Option<Processor>) -> Result<()> {
        if only != Some(Processor::Intel) {
            self.lab(series)?;
        }
        self.storms(series)?;
        Ok(())
    }

    fn lab(&self, series: &str) -> Result<Lab> {
        Lab::set_up(self.paths, series, GUEST, &self.programs, self.progress)
    }

    fn storms(&self, series: &str) -> Result<StormLab> {
        StormLab::set_up(self.paths, series, &self.programs, self.progress)
    }

    /// Runs what the processor can show. QEMU's knows panic and survive with a whole guest, but no exit by CLFLUSH; Bochs'
    /// know the storm, but a whole guest takes them minutes.
    pub fn cell(&self, series: &str, processor: Processor) -> Cell {
        let mut cell = Cell {
            kernel: series.to_owned(),
            release: String::new(),
            cpu: processor.name(),
            probes: Vec::new(),
            scenarios: Vec::new(),
        };
        if processor == Processor::Amd
            && let Err(error) = self.guests(series, &mut cell)
        {
            for name in [Story::Panic, Story::Survive].map(Story::name) {
                cell.scenarios.push(failed(name, "QEMU", &error));
            }
        }
        if let Err(error) = self.storms_of(series, processor, &mut cell) {
            cell.scenarios.push(failed("storm", "Bochs", &error));
        }
        cell
    }

    /// Panic and survive, in one boot.
    fn guests(&self, series: &str, cell: &mut Cell) -> Result<()> {
        self.progress
            .note(format!("matrix: {series}, AMD in QEMU: panic, survive"));
        let name = format!("matrix-{series}-amd");
        let run = self
            .lab(series)?
            .run(&name, &Story::both(), &self.daemon, self.progress)?;
        cell.release.clone_from(&run.result.kernel);
        cell.probes = probes(&read(&run.out, "check.txt")?);
        ensure!(
            run.result.check_exit == Some(0),
            "check: {:?}",
            run.result.check_exit
        );
        self.keep(
            &run.out,
            &name,
            &["check.txt", PLAN_FILE, FACTS_FOLDER, "explain.txt"],
        )?;
        let planned = self.planned(&run.out);
        for (story, prefix) in [(Story::Panic, ""), (Story::Survive, SURVIVE_PREFIX)] {
            let mut scenario = Scenario {
                name: story.name(),
                emulator: "QEMU",
                // The guest's application touches the page once.
                exits_true: Some(1),
                ..Scenario::default()
            };
            let wrong = planned.as_ref().map_err(|error| format!("{error:#}")).err();
            let outcome = report(&run.out, &format!("{prefix}explain.json"))
                .and_then(|incident| judge(&mut scenario, &incident, story.outcome(), story.cause()));
            scenario.wrong = outcome.err().map(|error| format!("{error:#}")).or(wrong);
            cell.scenarios.push(scenario);
        }
        Ok(())
    }

    /// The plan that is made of the host's facts here must be the one that the host made itself.
    fn planned(&self, out: &Path) -> Result<()> {
        let mut check = command::clean(&self.daemon);
        let here = command::output(check.args(["check", "--facts"]).arg(out.join(FACTS_FOLDER)))?;
        let there = read(out, PLAN_FILE)?;
        ensure!(
            here == there,
            "the plan of the stored facts is not the host's: see {}",
            out.display()
        );
        Ok(())
    }

    /// The storm, and the same with less evidence, in one boot.
    fn storms_of(&self, series: &str, processor: Processor, cell: &mut Cell) -> Result<()> {
        self.progress
            .note(format!("matrix: {series}, {} in Bochs: storms", processor.name()));
        let name = format!("matrix-{series}-{}-storm", processor.name());
        let cases = [WALK, POORER[0], POORER[1]];
        let mut storms: Vec<Storm> = cases.iter().map(StormCase::storm).collect();
        // It takes half a minute in Bochs, and QEMU's host has answered it already.
        storms[0].check = cell.probes.is_empty();
        let runs = self
            .storms(series)?
            .run(&name, processor, &storms, Some(&self.daemon), self.progress)?;
        for (storm, run) in cases.iter().zip(runs) {
            let title = title(storm.watch);
            match run.and_then(|run| self.judge_storm(storm, &run, &name, cell)) {
                Ok(scenario) => cell.scenarios.push(scenario),
                Err(error) => cell.scenarios.push(failed(title, "Bochs", &error)),
            }
        }
        Ok(())
    }

    fn judge_storm(
        &self,
        storm: &StormCase,
        run: &StormRun,
        name: &str,
        cell: &mut Cell,
    ) -> Result<Scenario> {
        if cell.probes.is_empty() {
            cell.release.clone_from(&run.result.kernel);
            cell.probes = probes(&read(&run.out, "check.txt")?);
        }
        let kept = format!("{name}/{}", storm.name());
        self.keep(&run.out, &kept, &["check.txt", "explain.txt"])?;
        let mut scenario = Scenario {
            name: title(storm.watch),
            emulator: "Bochs",
            exits_true: Some(run.counters.exits),
            ..Scenario::default()
        };
        let outcome = report(&run.out, "explain.json").and_then(|incident| {
            seen(&mut scenario, &incident);
            storm.holds(run, &incident)?;
            let rows = compare(&run.counters, &incident, storm.watch.hidden());
            let wrong: Vec<&str> = rows
                .iter()
                .filter(|row| !Row::agrees(row))
                .map(|row| row.name)
                .collect();
            ensure!(wrong.is_empty(), "not as the VMM counted: {}", wrong.join(", "));
            Ok(())
        });
        scenario.wrong = outcome.err().map(|error| format!("{error:#}"));
        Ok(scenario)
    }

    fn keep(&self, out: &Path, name: &str, files: &[&str]) -> Result<()> {
        match self.keep {
            Some(keep) => files
                .iter()
                .try_for_each(|file| copy(&out.join(file), &keep.join(name).join(file))),
            None => Ok(()),
        }
    }
}

/// A storm's name in the table.
fn title(watch: Watch) -> &'static str {
    match watch {
        Watch::Plain | Watch::GuestCode => "storm",
        Watch::Tracepoints => "storm, tracepoints",
        Watch::ShadowPaging => "storm, shadow paging",
    }
}

fn failed(name: &'static str, emulator: &'static str, error: &anyhow::Error) -> Scenario {
    Scenario {
        name,
        emulator,
        verdict: "-".to_owned(),
        wrong: Some(format!("{error:#}")),
        ..Scenario::default()
    }
}

fn read(out: &Path, name: &str) -> Result<String> {
    let path = out.join(name);
    fs::read_to_string(&path).with_context(|| format!("the lab left no {}", path.display()))
}

/// The one incident of a report.
fn report(out: &Path, name: &str) -> Result<Value> {
    let report: Value = serde_json::from_str(&read(out, name)?).context("poisontrace gave no report")?;
    let incidents = report["incidents"].as_array().context("no list of incidents")?;
    ensure!(
        incidents.len() == 1,
        "{} incidents in place of one",
        incidents.len()
    );
    Ok(incidents[0].clone())
}

fn seen(scenario: &mut Scenario, incident: &Value) {
    let text = |name: &str| incident[name].as_str().unwrap_or("null").to_owned();
    scenario.verdict = match scenario.name {
        name if name.starts_with("storm") => format!(
            "{}, {}",
            incident["storm"]["kind"].as_str().unwrap_or("null"),
            incident["flush"]["verdict"].as_str().unwrap_or("null")
        ),
        _ => format!("{}, {}", text("outcome"), text("cause")),
    };
    scenario.exits_seen = incident["exits"]["count"].as_u64();
}

fn judge(scenario: &mut Scenario, incident: &Value, outcome: &str, cause: &str) -> Result<()> {
    seen(scenario, incident);
    for (key, wanted) in [("outcome", outcome), ("cause", cause)] {
        ensure!(
            incident[key] == wanted,
            "{key} is {}, not {wanted}",
            incident[key]
        );
    }
    ensure!(
        scenario.exits_seen == scenario.exits_true,
        "{:?} exits seen, not {:?}",
        scenario.exits_seen,
        scenario.exits_true
    );
    let basis = &incident["latency_ns"]["gup_basis"];
    ensure!(basis == "exact", "the gup's share is {basis}, not exact");
    Ok(())
}

/// A file, or a folder with all that is in it. What is not there is left out.
fn copy(from: &Path, to: &Path) -> Result<()> {
    if from.is_dir() {
        for entry in fs::read_dir(from)?.flatten() {
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
    } else if from.is_file() {
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        // Read and written, not copied: the copy gets the permissions of any new file.
        let bytes = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        fs::write(to, bytes).with_context(|| format!("cannot write {}", to.display()))?;
    }
    Ok(())
}
