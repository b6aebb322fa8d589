//! Rows that are held by something cheaper as long as there is no poison.

use aya::Btf;

use super::{
    binding::{self, Link, chain},
    load::Loaded,
    probe::ProbeState,
    tracepoint::TracepointEvent,
};
use poisontrace_kernel_facts::plan::Binding;
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
    /// What was attached in full stays so.
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

    /// There is poison: attaches the full probes, and detaches those that stood by. Returns why a row could not
    /// be; it is then left as it was.
    pub fn attach_reserved(&mut self) -> Vec<String> {
        self.standby = false;
        let mut failed = Vec::new();
        for n in 0..self.rows.len() {
            if self.rows[n].row.standby.is_none() || self.rows[n].state != ProbeState::Attached {
                continue;
            }
            if let Err(why) = self.attach_reserved_row(n) {
                failed.push(format!("{}: {why}", self.rows[n].row.probe));
            }
        }
        failed
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
            .map(|(name, event)| (name, Link::Tracepoint(event)));
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
    /// to attach it, and privileges that are given up.
    pub(super) fn reserve(&mut self, n: usize, btf: &Btf) -> Result<(), String> {
        self.rows[n].reserved.clear();
        let programs = self.rows[n].row.offered().next().cloned();
        for attach in programs.unwrap_or_default() {
            let Binding::Tracepoint { group, name } = &attach.binding else {
                return Err(format!("{} cannot be reserved", attach.binding));
            };
            let program = self
                .ebpf
                .program_mut(attach.program)
                .ok_or_else(|| format!("no program {}", attach.program))?;
            binding::load(program, btf, &attach.binding).map_err(|err| chain(&err))?;
            let event =
                TracepointEvent::open(group, name).map_err(|err| format!("{}: {err}", attach.binding))?;
            self.rows[n].reserved.push((attach.program, event));
        }
        Ok(())
    }
}
