//! Two tenants, one of whom floods: the other's incidents are in every output at once, and stay.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking; its helper functions too"
)]

#[path = "synthetic_load/mod.rs"]
mod synthetic_load;

use std::path::Path;

use poisontrace::{
    config::Config,
    engine::pipeline::Pipeline,
    outputs::{
        Outputs,
        metrics::Metrics,
        store::{Retention, Store, Stored, Wanted},
    },
};
use synthetic_load::{Load, Page, session};

/// Incidents of the tenant that floods; each changes between any two flushes.
const FLOOD: u64 = 3600;

fn pipeline(state: &Path) -> Pipeline {
    let session = session();
    let mut outputs = Outputs::new(Metrics::new(&session, session.clock, None).unwrap());
    outputs.store = Some(Store::start(
        state,
        &session.host,
        Retention::from(&Config::default().store),
    ));
    let clock = session.clock;
    Pipeline::replay(session, outputs, clock)
}

fn metric(pipeline: &mut Pipeline, name: &str) -> f64 {
    synthetic_load::metric(&pipeline.scraped(&[], &[], 0), name)
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
    let text = pipeline.scraped(&[], &[], 0);
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
