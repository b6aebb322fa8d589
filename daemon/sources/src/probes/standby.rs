//! Rows that are held by something cheaper as long as there is no poison.

use std::collections::BTreeMap;

use aya::Btf;

use super::{
    attach::attach_all,
    binding::{self, chain},
    fentry_btf,
    load::{Loaded, NOT_ATTACHED},
    probe::{Links, ProbeState, are_of},
    tracepoint::TracepointEvent,
};
use crate::host::machine::clock_pair;
use poisontrace_kernel_facts::plan::{Attach, Binding, HotPath};
use poisontrace_model::event::probe::ProbeReason;
use poisontrace_probes::arming;

impl Loaded {
    /// Whether some rows are held by what stands by for them, until [`Loaded::attach_reserved`].
    pub fn on_standby(&self) -> bool {
        self.standby && self.plan.rows.iter().any(|row| row.standby.is_some())
    }

    /// Arms the programs for poison that none of them saw, and attaches the full probes. As [`Loaded::attach_reserved`].
    pub fn arm(&mut self) -> Vec<String> {
        if let Err(why) = self.set_arming(arming::ARMED) {
            return vec![why];
        }
        self.attach_reserved()
    }

    /// Whether the programs count and send.
    pub fn armed(&self) -> bool {
        let flag = self.flag.as_ref().and_then(|flag| flag.get(&0, 0).ok());
        flag == Some(arming::ARMED)
    }

    /// No VM holds poison any more: a program on a hot path is one load and one branch again, until the next poison arms it.
    /// What was attached in full stays so, until [`Loaded::detach_exits`].
    ///
    /// # Errors
    /// If the flag cannot be set.
    pub fn disarm(&mut self) -> Result<(), String> {
        self.set_arming(arming::IDLE)
    }

    /// Sets the flag that the programs go by.
    fn set_arming(&mut self, value: u32) -> Result<(), String> {
        let flag = self.flag.as_mut().ok_or("the programs are not at work yet")?;
        flag.set(0, value, 0).map_err(|err| chain(&err))
    }

    /// There is poison: attaches what sees exits and entries at once, where nothing did. Returns why a row could not be; whether
    /// there was anything to do, [`Loaded::exits_unseen`] shows before.
    pub fn attach_exits(&mut self) -> Vec<String> {
        let mut failed = Vec::new();
        if !self.exits_unseen() {
            return failed;
        }
        let btf = match fentry_btf::of(&BTreeMap::new()) {
            Ok(btf) => btf,
            Err(why) => return vec![why],
        };
        for n in 0..self.rows.len() {
            let first = self.rows[n].row.first.clone();
            if first.is_empty()
                || self.rows[n].state != ProbeState::Attached
                || are_of(&self.rows[n].links, &first)
            {
                continue;
            }
            match attach_all(&mut self.ebpf, &btf, &first, self.pins.as_ref()) {
                Ok(links) => {
                    let stood_by = std::mem::replace(&mut self.rows[n].links, links);
                    self.detach_links(stood_by);
                }
                Err(why) => failed.push(format!("{}: {why}", self.rows[n].row.probe)),
            }
        }
        if failed.is_empty() {
            self.exits_attached(clock_pair().monotonic_ns);
        }
        failed
    }

    /// What is on the hooks that every exit passes, and why.
    pub fn hot_path(&self) -> &HotPath {
        &self.plan.hot_path
    }

    /// Whether nothing is attached to the hooks that every exit passes, as there is no poison.
    pub fn exits_unseen(&self) -> bool {
        self.standby && self.plan.hot_path == HotPath::OnPoison
    }

    /// From when on the programs may take a time of kvm_exit for that of the exit under way.
    fn exits_attached(&mut self, since_ns: u64) {
        let set = self.attached_ns.as_mut().map(|map| map.set(0, since_ns, 0));
        if let Some(Err(err)) = set {
            tracing::warn!(error = %err, "times of exits are KVM's own");
        }
    }

    /// There is poison: attaches the full probes, and detaches those that stood by. Returns why a row could not
    /// be; it is then left as it was.
    pub fn attach_reserved(&mut self) -> Vec<String> {
        if !self.standby {
            return Vec::new();
        }
        let mut failed = self.attach_exits();
        let on_poison = self.exits_unseen();
        self.standby = false;
        let btf = match fentry_btf::of(&BTreeMap::new()) {
            Ok(btf) => btf,
            Err(why) => return vec![why],
        };
        for n in 0..self.rows.len() {
            if self.rows[n].row.standby.is_none() || self.rows[n].state != ProbeState::Attached {
                continue;
            }
            let attached = match on_poison {
                true => self.attach_in_place(n, &btf),
                false => self.attach_reserved_row(n),
            };
            if let Err(why) = attached {
                failed.push(format!("{}: {why}", self.rows[n].row.probe));
            }
        }
        failed
    }

    /// The full probe in place of the first. The new one comes before the other goes: no exit is missed.
    fn attach_in_place(&mut self, n: usize, btf: &Btf) -> Result<(), String> {
        let offered = self.rows[n].row.offered().next().cloned().unwrap_or_default();
        let first = std::mem::take(&mut self.rows[n].links);
        if !first.is_empty() && self.rows[n].row.first == offered {
            self.rows[n].attached(&offered, first, Vec::new());
            return Ok(());
        }
        self.attach_row(n, btf);
        if self.rows[n].state == ProbeState::Attached {
            self.detach_links(first);
            return Ok(());
        }
        // What the plan offers and the kernel refused; why it does not offer others, the plan says.
        let refused = self.rows[n].status.why.iter().filter_map(|why| match why {
            ProbeReason::Text(text) => Some(text.as_str()),
            _ => None,
        });
        let why = refused.collect::<Vec<_>>().join("; ");
        let row = &self.rows[n].row;
        let programs = [Some(&row.first), row.standby.as_ref()]
            .into_iter()
            .flatten()
            .find(|programs| !first.is_empty() && are_of(&first, programs))
            .cloned();
        if let Some(programs) = programs {
            self.rows[n].attached(&programs, first, Vec::new());
        }
        Err(why)
    }

    /// Nothing is attached to the hooks that every exit passes any more, until the next poison. `None`: nothing was;
    /// else why what stands by in their place could not be attached.
    pub fn detach_exits(&mut self) -> Option<Vec<String>> {
        if self.standby || self.plan.hot_path != HotPath::OnPoison {
            return None;
        }
        let mut failed = Vec::new();
        self.exits_attached(NOT_ATTACHED);
        for n in 0..self.rows.len() {
            let Some(programs) = self.rows[n].row.standby.clone() else {
                continue;
            };
            if self.rows[n].state != ProbeState::Attached {
                continue;
            }
            // These first: no exit on poison is without its end meanwhile.
            let stands_by = self.stand_by(&programs).unwrap_or_else(|why| {
                failed.push(format!("{}: {why}", self.rows[n].row.probe));
                Vec::new()
            });
            self.detach_row(n);
            self.rows[n].stands_by(stands_by);
        }
        self.standby = true;
        Some(failed)
    }

    fn stand_by(&mut self, programs: &[Attach]) -> Result<Links, String> {
        if programs.is_empty() {
            return Ok(Vec::new());
        }
        let btf = fentry_btf::of(&BTreeMap::new())?;
        attach_all(&mut self.ebpf, &btf, programs, self.pins.as_ref())
    }

    /// As if there were poison, and then none any more. What is attached sees nothing of it, as nothing is armed.
    ///
    /// # Errors
    /// If something could not be attached, or there was nothing to detach.
    pub fn rehearse(&mut self) -> Result<(), String> {
        let failed = self.attach_reserved();
        if !failed.is_empty() {
            return Err(failed.join("; "));
        }
        match self.detach_exits() {
            Some(failed) if failed.is_empty() => Ok(()),
            Some(failed) => Err(failed.join("; ")),
            None => Err("these probes stay attached".to_owned()),
        }
    }

    fn attach_reserved_row(&mut self, n: usize) -> Result<(), String> {
        let Some(programs) = self.rows[n].row.offered().next().cloned() else {
            return Ok(());
        };
        let reserved = std::mem::take(&mut self.rows[n].reserved);
        if reserved.len() < programs.len() {
            return Err("no perf event was reserved for it at start".to_owned());
        }
        for (name, event) in &reserved {
            let program = self
                .ebpf
                .program(name)
                .ok_or_else(|| format!("no program {name}"))?;
            event.attach(program).map_err(|err| chain(&err))?;
        }
        // The new ones first: no exit is missed, and one that both see is counted once.
        let stood_by = std::mem::take(&mut self.rows[n].links);
        let links = reserved
            .into_iter()
            .map(|(name, event)| (name, binding::Link::Tracepoint(event)));
        self.rows[n].attached(&programs, links.collect(), Vec::new());
        if self.pins.is_some() {
            // What has the program dies with the daemon: what stood by is pinned, and goes on counting then.
            self.rows[n].links.extend(stood_by);
        } else {
            self.detach_links(stood_by);
        }
        Ok(())
    }

    /// Loads what is to be attached when there is poison, and opens what it is to be attached to: both take longer than
    /// to attach it, and privileges that are given up. An open event has its tracepoint call it, so where nothing is to be on the
    /// hooks of every exit, none is opened.
    pub(super) fn reserve(&mut self, n: usize, btf: &Btf) -> Result<(), String> {
        self.rows[n].reserved.clear();
        let on_poison = self.plan.hot_path == HotPath::OnPoison;
        let first = self.rows[n].row.first.clone();
        let programs = self.rows[n].row.offered().next().cloned();
        for attach in first.into_iter().chain(programs.unwrap_or_default()) {
            let program = self
                .ebpf
                .program_mut(attach.program)
                .ok_or_else(|| format!("no program {}", attach.program))?;
            binding::load(program, btf, &attach.binding).map_err(|err| chain(&err))?;
            if on_poison {
                continue;
            }
            let Binding::Tracepoint { group, name } = &attach.binding else {
                return Err(format!("{} cannot be reserved", attach.binding));
            };
            let event =
                TracepointEvent::open(group, name).map_err(|err| format!("{}: {err}", attach.binding))?;
            self.rows[n].reserved.push((attach.program, event));
        }
        Ok(())
    }
}
