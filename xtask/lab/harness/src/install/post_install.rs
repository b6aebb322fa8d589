//! Checks after the steps: the journal's records, and the daemon's rights as /proc showed them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// Bits of capability masks (uapi `linux/capability.h`).
const DAC_READ_SEARCH: u64 = 1 << 2;
const SYS_PTRACE: u64 = 1 << 19;
const SYS_ADMIN: u64 = 1 << 21;
const PERFMON: u64 = 1 << 38;
const BPF: u64 = 1 << 39;

/// Each change of an incident's state is one record with fields, and the whole incident is in one of them.
pub fn journal(out: &Path) -> Result<()> {
    let text = fs::read_to_string(out.join("journal.json")).context("no journal was left")?;
    let mut states = BTreeSet::new();
    for line in text.lines() {
        let record: Value = serde_json::from_str(line).context("journalctl wrote no JSON")?;
        let Some(state) = record["POISONTRACE_STATE"].as_str() else {
            continue;
        };
        states.insert(state.to_owned());
        let field = |name: &str| -> Result<&str> {
            let value = record[format!("POISONTRACE_{name}")].as_str();
            value.with_context(|| format!("a record of state {state} has no field POISONTRACE_{name}"))
        };
        let incident: Value = serde_json::from_str(field("JSON")?).context("POISONTRACE_JSON is no JSON")?;
        for (name, key) in [("INCIDENT", "id"), ("OUTCOME", "outcome"), ("CAUSE", "cause")] {
            ensure!(
                incident[key] == field(name)?,
                "POISONTRACE_{name} is not the {key} of POISONTRACE_JSON"
            );
        }
        ensure!(
            record["_SYSTEMD_UNIT"] == "poisontrace.service",
            "a record of unit {}",
            record["_SYSTEMD_UNIT"]
        );
    }
    for state in ["open", "close"] {
        ensure!(
            states.contains(state),
            "no record of state {state}, only {states:?}"
        );
    }
    Ok(())
}

/// The daemon has given up all that it does not need.
pub fn privileges(out: &Path) -> Result<()> {
    let main = fs::read_to_string(out.join("proc-status.txt")).context("no status was left")?;
    let mask = |name| mask(&main, name);
    let used = DAC_READ_SEARCH | SYS_PTRACE;
    for (name, wanted) in [
        ("CapEff", used),
        // KVM is a module here: its probes may have to be attached again.
        ("CapPrm", used | PERFMON | BPF),
        // The unit's: reducing it needs CAP_SETPCAP. With no_new_privs it grants nothing.
        ("CapBnd", used | PERFMON | BPF | SYS_ADMIN),
        ("CapInh", 0),
        ("CapAmb", 0),
    ] {
        let found = mask(name)?;
        ensure!(found == wanted, "{name} is {found:x}, not {wanted:x}");
    }
    for (name, wanted) in [("NoNewPrivs", "1"), ("Seccomp", "2")] {
        let found = value(&main, name)?;
        ensure!(found == wanted, "{name} is {found}");
    }
    let uids = value(&main, "Uid")?;
    ensure!(uids.split_whitespace().all(|uid| uid != "0"), "Uid is {uids}");
    Ok(())
}

/// The store's thread can do nothing but write.
pub fn store_thread(out: &Path) -> Result<()> {
    let text = fs::read_to_string(out.join("proc-task-status.txt")).context("no status was left")?;
    let threads: Vec<&str> = text.split("Name:").collect();
    let Some(store) = threads
        .iter()
        .find(|thread| thread.trim_start().starts_with("store"))
    else {
        bail!("there is no thread of the store");
    };
    for name in ["CapEff", "CapPrm", "CapAmb"] {
        let found = mask(store, name)?;
        ensure!(found == 0, "{name} is {found:x}");
    }
    Ok(())
}

fn mask(status: &str, name: &str) -> Result<u64> {
    Ok(u64::from_str_radix(value(status, name)?, 16)?)
}

fn value<'a>(status: &'a str, name: &str) -> Result<&'a str> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Ok(line
        .with_context(|| format!("/proc/PID/status has no {name}"))?
        .trim())
}
