//! The session of an import: no probe of ours was attached; a row counts as attached if its evidence is in
//! the files, so that what is 0 and what is not known stay apart.

use std::collections::BTreeSet;

use poisontrace_model::{
    event::{
        probe::{ProbeBinding, ProbeId, ProbeReason, ProbeStatus},
        session::Session,
    },
    host::{ClockPair, Host},
};

/// Rows whose absence from a trace shows nothing: one event shows the signals of both functions, a trace without nested
/// exits has none, and no trace has the guest's code.
const NOT_IN_TRACES: [ProbeId; 4] = [
    ProbeId::ForceSigMceerr,
    ProbeId::KvmNestedVmexit,
    ProbeId::GuestCode,
    ProbeId::Memslots,
];

/// `seen`: kinds of trace events, by row.
pub fn session(
    seen: &BTreeSet<&'static str>,
    kernel: Option<String>,
    hostname: Option<String>,
    wall: Option<i128>,
) -> Session {
    let probes = ProbeId::ALL
        .iter()
        .filter(|probe| !NOT_IN_TRACES.contains(probe))
        .map(|probe| {
            let there = seen.contains(probe.name());
            ProbeStatus {
                probe: probe.clone(),
                binding: there.then_some(ProbeBinding::Imported),
                why: match there {
                    true => Vec::new(),
                    false => vec![ProbeReason::NotInFiles],
                },
                unavailable_info: None,
            }
        })
        .collect();
    Session {
        host: Host {
            hostname,
            kernel,
            poisontrace_version: env!("CARGO_PKG_VERSION").to_owned(),
            emulated: None,
        },
        clock: ClockPair {
            monotonic_ns: 0,
            wall_ns: wall.and_then(|ns| i64::try_from(ns).ok()),
        },
        probes,
        hardware_corrupted_kb: None,
        counters_watched: false,
        standby: false,
    }
}
