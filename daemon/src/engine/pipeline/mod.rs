//! One record's way: inputs → model → outputs, live or replayed.
//!
//! | step | function |
//! |---|---|
//! | who its process is, the guest's code | [`Pipeline::take`] |
//! | outputs that take events; the model; the store's sample | `Pipeline::feed` |
//! | changed incidents to the outputs | [`Pipeline::flush`] |

mod flush;
mod resume;
mod waiting;

use std::{
    collections::{BTreeMap, VecDeque},
    path::Path,
};

use waiting::Waiting;

use crate::{
    config::{self, Config},
    outputs::{Outputs, hook::Hook, metrics::KernelTables},
};
use poisontrace_model::{
    correlate::{Correlator, IncidentNo},
    event::{Event, EventKind, probe::ProbeStatus, session::Session},
    forecast::Counts,
    hex::Hex,
    host::ClockPair,
};
use poisontrace_sources::{
    host::{
        kernel_counters::KernelCounters, machine::clock_pair, process_usage::Usage, program_cost::ProgramCost,
    },
    inputs::{
        guest_code::CodeReader,
        poison_scan::Found,
        vm_registry::{VmRegistry, identity_event, scan::Look},
        vmm_log::VmmWatcher,
        vmm_places::VmmPlaces,
    },
};

/// See the module.
pub struct Pipeline {
    /// Present where the events are this machine's own.
    live: Option<Live>,
    correlator: Correlator,
    outputs: Outputs,
    /// Incidents whose newest state has not been looked at yet.
    changed: Waiting,
    /// Incidents that the store had no room for.
    unstored: Waiting,
    /// Incidents of which nothing more is expected, in the order of their ends: one that lasted long was opened early, and
    /// its last totals are still to come.
    ended: VecDeque<IncidentNo>,
    /// VMMs of incidents that were taken over, and when they started, clock ticks since boot.
    resumed: BTreeMap<u32, Option<u64>>,
    /// Ended incidents that were dropped before they were stored.
    given_up: u64,
    /// The kernel's counters have shown poisoned memory.
    host_memory_lost: bool,
    /// Time of the latest event.
    latest_ns: u64,
}

/// Sources that only the live machine has.
struct Live {
    registry: VmRegistry,
    /// Present where guest code may be read.
    code: Option<CodeReader>,
    watcher: VmmWatcher,
}

impl Pipeline {
    /// Of this machine's events.
    pub fn live(session: Session, outputs: Outputs, read_guest_code: bool, vmms: VmmPlaces) -> Self {
        let live = Live {
            registry: VmRegistry::new("/proc"),
            code: read_guest_code.then(CodeReader::default),
            watcher: VmmWatcher::new(vmms),
        };
        Self {
            live: Some(live),
            ..Self::of(session, outputs)
        }
    }

    /// Of recorded events, whose times `clock` makes those of now.
    pub fn replay(session: Session, mut outputs: Outputs, clock: ClockPair) -> Self {
        outputs.metrics.replays(&session, clock);
        Self::of(session, outputs)
    }

    fn of(session: Session, outputs: Outputs) -> Self {
        Self {
            live: None,
            correlator: Correlator::new(session),
            outputs,
            changed: Waiting::default(),
            unstored: Waiting::default(),
            ended: VecDeque::new(),
            resumed: BTreeMap::new(),
            given_up: 0,
            host_memory_lost: false,
            latest_ns: 0,
        }
    }

    /// Runs the trigger hook from now on; to be called on the event loop.
    pub fn start_hook(&mut self, settings: config::Hook) {
        let host = self.correlator.session().host.clone();
        self.outputs.hook = Some(Hook::start(settings, host));
    }

    /// Takes over the settings that may change while the daemon runs.
    pub fn configure(&mut self, config: &Config) {
        self.correlator.attribution_window(
            config
                .incident
                .attribution_window_seconds
                .saturating_mul(1_000_000_000),
        );
        if let Some(hook) = &mut self.outputs.hook {
            hook.configure(config.hook.clone());
        }
    }

    /// Takes what a look for VMs has found.
    pub fn vms(&mut self, now_ns: u64, look: Look) {
        let Some(live) = &mut self.live else { return };
        for (pid, vmm) in live.registry.take(look) {
            tracing::debug!(pid, name = vmm.name.as_deref().unwrap_or("?"), "a VM is running");
            self.feed(&identity_event(now_ns, pid, vmm));
        }
    }

    pub fn take(&mut self, events: &[Event]) {
        for event in events {
            let introduced = |pid| self.correlator.knows(pid);
            let identity = self
                .live
                .as_mut()
                .and_then(|live| live.registry.identify(event, introduced));
            if let Some(identity) = identity {
                self.feed(&identity);
            }
            self.feed(event);
            let code = self.live.as_mut().and_then(|live| live.code.as_mut());
            if let Some(code) = code.and_then(|reader| reader.take(event)) {
                self.feed(&code);
            }
        }
    }

    /// Takes a page that was lost before the start.
    pub fn preexisting(&mut self, page: Found) {
        let found = Event {
            t: clock_pair().monotonic_ns,
            tid: page.pid,
            pid: page.pid,
            vcpu: None,
            what: EventKind::Preexisting {
                pfn: Hex(page.pfn),
                hva: Hex(page.hva),
            },
        };
        self.take(&[found]);
    }

    /// The next statement of a VMM whose incident is open.
    pub async fn next_vmm_statement(&mut self) -> Event {
        match &mut self.live {
            Some(live) => live.watcher.next().await,
            None => std::future::pending().await,
        }
    }

    fn feed(&mut self, event: &Event) {
        tracing::trace!(?event);
        self.latest_ns = self.latest_ns.max(event.t);
        self.outputs.event(event);
        self.correlator.feed(event);
        if let Some(store) = &self.outputs.store {
            for (incident, n) in self.correlator.attribution() {
                store.event(&incident, n, event);
            }
        }
    }

    /// The text of /metrics as things stand. `probes`, `costs`, `tables`: of the BPF programs, where they are this machine's.
    pub fn scraped(&mut self, probes: &[ProbeStatus], costs: &[ProgramCost], tables: KernelTables) -> String {
        self.flush();
        let metrics = &mut self.outputs.metrics;
        match &self.live {
            Some(live) => {
                metrics.tick(clock_pair().monotonic_ns);
                metrics.tables(
                    live.registry.vms(),
                    self.correlator.incidents_evicted() + self.given_up,
                    &self.correlator.table_evictions(),
                );
                metrics.tables_beside(tables, live.registry.no_room());
                metrics.probes(probes);
                metrics.programs(costs);
            }
            None => metrics.tick(self.latest_ns),
        }
        let mut waited = self.changed.longest().max(self.unstored.longest());
        if let Some(store) = &self.outputs.store {
            let health = store.health();
            metrics.store(store.size_bytes(), &health);
            waited = waited.max(health.longest_wait);
        }
        metrics.delay(waited);
        if let Some(hook) = &mut self.outputs.hook {
            hook.ended().into_iter().for_each(|ended| metrics.hook(ended));
        }
        if let Some(usage) = Usage::read() {
            metrics.process(&usage);
        }
        metrics.exposition()
    }

    /// Processes of the VMs that are known; of recorded events none.
    pub fn vmms(&self) -> Vec<u32> {
        self.live
            .as_ref()
            .map_or_else(Vec::new, |live| live.registry.vmms())
    }

    /// Sets the metrics of a forecast that was made just now.
    pub fn forecast(&self, counts: &Counts) {
        self.outputs.metrics.forecast(counts, clock_pair());
    }

    /// The probes have been proved live, now.
    pub fn proved_live(&self) {
        self.outputs.metrics.proved_live(clock_pair());
    }

    /// How often each row of the probe table was attached again.
    pub fn reattached<'a>(&self, rows: impl Iterator<Item = (&'a str, u64)>) {
        self.outputs.metrics.reattached(rows);
    }

    /// See [`Correlator::holds_poison`].
    pub fn holds_poison(&self, now_ns: u64) -> bool {
        self.correlator.holds_poison(now_ns)
    }

    /// Compares with the kernel's own counters; not more often than events need to arrive.
    pub fn reconcile(&mut self) {
        let counters = KernelCounters::read(Path::new("/"));
        let lost = counters.hardware_corrupted.is_some_and(|bytes| bytes > 0);
        if lost && !std::mem::replace(&mut self.host_memory_lost, true) {
            // An event, so that a recording holds what the verdicts rest on.
            self.feed(&Event {
                t: clock_pair().monotonic_ns,
                tid: 0,
                pid: 0,
                vcpu: None,
                what: EventKind::HostMemoryLost,
            });
        }
        let missed = self.outputs.metrics.kernel(&counters);
        if missed > 0 {
            tracing::error!(
                failures = missed,
                "the kernel has counted memory failures that no probe saw: their guests have no incident (`journalctl -k -g 'Memory failure'` names the pages)"
            );
        }
    }
}
