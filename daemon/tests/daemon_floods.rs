//! Floods through the whole daemon: its memory, its responses meanwhile, and the final counts. `cargo xtask soak` runs them
//! with the release build and its limits.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking; its helper functions too"
)]

#[path = "daemon_process/mod.rs"]
mod daemon_process;
#[path = "synthetic_load/mod.rs"]
mod synthetic_load;

use std::{
    fs::File,
    io::BufWriter,
    time::{Duration, Instant},
};

use daemon_process::Replay;
use poisontrace::outputs::store::{Stored, Wanted};
use poisontrace_model::incident::model::Outcome;
use poisontrace_recording::Writer;
use poisontrace_report::document::Incident;
use synthetic_load::{Load, Page, session};

const MAX_RSS_KIB: u64 = 64 << 10;
const SCRAPE: Duration = Duration::from_millis(100);
/// For a debug build on a machine with other work.
const SCRAPE_DEBUG: Duration = Duration::from_secs(3);
/// vCPUs of each VM that access its page.
const VCPUS: u32 = 8;
const PATIENCE: Duration = Duration::from_secs(400);

fn release() -> bool {
    std::env::var_os("POISONTRACE_UNDER_TEST").is_some()
}

/// Writes parts of a load to a daemon until `more` returns false, and scrapes /metrics meanwhile.
fn flood(
    name: &str,
    most_kib: u64,
    mut more: impl FnMut(&mut Load) -> bool + Send,
    look: impl Fn(&[Incident]),
) {
    let dir = tempfile::tempdir().unwrap();
    let (mut daemon, pipe, state) = Replay::of_a_pipe(dir.path());
    let began = Instant::now();
    let (mut slowest, mut scrapes) = (Duration::ZERO, 0);
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            let out = BufWriter::new(File::options().write(true).open(&pipe).unwrap());
            let mut out = Writer::new(out, &session()).unwrap();
            let mut load = Load::default();
            while more(&mut load) {
                load.events.drain(..).for_each(|event| out.event(&event).unwrap());
            }
            out.finish().unwrap();
        });
        while !writing.is_finished() || !daemon.has_printed("still serving") {
            assert!(began.elapsed() < PATIENCE, "{name}: it does not end");
            slowest = slowest.max(daemon.metrics().1);
            scrapes += 1;
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let took = began.elapsed();
    let (peak, rest) = (daemon.memory_kib("VmHWM"), daemon.memory_kib("VmRSS"));
    daemon.stop();
    let found = Stored::open(&state).unwrap().get(&Wanted::All).unwrap();
    let incidents: Vec<Incident> = found.into_iter().map(|(_, incident)| incident).collect();
    println!(
        "{name:<40} {took:>8.1?}, peak {peak:>6} KiB, {rest:>6} in the end, slowest of {scrapes} scrapes {slowest:.1?}, {} incidents",
        incidents.len()
    );
    look(&incidents);
    assert!(peak <= most_kib, "{name}: {peak} KiB");
    assert!(
        slowest <= if release() { SCRAPE } else { SCRAPE_DEBUG },
        "{name}: a scrape took {slowest:?}"
    );
}

#[test]
fn a_million_exits_on_one_vcpu() {
    let exits: u64 = if release() { 1_000_000 } else { 30_000 };
    let page = Page { vm: 0, no: 1 };
    let mut n = 0;
    flood(
        "exits on one vCPU",
        MAX_RSS_KIB,
        |load| {
            if n == 0 {
                load.vm(0);
                load.poison(page, 12);
            }
            (n..exits.min(n + 1000)).for_each(|n| load.touch(page, page, 0, n % 64));
            n += 1000;
            !load.events.is_empty()
        },
        |incidents| {
            assert_eq!(incidents.len(), 1);
            assert_eq!(incidents[0].exits.count, Some(exits));
            assert_eq!(incidents[0].signals.action_required, Some(exits));
        },
    );
}

#[test]
fn ten_thousand_poisoned_pages_of_one_vm() {
    let pages: u64 = if release() { 10_000 } else { 1000 };
    let mut n = 0;
    flood(
        "poisoned pages of one VM",
        MAX_RSS_KIB,
        |load| {
            if n == 0 {
                load.vm(0);
            }
            for no in n..pages.min(n + 100) {
                let page = Page { vm: 0, no };
                load.poison(page, 12);
                load.touch(page, page, 0, 3);
                load.inject(page, 0);
                load.handled(page, 0);
            }
            n += 100;
            !load.events.is_empty()
        },
        |incidents| {
            assert_eq!(incidents.len() as u64, pages);
            assert!(incidents.iter().all(|incident| incident.exits.count == Some(1)));
        },
    );
}

#[test]
fn a_thousand_vms_of_which_a_hundred_die_at_once() {
    let vms: u32 = if release() { 1000 } else { 200 };
    let mut n = 0;
    flood(
        "VMs of 8 vCPUs, 100 of which die",
        MAX_RSS_KIB,
        |load| {
            let page = |vm| Page { vm, no: 9 };
            for vm in n..vms.min(n + 10) {
                load.vm(vm);
                load.poison(page(vm), 12);
                (0..VCPUS).for_each(|vcpu| load.touch(page(vm), page(vm), vcpu, 0));
                load.inject(page(vm), 0);
            }
            if n == vms {
                (0..100).for_each(|vm| load.panics(page(vm)));
            }
            n += 10;
            !load.events.is_empty()
        },
        |incidents| {
            assert_eq!(incidents.len() as u32, vms);
            let dead = incidents
                .iter()
                .filter(|incident| incident.outcome == Outcome::GuestPanicked);
            assert_eq!(dead.count(), 100);
            assert!(
                incidents
                    .iter()
                    .all(|incident| incident.exits.count == Some(u64::from(VCPUS)))
            );
        },
    );
}
