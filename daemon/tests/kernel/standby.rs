//! Programs that wait for poison: reserved, not running until they are attached.

use std::{
    thread,
    time::{Duration, Instant},
};

use poisontrace_kernel_facts::{
    facts::Facts,
    plan::{Attach, Binding, HotPath, Plan, ProbeSpec},
};
use poisontrace_model::event::decode::Decoder;
use poisontrace_sources::probes::source::Source;

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

/// Tracepoints of this machine in place of kvm_exit and kvm_entry.
fn on_poison(facts: &Facts) -> Plan {
    let waits = |name, raw: &'static str, program: &'static str, full| ProbeSpec {
        standby: Some(Vec::new()),
        first: vec![Attach {
            program,
            binding: Binding::RawTracepoint(raw),
        }],
        ..common::row(name, vec![full])
    };
    let exit = waits(
        "exits",
        "sched_process_exit",
        "kvm_exit_standby",
        common::tracepoint("process_exit", "sched", "sched_process_exit"),
    );
    let entry = waits(
        "enters",
        "sched_process_exec",
        "kvm_entry_standby",
        // As large as the event of which the program loads fields.
        common::tracepoint("kvm_pio", "raw_syscalls", "sys_enter"),
    );
    let mut plan = common::plan(facts, vec![exit, entry]);
    plan.hot_path = HotPath::OnPoison;
    plan
}

#[test]
fn what_is_attached_at_poison_is_detached_again_and_again() {
    common::where_there_is_tracefs("standby::cycles");
}

/// How often; ten thousand by hand: `POISONTRACE_CYCLES`.
fn rounds() -> usize {
    std::env::var("POISONTRACE_CYCLES").map_or(200, |rounds| rounds.parse().unwrap())
}

#[test]
#[ignore = "is run by the test above, where there is tracefs"]
fn cycles() {
    let facts = Facts::of_this_kernel().unwrap();
    let Some(mut loaded) = common::loaded(on_poison(&facts), &facts, false, None) else {
        return;
    };
    let mut source = Source::new(&mut loaded, Decoder::default()).unwrap();
    let (mut first, mut slowest) = (Duration::ZERO, Duration::ZERO);
    for round in 0..rounds() {
        assert!(loaded.exits_unseen());
        if round % 50 == 0 {
            assert!(!seen(&mut source, Duration::from_millis(20)), "round {round}");
        }
        let started = Instant::now();
        assert_eq!(loaded.attach_exits(), Vec::<String>::new());
        let took = started.elapsed();
        first = if round == 0 { took } else { first };
        slowest = slowest.max(took);
        assert_eq!(loaded.attach_reserved(), Vec::<String>::new());
        assert!(!loaded.exits_unseen() && !loaded.on_standby());
        if round % 50 == 0 {
            assert!(seen(&mut source, Duration::from_secs(10)), "round {round}");
        }
        assert_eq!(loaded.detach_exits(), Some(Vec::new()));
        assert_eq!(loaded.detach_exits(), None);
        source.drain();
        source.proved_live();
    }
    println!("attached in {first:?} at first, in {slowest:?} at most");
}
