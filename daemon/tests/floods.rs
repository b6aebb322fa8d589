//! Floods: counts stay exact and memory stays bounded. Sequential in one process, whose memory is measured.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking; its helper functions too"
)]

#[path = "synthetic_load/mod.rs"]
mod synthetic_load;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use poisontrace_model::{
    correlate::Correlator,
    event::Event,
    incident::model::{Incident, Outcome},
};
use synthetic_load::{Load, Page, memory_kib, session};

/// Limit for the process in the largest flood.
const MAX_RSS_KIB: u64 = 64 << 10;
/// Time limit for one flood, in a debug build on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// The correlator, and its reports without keeping them.
struct Run {
    correlator: Correlator,
    name: &'static str,
    numbers: BTreeSet<u64>,
    began: Instant,
    events: u64,
}

impl Run {
    fn new(name: &'static str) -> Self {
        Self {
            correlator: Correlator::new(session()),
            name,
            numbers: BTreeSet::new(),
            began: Instant::now(),
            events: 0,
        }
    }

    fn feed(&mut self, events: &mut Vec<Event>) {
        for event in events.drain(..) {
            self.correlator.feed(&event);
            self.events += 1;
        }
        let mut changed = self.correlator.take_numbers();
        self.numbers.append(&mut changed);
    }

    /// Checks that each incident's exits are those of the load.
    fn settle(self, truth: &BTreeMap<Page, u64>, look: impl Fn(&Incident)) {
        let took = self.began.elapsed();
        assert_eq!(
            self.numbers.len(),
            truth.len(),
            "{}: an incident a page",
            self.name
        );
        let pages: BTreeMap<(u32, u64), u64> = truth
            .iter()
            .map(|(page, exits)| ((page.pid(), page.hva()), *exits))
            .collect();
        // One at a time, as the daemon does.
        for no in &self.numbers {
            let incident = self.correlator.report(*no).unwrap().incident;
            let page = (incident.vm.pid.unwrap(), incident.page.hva.unwrap().0);
            assert_eq!(
                incident.exits.count,
                Some(pages[&page]),
                "{}: {page:x?}",
                self.name
            );
            look(&incident);
        }
        assert_eq!(self.correlator.incidents_evicted(), 0);
        eprintln!(
            "{:<40} {:>9} events in {:>8.2?}, reported in {:>8.2?}; RSS {:>6} KiB",
            self.name,
            self.events,
            took,
            self.began.elapsed() - took,
            memory_kib("VmRSS")
        );
        assert!(took < PATIENCE, "{}: {took:?}", self.name);
    }
}

fn a_million_exits_on_one_vcpu() {
    let mut run = Run::new("1,000,000 exits on one vCPU");
    let mut load = Load::default();
    let page = Page { vm: 0, no: 1 };
    load.vm(0);
    load.poison(page, 12);
    for n in 0..1_000_000u64 {
        load.touch(page, page, 0, n % 64);
        if load.events.len() > 4000 {
            run.feed(&mut load.events);
        }
    }
    run.feed(&mut load.events);
    run.settle(&load.exits, |incident| {
        assert_eq!(incident.exits.distinct_lines, Some(64));
        assert_eq!(incident.signals.action_required, Some(1_000_000));
        assert_eq!(incident.latency_ns.gup.as_ref().unwrap().sum, 200_000_000);
    });
}

fn ten_thousand_poisoned_pages(vms: u32) {
    let name = match vms {
        1 => "10,000 poisoned pages of one VM",
        _ => "10,000 poisoned pages of 10 VMs",
    };
    let mut run = Run::new(name);
    let mut load = Load::default();
    (0..vms).for_each(|vm| load.vm(vm));
    for n in 0..10_000u64 {
        let page = Page {
            vm: (n % u64::from(vms)) as u32,
            no: n,
        };
        load.poison(page, 12);
        load.touch(page, page, 0, 3);
        load.inject(page, 0);
        load.handled(page, 0);
        if load.events.len() > 4000 {
            run.feed(&mut load.events);
        }
    }
    run.feed(&mut load.events);
    run.settle(&load.exits, |incident| {
        assert_eq!(incident.injections.action_required, Some(1));
    });
}

fn a_thousand_vms_of_which_a_hundred_die_at_once() {
    let mut run = Run::new("1,000 VMs, 100 of them die at once");
    let mut load = Load::default();
    let page = |vm| Page { vm, no: 9 };
    for vm in 0..1000 {
        load.vm(vm);
        load.poison(page(vm), 12);
        (0..32).for_each(|vcpu| load.touch(page(vm), page(vm), vcpu, 0));
        load.inject(page(vm), 0);
        run.feed(&mut load.events);
    }
    (0..100).for_each(|vm| load.panics(page(vm)));
    run.feed(&mut load.events);
    run.settle(&load.exits, |incident| {
        let dead = incident.vm.name.as_deref().is_some_and(|name| {
            name.trim_start_matches("vm")
                .parse::<u32>()
                .is_ok_and(|vm| vm < 100)
        });
        assert_eq!(
            incident.outcome == Outcome::GuestPanicked,
            dead,
            "{:?}",
            incident.vm
        );
    });
}

fn all_pages_of_a_huge_page() {
    let mut run = Run::new("512 pages of a huge page, 8 vCPUs");
    let mut load = Load::default();
    let huge = Page { vm: 3, no: 512 };
    load.vm(3);
    load.poison(huge, 21);
    for n in 0..512 {
        for vcpu in 0..8 {
            load.touch(Page { vm: 3, no: 512 + n }, huge, vcpu, u64::from(vcpu));
        }
        run.feed(&mut load.events);
    }
    run.settle(&load.exits, |incident| {
        assert_eq!(incident.page.gpas.len(), 512);
        assert_eq!(incident.exits.distinct_lines, Some(512 * 8));
    });
}

/// Events of one CPU are in order, those of different CPUs are not: possible between batches of the ring buffer.
fn order_shuffled_across_cpus() {
    let mut run = Run::new("order shuffled across CPUs");
    let mut load = Load::default();
    let page = |vm| Page { vm, no: 9 };
    for vm in 0..50 {
        load.vm(vm);
        load.poison(page(vm), 12);
    }
    run.feed(&mut load.events);
    for n in 0..64 {
        for vm in 0..50 {
            load.touch(page(vm), page(vm), (n % 4) as u32, n);
        }
    }
    // Grouped by thread, then interleaved again without changing the order within a thread.
    let mut threads: BTreeMap<u32, std::collections::VecDeque<Event>> = BTreeMap::new();
    for event in load.events.drain(..) {
        threads.entry(event.tid).or_default().push_back(event);
    }
    let mut seed = 88_172_645_463_325_252u64;
    let mut shuffled = Vec::new();
    while !threads.is_empty() {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let nth = (seed % threads.len() as u64) as usize;
        let tid = *threads.keys().nth(nth).unwrap();
        let queue = threads.get_mut(&tid).unwrap();
        shuffled.extend(queue.pop_front());
        if queue.is_empty() {
            threads.remove(&tid);
        }
    }
    run.feed(&mut shuffled);
    run.settle(&load.exits, |incident| {
        assert_eq!(incident.exits.distinct_lines, Some(64));
        assert_eq!(incident.latency_ns.exit_to_entry.as_ref().unwrap().count, 64);
    });
}

/// More incidents than fit: the oldest are evicted and counted, and new events are still processed in time.
fn more_incidents_than_are_kept() {
    let mut correlator = Correlator::new(session());
    let mut load = Load::default();
    let began = Instant::now();
    for n in 0..40_000u64 {
        load.poison(Page { vm: 5, no: n }, 12);
        for event in load.events.drain(..) {
            correlator.feed(&event);
        }
        if n % 1000 == 0 {
            let _ = correlator.take_numbers();
        }
    }
    assert_eq!(
        correlator.incidents_evicted(),
        40_000 - correlator.incident_count() as u64
    );
    assert!(correlator.incident_count() <= 16_384);
    eprintln!(
        "40,000 pages: {:?}, RSS {} KiB",
        began.elapsed(),
        memory_kib("VmRSS")
    );
    assert!(began.elapsed() < PATIENCE);
}

/// The wall clock is read once: a step of it while the daemon runs changes no incident's id, and the events' monotonic clock
/// does not step.
fn a_step_of_the_wall_clock_renames_nothing() {
    let mut load = Load::default();
    load.vm(1);
    load.poison(Page { vm: 1, no: 1 }, 12);
    let mut correlator = Correlator::new(session());
    load.events.drain(..).for_each(|event| correlator.feed(&event));
    let before = correlator.incidents()[0].clone();
    // Two hours on the events' clock, independent of the wall clock.
    load.now += 7_200_000_000_000;
    load.touch(Page { vm: 1, no: 1 }, Page { vm: 1, no: 1 }, 0, 0);
    load.events.drain(..).for_each(|event| correlator.feed(&event));
    let after = &correlator.incidents()[0];
    assert_eq!((&after.id, &after.started_at), (&before.id, &before.started_at));
}

#[test]
fn floods_are_counted_exactly_and_fit_into_bounded_memory() {
    all_pages_of_a_huge_page();
    order_shuffled_across_cpus();
    a_million_exits_on_one_vcpu();
    a_thousand_vms_of_which_a_hundred_die_at_once();
    ten_thousand_poisoned_pages(10);
    ten_thousand_poisoned_pages(1);
    a_step_of_the_wall_clock_renames_nothing();
    let peak = memory_kib("VmHWM");
    eprintln!("peak RSS {peak} KiB");
    assert!(peak <= MAX_RSS_KIB, "{peak} KiB");
    more_incidents_than_are_kept();
}
