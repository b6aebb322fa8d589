//! What waits for poison, in this machine's own kernel: it is ready but does not run, and once it is called for it runs.
//! Needs root, and a build with the BPF programs inside (`cargo xtask test`).

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking; its helper functions too"
)]

use std::{
    process::Command,
    thread,
    time::{Duration, Instant},
};

use poisontrace::{
    event::decode::Decoder,
    kernel::{
        facts::Facts,
        plan::{Attach, Binding, Plan, Row},
    },
    probes::{
        load::{LoadError, Loaded},
        source::Source,
    },
};

/// The end of the daemon's own threads is sent whatever else is.
fn plan(facts: &Facts) -> Plan {
    let mut plan = Plan::new(facts, false);
    let process_exit = Attach {
        program: "process_exit",
        binding: Binding::Tracepoint {
            group: "sched".to_owned(),
            name: "sched_process_exit".to_owned(),
        },
    };
    plan.rows = vec![Row {
        name: "waits",
        alternatives: vec![Ok(vec![process_exit])],
        lost: "what it tells",
        partial: Vec::new(),
        of_kvm: false,
        standby: Some(vec![Attach {
            program: "kvm_exit_standby",
            binding: Binding::RawTracepoint("sched_process_exit"),
        }]),
    }];
    plan
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

/// In a mount namespace of its own, as this machine need not have tracefs.
#[test]
fn what_waits_for_poison_runs_once_it_is_called_for() {
    let script =
        "mount -t tracefs tracefs /sys/kernel/tracing && exec \"$0\" --exact --ignored --nocapture waits";
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
        .output();
    let Ok(output) = output else {
        return eprintln!("no unshare: not tried");
    };
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if !output.status.success() && !text.contains("running 1 test") {
        return eprintln!("tracefs may not be mounted: not tried");
    }
    println!("{text}");
    assert!(output.status.success());
}

#[test]
#[ignore = "is run by the test above, where there is tracefs"]
fn waits() {
    let facts = Facts::of_this_kernel().unwrap();
    let mut loaded = match Loaded::new(plan(&facts), &facts, false, 0, None) {
        Ok(loaded) => loaded,
        Err(LoadError::NotBuiltIn) => return eprintln!("built without BPF programs: not tried"),
        Err(LoadError::Object(why)) if why.contains("not permitted") => {
            return eprintln!("this machine loads no BPF programs ({why}): not tried");
        }
        Err(err) => panic!("{err}"),
    };
    assert!(loaded.on_standby());
    let mut source = Source::new(&mut loaded, Decoder::default()).unwrap();
    assert!(!seen(&mut source, Duration::from_millis(300)));
    assert_eq!(loaded.engage(), Vec::<String>::new());
    assert!(!loaded.on_standby());
    assert!(seen(&mut source, Duration::from_secs(10)));
}
