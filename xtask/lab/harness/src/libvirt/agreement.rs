//! What poisontrace answered, against what libvirt, the kubelet's names and the forecast have.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::bundle::Pod;
use super::domain::Domain;
use crate::scenarios::forecast_check::{self, Row};
use crate::scenarios::story::Foretold;
use crate::scenarios::verdict_check;

/// A domain that was poisoned: the prefix of its files, and what became of it.
pub struct Case<'a> {
    pub prefix: &'static str,
    pub domain: &'a Domain,
    pub outcome: &'static str,
    /// `virsh domstate --reason`.
    pub state: &'static str,
    /// Why the cause is not the same each time, though the outcome is.
    pub by_chance: Option<&'static str>,
    /// Of libvirt's lifecycle event.
    pub lifecycle: &'static str,
}

fn text(out: &Path, name: &str) -> Result<String> {
    let file = out.join(name);
    let bytes = fs::read(&file).with_context(|| format!("the steps left no {}", file.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn number(out: &Path, name: &str) -> Result<u64> {
    let text = text(out, name)?;
    text.trim()
        .parse()
        .with_context(|| format!("{name} holds no number"))
}

/// The incident that began last.
fn incident(out: &Path, prefix: &str) -> Result<Value> {
    let answer = text(out, &format!("{prefix}-explain.json"))?;
    let answer: Value = serde_json::from_str(&answer).context("explain printed no JSON")?;
    let incidents = answer["incidents"].as_array().context("no incidents")?;
    let last = incidents
        .iter()
        .max_by_key(|incident| incident["started_at"].as_str());
    last.cloned().context("no incident")
}

impl Case<'_> {
    fn file(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    /// Name, UUID and process are libvirt's.
    pub fn named(&self, out: &Path) -> Result<()> {
        let Domain { name, uuid, .. } = self.domain;
        let vm = &incident(out, self.prefix)?["vm"];
        ensure!(
            vm["name"] == *name && vm["uuid"] == *uuid,
            "the answer is about {vm}"
        );
        let pid = number(out, &self.file("pid.txt"))?;
        ensure!(vm["pid"] == pid, "libvirt's pid is {pid}, not {}", vm["pid"]);
        let cgroup = text(out, &self.file("cgroup.txt"))?;
        let scope = format!("\\x2d{}.scope", name.replace('-', "\\x2d"));
        ensure!(
            cgroup.contains("/machine.slice/machine-qemu\\x2d") && cgroup.contains(&scope),
            "the cgroup is {cgroup}"
        );
        Ok(())
    }

    /// A line of libvirt's log is with the incident.
    pub fn log_is_followed(&self, out: &Path) -> Result<()> {
        log_is_followed(out, "export.json", self.domain.name)
    }

    /// `virsh domstate` and the events have the answer's end.
    pub fn virsh_agrees(&self, out: &Path) -> Result<()> {
        let found = &incident(out, self.prefix)?["outcome"];
        ensure!(*found == self.outcome, "the answer's outcome is {found}");
        let state = text(out, &self.file("state.txt"))?;
        ensure!(state.trim() == self.state, "virsh has {}", state.trim());
        let events = text(out, "events.txt")?;
        let of_domain = |kind: &str| format!("event '{kind}' for domain '{}':", self.domain.name);
        ensure!(
            events.contains(&of_domain("memory-failure")),
            "no memory-failure event"
        );
        let wanted = format!("{} {}", of_domain("lifecycle"), self.lifecycle);
        ensure!(events.contains(&wanted), "no event {wanted:?}");
        Ok(())
    }

    /// The forecast beside what became of it.
    pub fn forecast(&self, out: &Path) -> Result<Row> {
        let mut incident = incident(out, self.prefix)?;
        let happened = verdict_check::in_words(std::slice::from_ref(&incident));
        let file = self.file("forecast.json");
        if self.by_chance.is_some() {
            let forecast: Value =
                serde_json::from_str(&text(out, &file)?).context("the forecast is no JSON")?;
            incident["cause"] = self.foretold_cause(&forecast)?;
        }
        let row = forecast_check::row(
            self.prefix,
            Foretold::Page("guest_process"),
            &out.join(file),
            Some(self.domain.name),
            std::slice::from_ref(&incident),
        )?;
        let why = self.by_chance.map(|why| format!(", {why}"));
        Ok(Row {
            happened: format!("{happened}{}", why.unwrap_or_default()),
            ..row
        })
    }

    /// The cause of the answer that is compared: of a process's page, found before it is used.
    fn foretold_cause(&self, forecast: &Value) -> Result<Value> {
        let vms = forecast["vms"].as_array().context("no VMs")?;
        let vm = vms.iter().find(|vm| vm["name"] == self.domain.name);
        let answers = vm
            .and_then(|vm| vm["forecasts"].as_array())
            .context("no answers")?;
        let entry = answers
            .iter()
            .find(|entry| entry["page"] == "guest_process" && entry["notice"] == "ao");
        Ok(entry.context("no such answer")?["cause"].clone())
    }

    /// The forecast's next steps name the processor's features that were then given.
    pub fn model_is_to_be_changed(&self, out: &Path) -> Result<()> {
        let forecast = text(out, &self.file("forecast.json"))?;
        let forecast: Value = serde_json::from_str(&forecast).context("the forecast is no JSON")?;
        let vms = forecast["vms"].as_array().context("no VMs")?;
        let steps: Vec<String> = vms
            .iter()
            .filter_map(|vm| vm["forecasts"].as_array())
            .flatten()
            .map(|entry| entry["next_steps"].to_string())
            .collect();
        ensure!(
            steps.iter().any(|steps| steps.contains("+succor")),
            "no step names the CPU model: {steps:?}"
        );
        Ok(())
    }
}

/// Whether the store has a statement of this log with an incident of its VM.
fn log_is_followed(out: &Path, export: &str, vm: &str) -> Result<()> {
    let source = format!("{vm}.log");
    for line in text(out, export)?.lines() {
        let stored: Value = serde_json::from_str(line).context("export wrote no JSON")?;
        let events = stored["events"]
            .as_array()
            .context("an incident without events")?;
        let of_log = |event: &Value| event["event"]["log_statement"]["source"] == *source;
        if stored["incident"]["vm"]["name"] == *vm && events.iter().any(of_log) {
            return Ok(());
        }
    }
    bail!("no statement of {source} is stored")
}

/// `explain --from` reads libvirt's events, alone and with the log of the domain that died.
pub fn events_are_imported(daemon: &Path, out: &Path, case: &Case<'_>) -> Result<()> {
    let events = out.join("events.txt");
    let of_events = verdict_check::explain(daemon, &[&events])?;
    let about = |incidents: &[Value]| {
        incidents
            .iter()
            .any(|incident| incident["vm"]["name"] == case.domain.name)
    };
    ensure!(
        about(&of_events),
        "the events alone give {}",
        verdict_check::in_words(&of_events)
    );
    let log = out.join(case.file("qemu.log"));
    let with_log = verdict_check::explain(daemon, &[&events, &log])?;
    ensure!(
        with_log.iter().any(|incident| incident["vm"]["name"] == case.domain.name && incident["outcome"] == case.outcome),
        "events and log give {}",
        verdict_check::in_words(&with_log)
    );
    Ok(())
}

/// Name, process, pod and container are those that the kubelet and the runtime gave.
pub fn pod_is_named(out: &Path, pod: &Pod<'_>) -> Result<()> {
    let incident = incident(out, "pod")?;
    let vm = &incident["vm"];
    let pid = number(out, "pod-pid.txt")?;
    ensure!(
        vm["name"] == pod.domain && vm["uuid"] == pod.vm_uuid && vm["pid"] == pid,
        "of process {pid} the answer is about {vm}"
    );
    let container = &vm["container"];
    ensure!(
        container["id"] == pod.id && container["pod_uid"] == pod.uid,
        "the answer's container is {container}, the cgroup {}",
        text(out, "pod-cgroup.txt")?.trim()
    );
    Ok(())
}

/// The log in the pod's own file system is followed from the daemon's container.
pub fn pods_log_is_followed(out: &Path, pod: &Pod<'_>) -> Result<()> {
    log_is_followed(out, "pod-export.json", pod.domain)
}
