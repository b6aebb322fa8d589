//! Carries an attach plan out.
//!
//! [`Loaded::new`] is the one place that loads the object, `Loaded::attach_row` the one that attaches a row (also
//! once more), `Loaded::detach_row` the one that detaches it.

use std::collections::BTreeMap;

use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{Array, Map, MapData, PerCpuArray},
};
use poisontrace_probes::arming;

use super::{
    attach::attach_all,
    binding::{self, Link, Size, chain},
    bpffs::{self, PinnedTotals, Pins},
    clock::Clock,
    fentry_btf, memory, preallocated,
    probe::{Probe, ProbeState},
};
use poisontrace_kernel_facts::{
    btf::Prototype,
    facts::Facts,
    plan::{HotPath, Plan},
};
use poisontrace_model::event::probe::{ProbeId, ProbeReason, ProbeStatus};

/// The object that `cargo xtask build` made; empty in a build without it.
pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/probes.o"));

/// The section of the time since when kvm_exit and kvm_entry are attached.
const ATTACHED: &str = ".data.attached";
/// They are not: later than any time.
pub(super) const NOT_ATTACHED: u64 = u64::MAX;

/// Why nothing could be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("this poisontrace was built without its BPF programs: build it with `cargo xtask build`")]
    NotBuiltIn,
    #[error("cannot load the BPF object: {0}")]
    Object(String),
    #[error("cannot bind to functions by BTF: {0}")]
    Btf(String),
    /// Of the first row that has reasons: those.
    #[error("no probe could be attached")]
    Nothing(Vec<ProbeReason>),
    #[error("the BPF object has no map {0}: the binary and its probes do not belong together")]
    Map(&'static str),
    #[error("cannot take over from the daemon before: {0}; `poisontrace detach` removes what it left")]
    TakeOver(String),
}

/// Loaded programs. Dropping it detaches them all, and removes what is pinned: only a daemon that is killed leaves it.
pub struct Loaded {
    pub ebpf: Ebpf,
    /// For the BTF that binding by it asks for, which is dropped after each use: it is megabytes.
    pub(super) functions: BTreeMap<String, Prototype>,
    /// The offsets that the programs were loaded with.
    pub(super) plan: Plan,
    pub(super) rows: Vec<Probe>,
    /// Where all of it outlives the daemon.
    pub(super) pins: Option<Pins>,
    pinned_totals: PinnedTotals,
    /// There is no poison yet: some rows are held by what stands by for them.
    pub(super) standby: bool,
    /// The flag that the programs go by, once they are at work.
    pub(super) flag: Option<Array<MapData, u32>>,
    /// Since when kvm_exit and kvm_entry are attached, as the programs go by it.
    pub(super) attached_ns: Option<Array<MapData, u64>>,
    pub(super) clock: Option<Clock>,
    /// To the daemon that comes next.
    left: bool,
}

impl Loaded {
    /// Loads the object and attaches all that the plan offers. A row whose alternatives all fail is reported and
    /// left out.
    ///
    /// `armed`: arm from the start, for poison that predates the daemon. `log_level`: of the probes' own
    /// diagnostics, as `aya_log::Level` (0: none).
    ///
    /// # Errors
    /// If the object cannot be loaded, or nothing at all can be attached.
    pub fn new(
        plan: Plan,
        facts: &Facts,
        armed: bool,
        log_level: u8,
        pins: Option<Pins>,
    ) -> Result<Self, LoadError> {
        if OBJECT.is_empty() {
            return Err(LoadError::NotBuiltIn);
        }
        Self::of(OBJECT, plan, facts, armed, log_level, pins)
    }

    /// The same with another object of these programs: what they cost is measured beside empty ones.
    ///
    /// # Errors
    /// As [`Loaded::new`].
    pub fn of(
        object: &[u8],
        plan: Plan,
        facts: &Facts,
        armed: bool,
        log_level: u8,
        pins: Option<Pins>,
    ) -> Result<Self, LoadError> {
        let mut loaded = Self::unattached(object, plan, facts, armed, log_level, pins)?;
        loaded.begin(armed)?;
        Ok(loaded)
    }

    /// The same, of which nothing is attached: who measures programs attaches them elsewhere.
    ///
    /// # Errors
    /// If the object cannot be loaded.
    pub fn unattached(
        object: &[u8],
        plan: Plan,
        facts: &Facts,
        armed: bool,
        log_level: u8,
        pins: Option<Pins>,
    ) -> Result<Self, LoadError> {
        // With pins the programs are held until all are attached: those of a daemon before are at work meanwhile.
        let arming = match (&pins, armed) {
            (Some(_), _) => arming::QUIESCED,
            (None, true) => arming::ARMED,
            (None, false) => arming::IDLE,
        };
        let shadow_paging = u32::from(plan.shadow_paging);
        let isa = plan.isa.unwrap_or(0);
        let daemon = std::process::id();
        let mut loader = EbpfLoader::new();
        // The programs have no relocations against the kernel's BTF, which the loader has read nonetheless: let go
        // of it before anything else is allocated behind it.
        loader.btf(None);
        loader.override_global("ARMED", &arming, true);
        let later = plan.hot_path == HotPath::OnPoison && !armed;
        let attached_ns = if later { NOT_ATTACHED } else { 0 };
        loader.override_global("ATTACHED_NS", &attached_ns, true);
        if let Some(entries) = plan.page_totals {
            loader.map_max_entries("PAGES", entries);
        }
        if let Some(pins) = &pins {
            for map in bpffs::MAPS {
                loader.map_pin_path(map, pins.map(map));
            }
        }
        loader.override_global("DAEMON", &daemon, true);
        loader.override_global("SHADOW_PAGING", &shadow_paging, true);
        loader.override_global("HOST_ISA", &isa, true);
        let late_begin = u32::from(plan.hot_path == HotPath::OnPoison);
        loader.override_global("LATE_BEGIN", &late_begin, true);
        loader.override_global(aya_log::LEVEL, &log_level, false);
        for (name, offset) in &plan.offsets {
            loader.override_global(name, offset, true);
        }
        let preallocated = match plan.preallocated_totals {
            true => Some(preallocated::object(object).map_err(LoadError::Object)?),
            false => None,
        };
        let mut ebpf = loader
            .load(preallocated.as_deref().unwrap_or(object))
            .map_err(|err| LoadError::Object(chain(&err)))?;
        let clock = Clock::new(&mut ebpf);
        let attached_ns = bpffs::section(&mut ebpf, ATTACHED)
            .and_then(|data| Array::try_from(Map::Array(data)).map_err(|err| chain(&err)))
            .map_err(LoadError::Object)?;
        let rows = plan.rows.iter().map(Probe::new).collect();
        Ok(Self {
            ebpf,
            functions: facts.functions.clone(),
            plan,
            rows,
            pinned_totals: pins.as_ref().map_or(PinnedTotals::Absent, Pins::totals),
            pins,
            standby: !armed,
            flag: None,
            attached_ns: Some(attached_ns),
            clock,
            left: false,
        })
    }

    fn begin(&mut self, armed: bool) -> Result<(), LoadError> {
        let btf = fentry_btf::of(&self.functions).map_err(LoadError::Btf)?;
        for n in 0..self.rows.len() {
            self.attach_row(n, &btf);
        }
        drop(btf);
        memory::give_back();
        self.renew_clock();
        if self.rows.iter().all(|row| row.state != ProbeState::Attached) {
            let mut reasons = self.rows.iter().map(|row| &row.status.why);
            let first = reasons.find(|why| !why.is_empty());
            return Err(LoadError::Nothing(first.cloned().unwrap_or_default()));
        }
        self.flag = Some(match &mut self.pins {
            Some(pins) => pins
                .take_over(&mut self.ebpf, armed)
                .map_err(LoadError::TakeOver)?,
            None => bpffs::flag(&mut self.ebpf)
                .and_then(|data| Array::try_from(Map::Array(data)).map_err(|err| chain(&err)))
                .map_err(LoadError::Object)?,
        });
        Ok(())
    }

    /// Keeps what the programs know of the time stamp counter in step with the clock. To be called every ten seconds.
    pub fn renew_clock(&mut self) {
        if let Some(clock) = &mut self.clock {
            clock.renew();
        }
    }

    /// How far off times may be that the programs have of the time stamp counter, ns; `None`: they have none.
    pub fn clock_error_ns(&self) -> Option<u64> {
        self.clock.as_ref().and_then(Clock::error_ns)
    }

    /// The totals as a daemon before left them.
    pub fn pinned_totals(&self) -> PinnedTotals {
        self.pinned_totals
    }

    /// Leaves what is pinned to the daemon that comes next, which is on its way: nothing is missed meanwhile. Whether
    /// anything is.
    pub fn hand_over(&mut self) -> bool {
        self.left = self.pins.is_some();
        self.left
    }

    /// Detaches everything, and removes what is pinned.
    fn detach(&mut self) {
        if self.left {
            return;
        }
        for n in 0..self.rows.len() {
            self.detach_row(n);
        }
        if let Some(pins) = self.pins.take()
            && let Err(err) = pins.clear()
        {
            tracing::error!(error = %err, "not all that is pinned could be removed: `poisontrace detach` does");
        }
    }

    /// Whether this row is attached now.
    pub fn has(&self, probe: &ProbeId) -> bool {
        let row = self.rows.iter().find(|row| row.status.probe == *probe);
        row.is_some_and(|row| row.state == ProbeState::Attached)
    }

    /// Whether this thread may read the programs' maps.
    pub fn maps_can_be_read(&self) -> bool {
        let lost = self.ebpf.map("LOST").map(PerCpuArray::<_, u64>::try_from);
        lost.is_some_and(|map| map.is_ok_and(|map| map.get(&0, 0).is_ok()))
    }

    /// One row each, in the plan's order.
    pub fn rows(&self) -> &[Probe] {
        &self.rows
    }

    /// The rows as the session keeps them.
    pub fn probes(&self) -> Vec<ProbeStatus> {
        self.rows.iter().map(|row| row.status.clone()).collect()
    }

    /// The programs of a row that are attached, or loaded to be when there is poison, and their sizes.
    pub fn sizes<'a>(&'a self, row: &'a Probe) -> impl Iterator<Item = Size> + 'a {
        let held_back = self.standby && row.row.standby.is_some();
        let later = row.row.offered().next().filter(|_| held_back);
        let attached = row.links.iter().map(|(name, _)| *name);
        attached
            .chain(later.into_iter().flatten().map(|attach| attach.program))
            .filter_map(|name| binding::size(name, self.ebpf.program(name)?))
    }

    /// Attaches what stands by for a row, or the best alternative that the kernel takes.
    pub(super) fn attach_row(&mut self, n: usize, btf: &Btf) {
        let mut reasons = Vec::new();
        if self.standby
            && let Some(programs) = self.rows[n].row.standby.clone()
        {
            let held = self
                .reserve(n, btf)
                .and_then(|()| attach_all(&mut self.ebpf, btf, &programs, self.pins.as_ref()));
            match held {
                Ok(links) => return self.rows[n].stands_by(links),
                Err(reason) => reasons.push(ProbeReason::Text(reason)),
            }
        }
        for alternative in self.rows[n].row.alternatives.clone() {
            let attached = alternative.and_then(|programs| {
                let links = attach_all(&mut self.ebpf, btf, &programs, self.pins.as_ref());
                links.map(|links| (programs, links)).map_err(ProbeReason::Text)
            });
            match attached {
                Ok((programs, links)) => return self.rows[n].attached(&programs, links, reasons),
                Err(reason) => reasons.push(reason),
            }
        }
        self.rows[n].unavailable(reasons);
    }

    pub(super) fn detach_row(&mut self, n: usize) {
        self.rows[n].reserved.clear();
        let links = std::mem::take(&mut self.rows[n].links);
        self.detach_links(links);
    }

    pub(super) fn detach_links(&mut self, links: Vec<(&'static str, Link)>) {
        for (name, link) in links {
            let detached = self
                .ebpf
                .program_mut(name)
                .map_or(Ok(()), |program| binding::detach(program, link));
            if let Err(err) = detached {
                // What it was attached to may be gone already.
                tracing::debug!(program = name, error = %err, "not detached");
            }
        }
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        self.detach();
    }
}
