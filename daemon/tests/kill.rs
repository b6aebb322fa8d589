//! SIGKILL at random instants: every stored incident stays stored, exactly once.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking; its helper functions too"
)]

#[path = "daemon_process/mod.rs"]
mod daemon_process;
#[path = "synthetic_load/mod.rs"]
mod synthetic_load;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::{Duration, Instant},
};

use daemon_process::{Replay, record};
use poisontrace::outputs::store::{FILE, StoreError, Stored, Wanted};
use serde_json::Value;
use synthetic_load::{Load, Page};

const KILLS: u32 = 100;
/// Kills after which the store starts empty, so that some kills hit a growing store.
const AFRESH: u32 = 10;
const VMS: u32 = 150;

/// Guests that survive and guests that panic, one page each.
fn stories() -> Load {
    let mut load = Load::default();
    for vm in 0..VMS {
        let page = Page { vm, no: 1 };
        load.vm(vm);
        load.poison(page, 12);
        (0..8).for_each(|line| load.touch(page, page, 0, line));
        load.inject(page, 0);
        match vm % 3 {
            0 => load.panics(page),
            _ => load.handled(page, 0),
        }
    }
    load
}

fn replay(recording: &Path, state: &Path) -> Replay {
    Replay::start([Path::new("--from"), recording, Path::new("--state-dir"), state])
}

/// All incidents by id; also checks that no id occurs twice and that the file is intact.
fn stored(state: &Path) -> BTreeMap<String, Value> {
    if !state.join(FILE).exists() {
        return BTreeMap::new();
    }
    let database = rusqlite::Connection::open(state.join(FILE)).unwrap();
    let integrity: String = database
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(integrity, "ok");
    drop(database);
    let found = match Stored::open(state) {
        Ok(store) => store.get(&Wanted::All).unwrap(),
        // Killed before the store was created.
        Err(StoreError::Absent(_)) => return BTreeMap::new(),
        Err(err) => panic!("{err}"),
    };
    let count = found.len();
    let by_id: BTreeMap<String, Value> = found
        .into_iter()
        .map(|(_, incident)| (incident.id.clone(), serde_json::to_value(incident).unwrap()))
        .collect();
    assert_eq!(by_id.len(), count, "an incident is stored twice");
    by_id
}

#[test]
fn a_hundred_kills_at_random_instants_lose_and_duplicate_no_stored_incident() {
    let dir = tempfile::tempdir().unwrap();
    let recording = dir.path().join("load.ptrace");
    record(&recording, &stories().events);

    let began = Instant::now();
    let undisturbed = dir.path().join("undisturbed");
    replay(&recording, &undisturbed).ends();
    let whole = began.elapsed();
    let wanted = stored(&undisturbed);
    assert_eq!(wanted.len() as u32, VMS);

    let mut seed = u64::from(std::process::id()) | 1 << 40;
    eprintln!("undisturbed: {whole:?}; seed {seed}");
    let mut state = dir.path().join("state-0");
    let (mut before, mut midway) = (BTreeSet::new(), 0);
    for n in 0..KILLS {
        if n % AFRESH == 0 {
            state = dir.path().join(format!("state-{n}"));
            before.clear();
        }
        let daemon = replay(&recording, &state);
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        std::thread::sleep(Duration::from_micros(seed % (whole.as_micros() as u64).max(1)));
        daemon.kill();
        let after: BTreeSet<String> = stored(&state).into_keys().collect();
        assert!(before.is_subset(&after), "kill {n}: a stored incident is lost");
        assert!(
            after.iter().all(|id| wanted.contains_key(id)),
            "kill {n}: an unknown incident: {after:?}"
        );
        midway += u32::from(!after.is_empty() && after.len() < wanted.len());
        before = after;
    }
    eprintln!("{KILLS} kills, {midway} of them with part of the incidents stored");
    // The last one is not killed.
    replay(&recording, &state).ends();
    assert_eq!(stored(&state), wanted, "the same as without kills");
}
