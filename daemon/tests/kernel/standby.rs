//! Programs that wait for poison: reserved, not running until they are attached.

use std::{
    thread,
    time::{Duration, Instant},
};

use poisontrace::probes::source::Source;
use poisontrace_kernel_facts::{
    facts::Facts,
    plan::{Attach, Binding, Plan, ProbeSpec},
};
use poisontrace_model::event::decode::Decoder;

use crate::common;

/// Exits of the daemon's own threads are always sent.
fn plan(facts: &Facts) -> Plan {
    let process_exit = common::tracepoint("process_exit", "sched", "sched_process_exit");
    let row = ProbeSpec {
        standby: Some(vec![Attach {
            program: "kvm_exit_standby",
            binding: Binding::RawTracepoint("sched_process_exit"),
        }]),
        ..common::row("waits", vec![process_exit])
    };
    common::plan(facts, vec![row])
}

fn seen(source: &mut Source, within: Duration) -> bool {
    let until = Instant::now() + within;
    while Instant::now() < until {
        thread::spawn(|| {}).join().unwrap();
        source.drain();
        if source.proved_live() {
            return true;
        }
        thread::sleep(Duration::from_millis(10));
    }
    false
}

#[test]
fn a_waiting_program_runs_once_it_is_attached() {
    common::where_there_is_tracefs("standby::waits");
}

#[test]
#[ignore = "is run by the test above, where there is tracefs"]
fn waits() {
    let facts = Facts::of_this_kernel().unwrap();
    let Some(mut loaded) = common::loaded(plan(&facts), &facts, false, None) else {
        return;
    };
    assert!(loaded.on_standby());
    let mut source = Source::new(&mut loaded, Decoder::default()).unwrap();
    assert!(!seen(&mut source, Duration::from_millis(300)));
    assert_eq!(loaded.attach_reserved(), Vec::<String>::new());
    assert!(!loaded.on_standby());
    assert!(seen(&mut source, Duration::from_secs(10)));
}
