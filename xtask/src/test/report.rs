//! The report of `poisontrace explain --last` on a scenario.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::tally::Tally;
use lab_harness::run_files::{Files, expect, number};
use lab_harness::scenarios::Run;
use lab_harness::scenarios::story::{GUEST_NAME, GUEST_UUID, Story};
use lab_protocol::daemon_lines::PROBES_ARMED;
use lab_protocol::{GUEST_ALIVE, GUEST_APPLICATION_KILLED, GUEST_PAGE_READY, GuestResult};

/// The bank's MISC as QEMU writes it: a physical address, of 2^12 bytes.
const MISC: &str = "0x8c";

pub fn examine(name: &str, story: Story, run: &Run, files: &Files, tally: &mut Tally) {
    tally.check(
        name,
        "kernel_can_give_a_verdict",
        exits_with(run.result.check_exit, 0),
    );
    tally.check(
        name,
        "daemon_stops_cleanly_on_sigterm",
        exits_with(run.result.daemon_exit, 0),
    );
    tally.check(name, "guest_says_what_became_of_it", guest_words(story, files));
    tally.check(
        name,
        "probes_log_at_debug",
        files.contains("host.log", PROBES_ARMED),
    );
    let Some(guest) = run
        .result
        .guests
        .iter()
        .find(|guest| guest.file_prefix.is_empty())
    else {
        tally.check(
            name,
            "guest_ran",
            Err(anyhow::anyhow!("the lab's result has no such guest")),
        );
        return;
    };
    tally.check(name, "explain_succeeds", exits_with(guest.explain_exit, 0));
    let report = match files.json("explain.json") {
        Ok(report) => report,
        Err(error) => return tally.check(name, "explain_prints_json", Err(error)),
    };
    tally.check(name, "one_incident", one_incident(&report, files));
    tally.check(name, "outcome_and_cause", outcome(story, &report));
    tally.check(name, "page_is_the_poisoned_one", page(&report, guest, files));
    tally.check(name, "guest_is_named", named(&report));
    tally.check(name, "poison_exits_and_latency", exits(&report));
    tally.check(name, "one_signal_of_each_kind", signals(&report));
    tally.check(name, "guest_got_two_machine_checks", injections(&report, guest));
    tally.check(name, "vmm_was_heard", heard(&report));
}

/// The VMM's own log of both injections, and one QMP event at least: events before the session are missing.
fn heard(report: &Value) -> Result<()> {
    let timeline = report["incidents"][0]["timeline"]
        .as_array()
        .context("there is no timeline")?;
    let log = format!("{GUEST_NAME}.log");
    for (source, words) in [
        (log.as_str(), "action optional"),
        (log.as_str(), "action required"),
        ("QMP", "QMP"),
    ] {
        let logged = timeline.iter().any(|entry| {
            let message = entry["message"].as_str().unwrap_or_default();
            entry["source"] == source && message.contains(words)
        });
        ensure!(logged, "the timeline has no {words} of {source}");
    }
    Ok(())
}

fn exits_with(found: Option<i32>, wanted: i32) -> Result<()> {
    let found = found.context("it did not exit in time, or by a signal")?;
    ensure!(found == wanted, "exit status {found}, expected {wanted}");
    Ok(())
}

fn guest_words(story: Story, files: &Files) -> Result<()> {
    match story {
        Story::Panic => {
            files.contains(
                "console.txt",
                "Overflowed uncorrected error without MCA Overflow Recovery",
            )?;
            files.contains("console.txt", "Kernel panic - not syncing")
        }
        Story::Survive => {
            files.contains("console.txt", GUEST_APPLICATION_KILLED)?;
            files.contains("console.txt", GUEST_ALIVE)
        }
        _ => Ok(()),
    }
}

fn one_incident(report: &Value, files: &Files) -> Result<()> {
    let count = report["incidents"]
        .as_array()
        .context("there is no list of incidents")?
        .len();
    ensure!(count == 1, "the report has {count} incidents");
    let listed = super::control::listed(&files.json("incidents.json")?)?;
    ensure!(listed == 1, "poisontrace incidents lists {listed}");
    expect(report, "/host/emulated", true)
}

fn outcome(story: Story, report: &Value) -> Result<()> {
    let verdict = story.verdict().context("this story has no incident")?;
    expect(report, "/incidents/0/outcome", verdict.outcome)?;
    expect(report, "/incidents/0/cause", verdict.cause)
}

fn page(report: &Value, guest: &GuestResult, files: &Files) -> Result<()> {
    let gpa = gpa(guest)?;
    files.contains("console.txt", &format!("{GUEST_PAGE_READY}{gpa}"))?;
    files.contains("qemu.log", &format!("GUEST addr {gpa}"))?;
    expect(report, "/incidents/0/page/gpa", gpa)?;
    let pfn = guest.pfn.context("the lab poisoned no page")?;
    expect(report, "/incidents/0/page/pfn", format!("{pfn:#x}"))
}

fn gpa(guest: &GuestResult) -> Result<String> {
    guest
        .gpa
        .map(|gpa| format!("{gpa:#x}"))
        .context("the guest named no page")
}

fn named(report: &Value) -> Result<()> {
    expect(report, "/incidents/0/vm/name", GUEST_NAME)?;
    expect(report, "/incidents/0/vm/uuid", GUEST_UUID)
}

fn exits(report: &Value) -> Result<()> {
    let exits = number(report, "/incidents/0/exits/count")?;
    ensure!(exits >= 1.0, "{exits} poison exits");
    let gups = number(report, "/incidents/0/latency_ns/gup/count")?;
    ensure!(gups >= 1.0, "{gups} gups measured");
    let share = number(report, "/incidents/0/latency_ns/gup_share")?;
    ensure!(
        share > 0.0 && share < 1.0,
        "gup share {share} is not strictly between 0 and 1"
    );
    Ok(())
}

fn signals(report: &Value) -> Result<()> {
    for counted in ["signals", "injections"] {
        expect(report, &format!("/incidents/0/{counted}/action_optional"), 1)?;
        expect(report, &format!("/incidents/0/{counted}/action_required"), 1)?;
    }
    Ok(())
}

fn injections(report: &Value, guest: &GuestResult) -> Result<()> {
    let injected = report["incidents"][0]["injections"]["events"]
        .as_array()
        .context("there is no events[]")?;
    ensure!(
        injected.len() == 2,
        "events[] has {} entries: {}",
        injected.len(),
        report["incidents"][0]["injections"]
    );
    for entry in injected {
        expect(entry, "/addr", gpa(guest)?)?;
        expect(entry, "/misc", MISC)?;
    }
    expect(&injected[0], "/severity", "ao")?;
    expect(&injected[1], "/severity", "ar")?;
    expect(&injected[1], "/overflow", true)
}
