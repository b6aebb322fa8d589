//! The scenarios beside the two that are looked at in full: each recording must be explained as what it shows.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use lab_protocol::{FORECAST_FILE, LAST_METRICS};

use crate::tally::Tally;
use lab_harness::run_files::{Files, number};
use lab_harness::scenarios::forecast_check::{self, Row};
use lab_harness::scenarios::story::{Foretold, GUEST_NAME, Story, foretold_of_fate, recording};
use lab_harness::scenarios::{Lab, Run, verdict_check};
use xtask_support::progress::Progress;

/// Those that were seen to pass, in one boot.
pub const ALL: [Story; 11] = [
    Story::KernelAccess,
    Story::CopyFromUser,
    Story::Nested,
    Story::MceOff,
    Story::Broadcast,
    Story::LateDeath,
    Story::HugePage,
    Story::SharedMemory,
    Story::LookAlike,
    Story::Vmms,
    // The last: the memory that it loses stays lost, and daemons after it are armed from the start.
    Story::MachineCheck,
];

const NAME: &str = "lab::scenarios";

pub fn run(stories: &[Story], lab: &Lab, daemon: &Path, tally: &mut Tally, progress: &Progress) {
    let scenario = Story::in_turn(stories);
    let run = match lab.run("test-scenarios", &scenario, daemon, progress) {
        Ok(run) => run,
        Err(error) => return progress.aside(|| tally.check(NAME, "runs", Err(error))),
    };
    let mut rows: Vec<Row> = Vec::new();
    for (name, foretold, prefix, file, guest) in foretold(stories, &scenario.fates) {
        let outcome = verdict_check::incidents(daemon, &run.out.join(file)).and_then(|incidents| {
            let forecast = run.out.join(format!("{prefix}{FORECAST_FILE}"));
            rows.push(forecast_check::row(
                &name, foretold, &forecast, guest, &incidents,
            )?);
            Ok(())
        });
        progress.aside(|| tally.check(NAME, &format!("forecast_of_{name}"), outcome));
    }
    progress.aside(|| print!("{}", forecast_check::table(&rows)));
    for story in stories.iter().filter(|story| **story != Story::Vmms) {
        let prefix = story.prefix();
        let recording = run.out.join(format!("{prefix}recording.ptrace"));
        let outcome = verdict_check::incidents(daemon, &recording)
            .and_then(|incidents| {
                verdict_check::judge(&story.accepted_verdicts(), &incidents)?;
                verdict_check::origin(*story, &incidents)?;
                match story {
                    Story::MachineCheck => verdict_check::rasdaemon(daemon, &run.out, &prefix, &incidents),
                    _ => Ok(()),
                }
            })
            .map_err(|why| why.context(became_of(&run, &prefix)));
        progress.aside(|| tally.check(NAME, story.name(), outcome));
    }
    for fate in scenario.fates {
        let outcome = verdict_check::incidents(daemon, &run.out.join(recording(fate)))
            .and_then(|incidents| verdict_check::of_vmm(fate, &incidents));
        progress.aside(|| tally.check(NAME, fate.name(), outcome));
    }
    if stories.contains(&Story::HugePage) {
        let files = Files { out: &run.out };
        let outcome = totals_full(&files, &Story::HugePage.prefix());
        progress.aside(|| tally.check(NAME, "no_exit_is_lost_where_the_totals_are_full", outcome));
    }
}

/// What was foretold of each, with the prefix of its files, its recording and the VM's name.
fn foretold(
    stories: &[Story],
    fates: &[lab_protocol::vmm_fate::VmmFate],
) -> Vec<(String, Foretold, String, String, Option<&'static str>)> {
    let with_guest = stories.iter().filter(|story| **story != Story::Vmms);
    let of_guests = with_guest.map(|story| {
        let prefix = story.prefix();
        let file = format!("{prefix}recording.ptrace");
        (
            story.name().to_owned(),
            story.foretold(),
            prefix,
            file,
            Some(GUEST_NAME),
        )
    });
    let of_vmms = fates.iter().map(|fate| {
        (
            fate.to_string(),
            foretold_of_fate(*fate),
            format!("{fate}-"),
            recording(*fate),
            None,
        )
    });
    of_guests.chain(of_vmms).collect()
}

/// The last lines of a guest's console and of its VMM's log: all that a remote CI machine shows of a failure.
fn became_of(run: &Run, prefix: &str) -> String {
    const LAST: usize = 12;
    let Some(guest) = run.result.guests.iter().find(|guest| guest.file_prefix == prefix) else {
        return "the lab has no guest of this name".to_owned();
    };
    let text = |name: &str| fs::read_to_string(run.out.join(format!("{prefix}{name}"))).unwrap_or_default();
    let (console, vmm) = (text("console.txt"), text("qemu.log"));
    let lines: Vec<&str> = console.lines().chain(vmm.lines()).collect();
    format!(
        "QEMU {} {:.1} s after the poison; its guest's last words and its own:\n      {}\n    ",
        guest.vmm_end,
        guest
            .poisoned_s
            .map_or(f64::NAN, |poisoned| guest.ended_s - poisoned),
        lines[lines.len().saturating_sub(LAST)..].join("\n      ")
    )
}

/// The guest touched more pages than the kernel's totals had room for: the rest came as records.
fn totals_full(files: &Files, prefix: &str) -> Result<()> {
    let metrics = files.text(&format!("{prefix}{LAST_METRICS}"))?;
    let sum = |series: &str| {
        let lines = metrics.lines().filter(|line| line.starts_with(series));
        lines
            .map(|line| {
                line.rsplit(' ')
                    .next()
                    .and_then(|value| value.parse::<f64>().ok())
            })
            .sum::<Option<f64>>()
            .with_context(|| format!("{series} has no number"))
    };
    let answer = files.json(&format!("{prefix}explain.json"))?;
    let incident = answer["incidents"].get(0).context("no incident")?;
    let exits = number(incident, "/exits/count")?;
    let beside = sum("poisontrace_table_evictions_total{table=\"page_totals\"}")?;
    let counted = sum("poisontrace_poison_exits_total{")?;
    let gpas = incident["page"]["gpas"].as_array().map_or(0, Vec::len);
    ensure!(
        beside > 0.0 && exits > beside && counted == exits,
        "{exits} exits, {counted} in the metrics, {beside} beside the totals; {gpas} pages"
    );
    Ok(())
}
