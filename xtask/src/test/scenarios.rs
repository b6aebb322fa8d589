//! The scenarios beside the two that are looked at in full: each recording must be explained as what it shows.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use lab_contract::LAST_METRICS;

use super::files::{Files, number};
use super::tally::Tally;
use crate::demo::recording;
use crate::lab::scenarios::{Story, of_fate};
use crate::lab::{Lab, explained};
use crate::progress::Progress;

/// Those that were seen to pass, in one boot.
pub const ALL: [Story; 10] = [
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
];

const NAME: &str = "lab::scenarios";

pub fn run(stories: &[Story], lab: &Lab, daemon: &Path, tally: &mut Tally, progress: &Progress) {
    let scenario = Story::in_turn(stories);
    let run = match lab.run("test-scenarios", &scenario, daemon, progress) {
        Ok(run) => run,
        Err(error) => return progress.aside(|| tally.check(NAME, "runs", Err(error))),
    };
    let mut verdict = |what: &str, file: &str, told| {
        let outcome = explained::incidents(daemon, &run.out.join(file))
            .and_then(|incidents| explained::judge(told, &incidents));
        progress.aside(|| tally.check(NAME, what, outcome));
    };
    for story in stories.iter().filter(|story| **story != Story::Vmms) {
        let file = format!("{}recording.ptrace", story.prefix());
        verdict(story.name(), &file, story.told());
    }
    for fate in scenario.fates {
        verdict(fate.name(), &recording(fate), of_fate(fate));
    }
    if stories.contains(&Story::HugePage) {
        let files = Files { out: &run.out };
        let outcome = totals_full(&files, &Story::HugePage.prefix());
        progress.aside(|| tally.check(NAME, "no_exit_is_lost_where_the_totals_are_full", outcome));
    }
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
    let beside = sum("poisontrace_table_dropped_total{table=\"page_totals\"}")?;
    let counted = sum("poisontrace_poison_exits_total{")?;
    let gpas = incident["page"]["gpas"].as_array().map_or(0, Vec::len);
    ensure!(
        beside > 0.0 && exits > beside && counted == exits,
        "{exits} exits, {counted} in the metrics, {beside} beside the totals; {gpas} pages"
    );
    Ok(())
}
