//! A ring buffer that is not read in time: records that did not fit are counted exactly.

use std::{
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use aya::maps::HashMap;
use poisontrace_kernel_facts::facts::Facts;
use poisontrace_model::event::{Event, EventKind, decode::Decoder};
use poisontrace_sources::probes::source::Source;

use crate::common;

/// A record of a thread's exit takes some 100 bytes, and the ring buffer has 1 MiB.
const THREADS: u64 = 30_000;
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn records_beyond_the_ring_buffer_are_counted() {
    common::where_there_is_tracefs("full::ring_buffer");
}

/// The VMM whose threads exit, once its standard input is closed.
#[test]
#[ignore = "is a process of the test below"]
fn threads_end() {
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
    for _ in 0..THREADS {
        thread::spawn(|| {}).join().unwrap();
    }
}

fn victim() -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--test-threads=1", "full::threads_end"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
#[ignore = "is run by the first test, where there is tracefs"]
fn ring_buffer() {
    let facts = Facts::of_this_kernel().unwrap();
    let row = common::row(
        "ends",
        vec![common::tracepoint("process_exit", "sched", "sched_process_exit")],
    );
    let Some(mut loaded) = common::loaded(common::plan(&facts, vec![row]), &facts, true, None) else {
        return;
    };
    let mut child = victim();
    let victims = loaded.ebpf.map_mut("VICTIMS").unwrap();
    let mut victims: HashMap<_, u32, u64> = HashMap::try_from(victims).unwrap();
    victims.insert(child.id(), 1, 0).unwrap();
    let mut source = Source::new(&mut loaded, Decoder::default()).unwrap();
    drop(child.stdin.take());
    let began = Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < PATIENCE);
        thread::sleep(Duration::from_millis(20));
    }
    let (mut ended, mut lost) = (0, 0);
    loop {
        let events = source.drain();
        if events.is_empty() {
            break;
        }
        for event in events {
            match event {
                Event {
                    what: EventKind::Lost { records },
                    ..
                } => lost += records,
                Event {
                    pid,
                    what: EventKind::TaskExit { .. },
                    ..
                } if pid == child.id() => ended += 1,
                other => panic!("{other:?}"),
            }
        }
    }
    println!("{ended} records read, {lost} lost");
    assert!(ended > 1000 && lost > 1000);
    // Two are the test's own threads.
    assert_eq!(ended + lost, THREADS + 2);
}
