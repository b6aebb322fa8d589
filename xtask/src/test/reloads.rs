//! KVM unloaded and loaded again under the running daemon, and a daemon that was started before KVM was there and has
//! tracepoints only.

use anyhow::{Context, Result, ensure};
use lab_protocol::daemon_lines;
use lab_protocol::{REATTACHED, RELOADED_METRICS};
use serde_json::Value;

use super::schema::Schema;
use crate::tally::Tally;
use lab_harness::run_files::{Files, expect, number};
use lab_harness::scenarios::story::{Story, TRACEPOINTS_PREFIX};

const NAME: &str = "lab::tracepoints";

pub fn examine(name: &str, files: &Files, schema: &Schema, tally: &mut Tally) {
    tally.check(
        name,
        "daemon_releases_kvm_and_attaches_again",
        files
            .contains("host.log", daemon_lines::RELEASES_KVM)
            .and_then(|()| files.contains("host.log", daemon_lines::ATTACHES_AGAIN)),
    );
    tally.check(
        name,
        "metrics_count_the_probes_that_came_back",
        files.contains(RELOADED_METRICS, REATTACHED),
    );
    tally.check(
        NAME,
        "daemon_waits_for_kvm",
        files.contains("host.log", daemon_lines::WAITS_FOR_KVM),
    );
    let file = format!("{TRACEPOINTS_PREFIX}explain.json");
    tally.check(NAME, "report_follows_the_schema", schema.holds(files, &file));
    let incident = match incident(files, &file) {
        Ok(incident) => incident,
        Err(error) => return tally.check(NAME, "one_incident", Err(error)),
    };
    tally.check(NAME, "panic_still_gets_its_verdict", verdict(&incident));
    tally.check(NAME, "gup_share_is_a_bound", bound(&incident));
    tally.check(NAME, "what_was_taken_away_is_missing", missing(&incident));
}

fn incident(files: &Files, file: &str) -> Result<Value> {
    let answer = files.json(file)?;
    let incidents = answer["incidents"].as_array().context("no list of incidents")?;
    ensure!(incidents.len() == 1, "{} incidents", incidents.len());
    Ok(incidents[0].clone())
}

fn verdict(incident: &Value) -> Result<()> {
    expect(incident, "/outcome", Story::Panic.outcome())?;
    expect(incident, "/cause", Story::Panic.cause())?;
    expect(incident, "/exits/count", 1)?;
    expect(incident, "/signals/action_required", 1)?;
    expect(incident, "/signals/action_optional", 1)
}

fn bound(incident: &Value) -> Result<()> {
    expect(incident, "/latency_ns/gup_basis", "bound")?;
    let share = number(incident, "/latency_ns/gup_share")?;
    ensure!(share > 0.0 && share < 1.0, "gup share {share}");
    Ok(())
}

fn missing(incident: &Value) -> Result<()> {
    let missing = incident["missing"].to_string();
    let disabled = |attach_type: &str| format!("{attach_type}{}", daemon_lines::ATTACH_TYPE_DISABLED);
    for wanted in ["probe gup".to_owned(), disabled("fentry"), disabled("kprobe")] {
        ensure!(
            missing.contains(&wanted),
            "missing[] has no {wanted:?}: {missing}"
        );
    }
    Ok(())
}
