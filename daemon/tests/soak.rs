//! A mixed load through the whole daemon for minutes: memory must be flat, nothing lost, and every verdict right.
//! `cargo xtask soak --minutes N`; a few seconds of it in the tests.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking; its helper functions too"
)]

#[path = "daemon_process/mod.rs"]
mod daemon_process;
#[path = "synthetic_load/recorded.rs"]
mod recorded;
#[path = "synthetic_load/mod.rs"]
mod synthetic_load;

use std::{
    collections::VecDeque,
    fs::File,
    io::BufWriter,
    path::Path,
    time::{Duration, Instant},
};

use daemon_process::Replay;
use poisontrace::outputs::store::{Stored, Wanted};
use poisontrace_model::{
    event::Event,
    incident::model::{Cause, Outcome},
};
use poisontrace_recording::Writer;
use recorded::Recorded;
use synthetic_load::{Load, Page, metric, session};

/// Limit for the whole daemon.
const MAX_RSS_KIB: u64 = 64 << 10;
const TICK: Duration = Duration::from_millis(100);
/// Stories of one page each in a tick, and exits of the concurrent storm.
const STORIES: u32 = 4;
const STORM: u64 = 150;
/// Length of a storm, ticks.
const STORM_TICKS: u32 = 300;
/// Ticks between two recordings.
const RECORDING: u32 = 20;
/// One of this many stories is looked up in the store.
const LOOKED_UP: u32 = 8;
/// From a story's last event to its look-up: allows for a busy disk.
const SETTLED: Duration = Duration::from_secs(15);
/// Allowed growth of memory after the first third, and the allocator's slack.
const GROWTH: f64 = 1.05;
const ROOM_KIB: f64 = 2048.0;
/// First offset that is added to the recordings' process ids.
const FIRST_OFFSET: u32 = 1 << 20;

/// The expected entry of the store for a VM.
struct Truth {
    vm: String,
    ended: Instant,
    outcome: Outcome,
    cause: Option<Cause>,
    exits: Option<u64>,
}

/// Verdicts that were looked up.
#[derive(Default)]
struct Score {
    looked_up: u64,
    right: u64,
    wrong: Vec<String>,
}

struct Soak {
    load: Load,
    out: Writer<BufWriter<File>>,
    recordings: Vec<Recorded>,
    /// Remaining events of the recordings in progress, in order of time.
    pending: VecDeque<Event>,
    truths: VecDeque<Truth>,
    vms: u32,
    recorded: u32,
    storm: Option<(Page, u64)>,
    events: u64,
}

impl Soak {
    fn tick(&mut self, tick: u32, elapsed: Duration) {
        // The load's clock follows the wall clock.
        self.load.now = self.load.now.max(u64::try_from(elapsed.as_nanos()).unwrap());
        for _ in 0..STORIES {
            self.story();
        }
        if tick.is_multiple_of(STORM_TICKS) {
            self.end_storm();
            let page = self.new_page();
            self.load.poison(page, 12);
            self.storm = Some((page, 0));
        }
        if let Some((page, exits)) = &mut self.storm {
            for line in 0..STORM {
                self.load.touch(*page, *page, 0, line % 64);
            }
            *exits += STORM;
        }
        if tick.is_multiple_of(RECORDING) {
            self.recording();
        }
        self.write();
    }

    fn new_page(&mut self) -> Page {
        let vm = self.vms;
        self.vms += 1;
        self.load.vm(vm);
        Page { vm, no: 1 }
    }

    fn story(&mut self) {
        let page = self.new_page();
        self.load.poison(page, 12);
        let (outcome, exits) = match page.vm % 4 {
            // Poisoned and never accessed; its VMM is ended from outside.
            0 => {
                self.load.ends(page);
                (Outcome::Unaffected, 0)
            }
            1 => {
                (0..64).for_each(|line| self.load.touch(page, page, 0, line));
                self.load.inject(page, 0);
                self.load.panics(page);
                (Outcome::GuestPanicked, 64)
            }
            _ => {
                self.load.touch(page, page, 0, 3);
                self.load.inject(page, 0);
                self.load.handled(page, 0);
                self.load.ends(page);
                (Outcome::Survived, 1)
            }
        };
        if page.vm.is_multiple_of(LOOKED_UP) || page.vm % LOOKED_UP == 1 {
            self.truth(format!("vm{}", page.vm), outcome, None, Some(exits));
        }
    }

    fn end_storm(&mut self) {
        if let Some((page, exits)) = self.storm.take() {
            self.load.inject(page, 0);
            self.load.handled(page, 0);
            self.load.ends(page);
            self.truth(format!("vm{}", page.vm), Outcome::Survived, None, Some(exits));
        }
    }

    fn recording(&mut self) {
        let recording = &self.recordings[self.recorded as usize % self.recordings.len()];
        let vm = format!("recorded{}-{}", self.recorded, recording.name);
        let offset = FIRST_OFFSET + self.recorded * 4096;
        self.pending.extend(recording.moved(self.load.now, offset, &vm));
        self.pending.make_contiguous().sort_by_key(|event| event.t);
        let (outcome, cause, exits) = (recording.outcome, recording.cause, recording.exits);
        let ends = Duration::from_nanos(recording.length_ns());
        self.truth(vm, outcome, Some(cause), exits);
        if let Some(truth) = self.truths.back_mut() {
            truth.ended += ends;
        }
        self.recorded += 1;
    }

    fn truth(&mut self, vm: String, outcome: Outcome, cause: Option<Cause>, exits: Option<u64>) {
        self.truths.push_back(Truth {
            vm,
            ended: Instant::now(),
            outcome,
            cause,
            exits,
        });
    }

    /// Writes the pending events, merged with the recordings' in order of time.
    fn write(&mut self) {
        for event in self.load.events.drain(..) {
            while self.pending.front().is_some_and(|next| next.t <= event.t) {
                let next = self.pending.pop_front().unwrap();
                self.out.event(&next).unwrap();
                self.events += 1;
            }
            self.out.event(&event).unwrap();
            self.events += 1;
        }
        self.out.flush().unwrap();
    }

    /// Compares the stories that have settled with the store.
    fn evaluate(&mut self, state: &Path, score: &mut Score, patience: Duration) {
        let stored = Stored::open(state).unwrap();
        let mut later = VecDeque::new();
        for truth in self.truths.drain(..) {
            if truth.ended.elapsed() < patience {
                later.push_back(truth);
                continue;
            }
            score.looked_up += 1;
            let found = stored.get(&Wanted::Vm(truth.vm.clone())).unwrap();
            let reported = found.first().map(|(_, i)| (i.outcome, i.cause, i.exits.count));
            let right = reported.is_some_and(|(outcome, cause, exits)| {
                outcome == truth.outcome
                    && truth.cause.is_none_or(|wanted| wanted == cause)
                    && exits == truth.exits
            });
            score.right += u64::from(right);
            if !right && score.wrong.len() < 5 {
                score.wrong.push(format!(
                    "{}: {reported:?} instead of {:?} {:?} {:?}",
                    truth.vm, truth.outcome, truth.cause, truth.exits
                ));
            }
        }
        self.truths = later;
    }
}

/// Length of the load: from the environment, or a few seconds.
fn length() -> Duration {
    std::env::var("POISONTRACE_SOAK_SECONDS")
        .ok()
        .and_then(|seconds| seconds.parse().ok())
        .map_or(Duration::from_secs(12), Duration::from_secs)
}

#[test]
fn a_mixed_load_leaves_memory_flat_loses_nothing_and_gets_its_verdicts() {
    let length = length();
    let dir = tempfile::tempdir().unwrap();
    let (mut daemon, pipe, state) = Replay::of_a_pipe(dir.path());
    let out = BufWriter::new(File::options().write(true).open(&pipe).unwrap());
    let mut soak = Soak {
        load: Load::default(),
        out: Writer::new(out, &session()).unwrap(),
        recordings: Recorded::all(),
        pending: VecDeque::new(),
        truths: VecDeque::new(),
        vms: 0,
        recorded: 0,
        storm: None,
        events: 0,
    };
    let began = Instant::now();
    let every = (length / 20).max(Duration::from_secs(2));
    let (mut score, mut memory, mut slowest) = (Score::default(), Vec::new(), Duration::ZERO);
    println!();
    println!(
        "{:>6} {:>10} {:>9} {:>9} {:>6} {:>9} {:>14}",
        "s", "events", "RSS KiB", "peak", "lost", "scrape", "verdicts right"
    );
    let mut tick = 0;
    let mut next = every;
    while began.elapsed() < length {
        soak.tick(tick, began.elapsed());
        tick += 1;
        if began.elapsed() >= next {
            next += every;
            let (text, took) = daemon.metrics();
            slowest = slowest.max(took);
            soak.evaluate(&state, &mut score, SETTLED);
            let rss = daemon.memory_kib("VmRSS");
            memory.push(rss as f64);
            let lost = metric(&text, "poisontrace_events_lost_total");
            println!(
                "{:>6} {:>10} {rss:>9} {:>9} {lost:>6} {took:>9.1?} {:>7} of {}",
                began.elapsed().as_secs(),
                soak.events,
                daemon.memory_kib("VmHWM"),
                score.right,
                score.looked_up
            );
            assert_eq!(lost, 0.0);
        }
        std::thread::sleep((TICK * tick).saturating_sub(began.elapsed()));
    }
    soak.end_storm();
    // The rest of the recordings in progress.
    let rest: Vec<Event> = soak.pending.drain(..).collect();
    soak.load.events.extend(rest);
    soak.write();
    soak.out.flush().unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let Soak {
        out, truths, load, ..
    } = soak;
    drop(out.finish().unwrap());
    daemon.wait("still serving", Duration::from_secs(120));
    std::thread::sleep(Duration::from_secs(1));
    let mut soak = Soak {
        load,
        out: Writer::new(
            BufWriter::new(File::create(dir.path().join("none")).unwrap()),
            &session(),
        )
        .unwrap(),
        recordings: Vec::new(),
        pending: VecDeque::new(),
        truths,
        vms: 0,
        recorded: 0,
        storm: None,
        events: 0,
    };
    soak.evaluate(&state, &mut score, Duration::ZERO);
    let peak = daemon.memory_kib("VmHWM");
    println!(
        "{} of {} verdicts are right; peak {peak} KiB; slowest scrape {slowest:?}",
        score.right, score.looked_up
    );
    assert_eq!(score.right, score.looked_up, "{:#?}", score.wrong);
    assert!(score.looked_up > 10);
    assert!(peak <= MAX_RSS_KIB, "{peak} KiB");
    let (begin, end) = (memory[memory.len() / 3], memory[memory.len() - 1]);
    if memory.len() >= 15 {
        assert!(end <= begin * GROWTH + ROOM_KIB, "memory is not flat: {memory:?}");
    }
    daemon.stop();
}
