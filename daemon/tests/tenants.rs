//! Two tenants, one of whom floods: the other's incidents are in every output at once, and stay.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking; its helper functions too"
)]

#[path = "synthetic_load/mod.rs"]
mod synthetic_load;

use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use poisontrace::{
    config::{self, Config},
    engine::pipeline::Pipeline,
    outputs::{
        Outputs,
        metrics::{KernelTables, Metrics},
        store::{Retention, Store, Stored, Wanted},
    },
};
use poisontrace_model::{
    event::{EventKind, SigbusSeverity},
    hex::Hex,
    incident::model::{Confidence, Outcome},
};
use synthetic_load::{Load, Page, memory_kib, session};

/// Incidents of the tenant that floods; each changes between any two flushes.
const FLOOD: u64 = 3600;

fn pipeline(state: &Path) -> Pipeline {
    let session = session();
    let mut outputs = Outputs::new(Metrics::new(&session, session.clock, None).unwrap());
    outputs.store = Some(Store::paced(
        state,
        &session.host,
        Retention::from(&Config::default().store),
    ));
    let clock = session.clock;
    Pipeline::replay(session, outputs, clock)
}

fn metric(pipeline: &mut Pipeline, name: &str) -> f64 {
    synthetic_load::metric(&pipeline.scraped(&[], &[], KernelTables::default()), name)
}

#[test]
fn incidents_of_one_vm_that_change_all_the_time_keep_no_other_vms_out() {
    let dir = tempfile::tempdir().unwrap();
    let mut pipeline = pipeline(dir.path());
    let flood = |pipeline: &mut Pipeline, load: &mut Load, line: u64| {
        for no in 0..FLOOD {
            let page = Page { vm: 0, no };
            load.touch(page, page, 0, line % 64);
        }
        pipeline.take(&load.events);
        load.events.clear();
    };
    let mut load = Load::default();
    load.vm(0);
    load.vm(1);
    (0..FLOOD).for_each(|no| load.poison(Page { vm: 0, no }, 12));
    flood(&mut pipeline, &mut load, 0);
    assert!(pipeline.flush());
    assert!(metric(&mut pipeline, "poisontrace_incident_delay_seconds") > 0.0);

    // The other tenant's guest touches a poisoned page and dies.
    let page = Page { vm: 1, no: 5 };
    load.poison(page, 12);
    load.touch(page, page, 0, 3);
    load.inject(page, 0);
    load.panics(page);
    pipeline.take(&load.events);
    load.events.clear();
    for line in 1..4 {
        flood(&mut pipeline, &mut load, line);
        pipeline.flush();
    }
    let text = pipeline.scraped(&[], &[], KernelTables::default());
    let dead = r#"poisontrace_incident_verdicts_total{cause="unknown",outcome="guest_panicked"} 1"#;
    let verdicts: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("guest_panicked"))
        .collect();
    assert!(
        verdicts.iter().any(|line| line.ends_with(" 1")),
        "not in the metrics after three flushes, e. g. {dead}: {verdicts:?}"
    );
    pipeline.finish().unwrap();
    let stored = Stored::open(dir.path()).unwrap().get(&Wanted::All).unwrap();
    let pids: Vec<u32> = stored
        .iter()
        .filter_map(|(_, incident)| incident.vm.pid)
        .collect();
    let place = pids.iter().position(|pid| *pid == page.pid());
    assert!(
        place.is_some_and(|place| place < 1000),
        "stored after {place:?} of {}",
        pids.len()
    );
}

/// Within this the other tenant's incident is in every output.
const SOON: Duration = Duration::from_secs(2);
const MAX_RSS_KIB: u64 = 128 << 10;
/// As the event loop's.
const FLUSH: Duration = Duration::from_millis(50);

/// Ten seconds, or as `cargo xtask test --only tenants --minutes N` has it.
fn length() -> Duration {
    let seconds = std::env::var("POISONTRACE_TENANTS_SECONDS").ok();
    Duration::from_secs(seconds.and_then(|text| text.parse().ok()).unwrap_or(10))
}

/// Between two rounds of the attack: 30,000 events and 40 new VMMs a second, or as the environment has it.
const ROUND_US: u64 = 25_000;

fn round_time() -> Duration {
    let us = std::env::var("POISONTRACE_TENANTS_ROUND_US").ok();
    Duration::from_micros(us.and_then(|text| text.parse().ok()).unwrap_or(ROUND_US))
}

/// What one tenant can have the probes send in a moment: exits on thousands of pages, signals, and VMMs that come and go.
fn attack(load: &mut Load, round: u64) {
    for n in 0..400 {
        let page = Page {
            vm: 0,
            no: (round * 400 + n) % FLOOD,
        };
        if round < FLOOD / 400 {
            load.poison(page, 12);
        }
        load.touch(page, page, (n % 8) as u32, round % 64);
    }
    // Another VMM, which ends at once.
    let page = Page {
        vm: 2 + (round % 3000) as u32,
        no: 1,
    };
    load.vm(page.vm);
    // One: of signals that a process can make itself the programs report one a millisecond (UNPROVED_EVERY_NS).
    let what = EventKind::Sigbus {
        hva: Hex(page.hva()),
        severity: SigbusSeverity::ActionRequired,
        lsb: 12,
        target_tid: page.pid(),
        target_pid: page.pid(),
        forced: true,
        comm: "forge".into(),
    };
    load.at(page.pid(), page.pid(), what);
    load.ends(page);
    load.exits.clear();
}

/// VMs of the other tenant: one after the other dies.
const OTHERS: u32 = 5;
const FIRST_OTHER: u32 = 5000;

fn other(n: u32) -> Page {
    Page {
        vm: FIRST_OTHER + n,
        no: 5,
    }
}

fn name(page: Page) -> String {
    format!("vm{}", page.vm)
}

/// The log's lines.
#[derive(Clone, Default)]
struct Logged(Arc<Mutex<Vec<u8>>>);

impl Logged {
    fn has(&self, text: &str) -> bool {
        String::from_utf8_lossy(&self.0.lock().unwrap()).contains(text)
    }
}

impl Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut lines = self.0.lock().unwrap();
        // What a reader has seen; the flood's lines are without end.
        if lines.len() > 1 << 20 {
            lines.clear();
        }
        lines.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// When an incident of the other tenant was in an output, from the moment of its events.
#[derive(Debug, Default)]
struct Arrivals {
    stored: Option<Duration>,
    logged: Option<Duration>,
    hooked: Option<Duration>,
    scraped: Option<Duration>,
}

/// Where to look for it.
struct Places<'a> {
    state: &'a Path,
    hooked: &'a Path,
    log: &'a Logged,
}

impl Arrivals {
    /// `deaths`: of the other tenant's VMs until now.
    fn look(&mut self, since: Instant, page: Page, deaths: u32, at: &Places<'_>, pipeline: &mut Pipeline) {
        let name = name(page);
        if self.stored.is_none() {
            let reader = Stored::open(at.state).unwrap();
            let found = reader.get(&Wanted::Vm(name.clone())).unwrap();
            self.stored = (!found.is_empty()).then(|| since.elapsed());
        }
        if self.logged.is_none() {
            let line = format!("vm=\"{name}\" outcome=guest_panicked");
            self.logged = at.log.has(&line).then(|| since.elapsed());
        }
        if self.hooked.is_none() {
            let text = fs::read_to_string(at.hooked).unwrap_or_default();
            self.hooked = text.lines().any(|vm| vm == name).then(|| since.elapsed());
        }
        if self.scraped.is_none() {
            let text = pipeline.scraped(&[], &[], KernelTables::default());
            let dead: f64 = text
                .lines()
                .filter(|line| {
                    line.starts_with("poisontrace_incident_verdicts_total") && line.contains("guest_panicked")
                })
                .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
                .sum();
            self.scraped = (dead >= f64::from(deaths)).then(|| since.elapsed());
        }
    }

    fn all(&self) -> Option<Duration> {
        Some(
            self.stored?
                .max(self.logged?)
                .max(self.hooked?)
                .max(self.scraped?),
        )
    }
}

#[test]
fn while_one_tenant_floods_the_others_deaths_are_stored_logged_hooked_and_scraped_within_two_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let (state, hooked, hook) = (
        dir.path().join("state"),
        dir.path().join("hooked"),
        dir.path().join("hook"),
    );
    fs::write(
        &hook,
        format!("#!/bin/sh\necho $POISONTRACE_VM >>{}\n", hooked.display()),
    )
    .unwrap();
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let log = Logged::default();
    let lines = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || lines.clone())
        .finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    let at = Places {
        state: &state,
        hooked: &hooked,
        log: &log,
    };
    let mut pipeline = pipeline(&state);
    let mut all: Vec<(Instant, Arrivals)> = Vec::new();
    let (mut events, mut peak, mut slowest) = (0, 0, Duration::ZERO);
    runtime.block_on(async {
        pipeline.start_hook(config::Hook {
            command: vec![hook.to_str().unwrap().to_owned()],
            ..config::Hook::default()
        });
        let (mut load, began, mut flushed) = (Load::default(), Instant::now(), Instant::now());
        load.vm(0);
        (0..OTHERS).for_each(|n| load.vm(other(n).vm));
        let mut round = 0;
        let every = length() / (OTHERS + 1);
        while began.elapsed() < length() {
            attack(&mut load, round);
            round += 1;
            let dead = all.len() as u32;
            if dead < OTHERS && began.elapsed() > every * (dead + 1) {
                let page = other(dead);
                load.poison(page, 12);
                load.touch(page, page, 0, 3);
                load.inject(page, 0);
                load.panics(page);
                all.push((Instant::now(), Arrivals::default()));
            }
            events += load.events.len();
            pipeline.take(&load.events);
            load.events.clear();
            if flushed.elapsed() >= FLUSH {
                let began = Instant::now();
                pipeline.flush();
                slowest = slowest.max(began.elapsed());
                flushed = Instant::now();
                peak = peak.max(memory_kib("VmRSS"));
                let deaths = all.len() as u32;
                for (n, (died, arrivals)) in (0..).zip(&mut all) {
                    if arrivals.all().is_none() {
                        arrivals.look(*died, other(n), deaths, &at, &mut pipeline);
                    }
                }
            }
            // The hook is a task of this thread, as in the daemon.
            tokio::time::sleep(round_time()).await;
        }
        pipeline.finish().unwrap();
    });
    let kept = Stored::open(&state).unwrap().get(&Wanted::All).unwrap().len();
    println!(
        "{events} events of one tenant in {:?}, {kept} incidents in the store; slowest flush {slowest:?}, {peak} KiB resident",
        length()
    );
    for (n, (_, arrivals)) in all.iter().enumerate() {
        println!("death {n} of the other tenant: {arrivals:?}");
    }
    assert_eq!(all.len() as u32, OTHERS);
    for (n, (_, arrivals)) in (0..).zip(&all) {
        assert!(arrivals.all().is_some_and(|all| all <= SOON), "{n}: {arrivals:?}");
        let kept = Stored::open(&state)
            .unwrap()
            .get(&Wanted::Vm(name(other(n))))
            .unwrap();
        assert_eq!(kept.len(), 1, "its evidence is there at the end");
        let incident = &kept[0].1;
        assert_eq!(incident.outcome, Outcome::GuestPanicked);
        assert_ne!(incident.confidence, Confidence::Possible, "{}", incident.summary);
    }
    assert!(peak <= MAX_RSS_KIB, "{peak} KiB");
}
