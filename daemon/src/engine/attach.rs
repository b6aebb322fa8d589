//! From the running kernel to attached probes: what `run`, `record` and `check` share.

use std::{io, path::Path};

use crate::{
    config::HotPathChoice,
    failure::Failure,
    service::{
        notify,
        privileges::{self, Return},
    },
};
use poisontrace_kernel_facts::{
    facts::{Facts, MEMORY_FAILURE_EVENTS},
    plan::{HotPath, Plan},
};
use poisontrace_model::{
    correlate::resume::TotalsContinuity,
    event::{decode::Decoder, session::Session},
};
use poisontrace_report::probes::reasons;
use poisontrace_sources::{
    host::machine,
    inputs::{poison_scan::PoisonScan, vm_registry::scan::VmScan},
    probes::{
        bpffs::{PinnedTotals, Pins},
        load::{LoadError, Loaded},
        tracepoint::TracepointEvent,
    },
};

/// How probes are attached.
#[derive(Clone, Default)]
pub struct ProbeOptions {
    /// Attach types that are treated as if the kernel had none of them; the report names them.
    pub disabled_attach_types: Vec<String>,
    /// Whether anything is attached to the hooks that every exit passes before there is poison.
    pub hot_path: HotPathChoice,
    /// Pages that the kernel keeps totals of; `None`: as many as the program's map holds.
    pub page_totals: Option<u32>,
    /// So many times what poison attaches is attached and detached again at start: a test.
    pub rehearsals: u32,
}

/// Attached probes and the session they begin.
pub struct Attached {
    pub loaded: Loaded,
    pub session: Session,
    pub decoder: Decoder,
    pub facts: Facts,
    /// Of pages that were lost before; opened once the probes see what is lost from now on.
    pub poison_scan: Option<PoisonScan>,
}

impl Attached {
    /// What became of the kernel's totals since the daemon before.
    pub fn totals_continuity(&self) -> TotalsContinuity {
        match self.loaded.pinned_totals() {
            PinnedTotals::Counting => TotalsContinuity::Continuous,
            PinnedTotals::Idle => TotalsContinuity::Retained,
            PinnedTotals::Absent => TotalsContinuity::Reset,
        }
    }

    /// Gives up the capabilities that are not needed any more. Threads that run already would keep theirs.
    pub fn give_up_privileges(&self) -> Result<(), Failure> {
        let module = self.facts.modules.values().any(|module| module.users.is_some());
        // What is on no hook of an exit until there is poison takes attaching then.
        let attaches = module || self.loaded.hot_path() == &HotPath::OnPoison;
        let kvm = match (attaches, notify::managed()) {
            (false, _) => Return::Never,
            (true, false) => Return::Attach,
            (true, true) => Return::AttachOrStartAgain,
        };
        privileges::give_up(kvm, || self.loaded.maps_can_be_read())
            .map_err(|err| Failure::new(format!("cannot give up capabilities: {err}")))
    }
}

/// Facts of the running kernel, without the disabled attach types.
pub fn facts(args: &ProbeOptions) -> Result<Facts, Failure> {
    let mut facts = Facts::of_this_kernel()?;
    facts.perfmon_suffices = perfmon_suffices();
    facts
        .disabled_attach_types
        .extend(args.disabled_attach_types.iter().cloned());
    Ok(facts)
}

/// Whether CAP_PERFMON is enough for the perf event of a tracepoint, tried with one that is not hot; `None`: not known.
fn perfmon_suffices() -> Option<bool> {
    let tried = privileges::without_admin(|| TracepointEvent::open("sched", "sched_process_exit"))?;
    match tried {
        Ok(_) => Some(true),
        Err(err) if err.kind() == io::ErrorKind::PermissionDenied => Some(false),
        Err(_) => None,
    }
}

/// Reads the facts, makes the plan, carries it out. `guest_code`: guest code may be read.
/// `pins`: where all of it outlives the daemon.
pub fn probes(
    args: &ProbeOptions,
    log_level: u8,
    guest_code: bool,
    pins: Option<Pins>,
) -> Result<Attached, Failure> {
    let mut facts = facts(args)?;
    let mut plan = Plan::new(&facts, guest_code);
    if args.hot_path == HotPathChoice::OnPoison {
        plan = plan.on_poison(&facts, notify::managed());
    }
    plan.page_totals = args.page_totals.or(plan.page_totals);
    let predates = facts.hardware_corrupted_kb.is_some_and(|kb| kb > 0);
    let mut loaded = Loaded::new(plan, &facts, predates, log_level, pins).map_err(|err| failed(&err))?;
    for n in 0..args.rehearsals {
        loaded
            .rehearse()
            .map_err(|why| Failure::new(format!("rehearsal {n}: {why}")))?;
    }
    // Poison that came while nothing saw it yet: after the facts were read, and before the programs were at work.
    let predates = predates || {
        facts.hardware_corrupted_kb = Facts::hardware_corrupted_kb_now();
        facts.hardware_corrupted_kb.is_some_and(|kb| kb > 0)
    };
    if predates && loaded.on_standby() {
        for failed in loaded.arm() {
            tracing::warn!(probe = %failed, "cannot attach a probe in full");
        }
    }
    let session = Session {
        host: machine::this_host(),
        clock: machine::clock_pair(),
        probes: loaded.probes(),
        hardware_corrupted_kb: facts.hardware_corrupted_kb,
        counters_watched: counters_watched(&facts),
        standby: loaded.on_standby(),
    };
    let decoder = decoder(&facts);
    let poison_scan = predates.then(|| poison_scan(&facts)).flatten();
    Ok(Attached {
        loaded,
        session,
        decoder,
        facts,
        poison_scan,
    })
}

/// Whether /proc/meminfo shows what the host has lost: it has HardwareCorrupted with CONFIG_MEMORY_FAILURE, and without
/// that there is no `memory_failure()`.
fn counters_watched(facts: &Facts) -> bool {
    let symbols = &facts.symbols;
    facts.hardware_corrupted_kb.is_some() || !symbols.is_empty() && !symbols.contains("memory_failure")
}

fn failed(err: &LoadError) -> Failure {
    Failure::new(match err {
        LoadError::Nothing(why) => format!("{err}; the first reason: {}", reasons(why)),
        other => other.to_string(),
    })
}

fn poison_scan(facts: &Facts) -> Option<PoisonScan> {
    const PROC: &str = "/proc";
    /// Each takes half a second at most.
    const LOOKS: usize = 8;
    let mut scan = VmScan::new(PROC);
    let mut pids = Vec::new();
    for _ in 0..LOOKS {
        let look = scan.look();
        pids.extend(look.found.into_iter().map(|(pid, _)| pid));
        if look.left_out == 0 {
            break;
        }
    }
    PoisonScan::open(Path::new(PROC), facts.hardware_corrupted_kb, &pids)
}

fn decoder(facts: &Facts) -> Decoder {
    let event = facts.event(MEMORY_FAILURE_EVENTS[0]);
    event.map_or_else(Decoder::default, |(_, event)| Decoder {
        page_types: event.symbols("type"),
        results: event.symbols("result"),
    })
}

/// One line for a service manager.
pub fn status(session: &Session) -> String {
    let attached = session
        .probes
        .iter()
        .filter(|probe| probe.binding.is_some())
        .count();
    format!("{attached} of {} probes attached", session.probes.len())
}
