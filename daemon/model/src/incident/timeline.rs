//! What happened when, as types: the report crate words it.

use alloc::collections::VecDeque;
use alloc::{boxed::Box, string::String, vec::Vec};

use serde::{Deserialize, Deserializer, Serialize};

use super::{limits::Detail, termination::Termination, terms::Severity};
use crate::event::{
    Access, Bank, HostMce, OtherAddress, PoisonExit, SigbusSeverity, log_statement::LogStatement,
};
use crate::hex::Hex;

/// This many first entries are kept, and as many last ones.
const MAX_ENTRIES: usize = 96;

/// The first and the last entries, and how many fell out between.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Timeline {
    #[serde(deserialize_with = "entries")]
    first: Vec<(u64, TimelineEvent)>,
    #[serde(deserialize_with = "entries")]
    last: VecDeque<(u64, TimelineEvent)>,
    skipped: u64,
    /// How much less is kept.
    #[serde(default, skip_serializing_if = "Detail::is_full")]
    pub detail: Detail,
}

/// One event of an incident. Large variants are boxed: a flood of pages keeps a hundred thousand entries.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimelineEvent {
    /// `memory_failure()` entered.
    FailureBegin {
        /// Page frame of the host.
        pfn: Hex,
        /// `MF_*` flags of the call, if known.
        flags: Option<u64>,
    },
    /// A poisoned page that poisontrace found when it started.
    Preexisting {
        /// Page frame of the host.
        pfn: Hex,
        /// The process.
        pid: u32,
        /// Address in the VMM.
        hva: Hex,
    },
    /// `memory_failure()` was called for the page again.
    FailureAgain {
        /// Page frame of the host.
        pfn: Hex,
    },
    /// The kernel's recovery action, in its own terms.
    FailureAction {
        /// Type of the page, in the kernel's terms (`mm/memory-failure.c`).
        page_type: Box<str>,
        /// Result of the recovery, in the kernel's terms.
        result: Box<str>,
    },
    /// `memory_failure()` returned a negative errno.
    FailureEnd {
        /// Return value.
        ret: i64,
    },
    /// A SIGBUS to the VMM.
    Signal(Box<Signal>),
    /// An exit on the page.
    Exit(Box<Exit>),
    /// The VMM wrote a machine-check bank of a vCPU.
    Injection(Box<Injection>),
    /// The VMM set MSRs whose list was not read to its end.
    MsrsUnread {
        /// The list was longer than a record holds.
        truncated: bool,
    },
    /// Bytes of the instruction at the guest's RIP, as hex digits.
    GuestCode {
        /// The guest's RIP.
        rip: Hex,
        /// Hex digits, in the order of memory.
        bytes: Box<str>,
    },
    /// #MC entered the guest.
    McDelivered {
        /// Number of the vCPU.
        vcpu: Option<u32>,
    },
    /// The guest was left by #MC: it consumed the error itself.
    McExit {
        /// The vCPU, where it is known.
        vcpu: Option<u32>,
        /// The guest's RIP.
        rip: Option<Hex>,
    },
    /// A bank of the host's processor.
    HostMce(Box<HostMce>),
    /// EDAC named the memory module.
    Dimm {
        /// As the board labels it.
        label: Box<str>,
    },
    /// The guest wrote 0 to MCG_STATUS.
    HandlerFinished {
        /// Number of the vCPU.
        vcpu: Option<u32>,
    },
    /// A sign that the guest or its VMM ended.
    Termination(Box<TerminationEntry>),
    /// A line of a log.
    Statement(Box<Statement>),
    /// Records that the probes could not hand over.
    RecordsMissed {
        /// How many.
        records: u64,
    },
    /// The daemon was restarted; it knew of the incident up to `known_ns` after the poisoning.
    Restarted {
        /// From the poisoning to the last known event.
        known_ns: Option<u64>,
        /// The probes stayed attached and counted on.
        counted: bool,
    },
    /// Entries before this one that were not kept.
    Omitted {
        /// How many.
        entries: u64,
    },
    /// An entry as an earlier version stored it: text.
    Text {
        /// In its own words.
        text: Box<str>,
    },
}

/// SIGBUS to the VMM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Signal {
    /// Action required or optional.
    pub severity: SigbusSeverity,
    /// The process.
    pub pid: u32,
    /// The thread.
    pub tid: u32,
    /// Number of the vCPU.
    pub vcpu: Option<u32>,
    /// `None`: `signal_generate` does not show it.
    pub hva: Option<Hex>,
}

/// A VM exit on the poisoned page.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Exit {
    /// Number of the vCPU.
    pub vcpu: Option<u32>,
    /// Kind of the access.
    pub access: Access,
    /// GPA of the access, with its low bits (the line).
    pub gpa: Option<Hex>,
    /// An address that is none of the guest.
    pub other_address: Option<OtherAddress>,
    /// The guest's RIP.
    pub rip: Option<Hex>,
    /// Return value of `get_user_pages_unlocked()`.
    pub gup_ret: Option<i64>,
    /// Time in `get_user_pages_unlocked()`, nanoseconds.
    pub gup_ns: Option<u64>,
}

/// A machine check as the VMM wrote it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Injection {
    /// Number of the vCPU.
    pub vcpu: Option<u32>,
    /// Action required or optional.
    pub severity: Severity,
    /// The bank as it was injected.
    pub bank: Bank,
}

/// The guest's or the VMM's end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TerminationEntry {
    /// What was seen.
    pub sign: Termination,
    /// Number of the vCPU.
    pub vcpu: Option<u32>,
    /// It concerns another poisoned page of the same guest.
    pub other_page: bool,
    /// It came later after the last poison event than a death is attributed to it.
    pub late: bool,
}

/// A line of a log, and where it stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Statement {
    /// The file, as the answer names it.
    pub source: String,
    /// Its time on its own clock, where that clock is not aligned; empty where it has none.
    pub own_clock: Option<String>,
    /// Its content.
    pub statement: LogStatement,
}

/// Entries as they are stored; a store of version 0.1.0 holds their text.
fn entries<'de, D, C>(deserializer: D) -> Result<C, D::Error>
where
    D: Deserializer<'de>,
    C: FromIterator<(u64, TimelineEvent)>,
{
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Stored {
        Event(TimelineEvent),
        Text(Box<str>),
    }
    let stored = Vec::<(u64, Stored)>::deserialize(deserializer)?;
    let event = |stored| match stored {
        Stored::Event(event) => event,
        Stored::Text(text) => TimelineEvent::Text { text },
    };
    Ok(stored.into_iter().map(|(t, stored)| (t, event(stored))).collect())
}

impl Timeline {
    /// Adds an event of time `t`, CLOCK_MONOTONIC nanoseconds.
    pub fn add(&mut self, t: u64, event: TimelineEvent) {
        let most = self.detail.of(MAX_ENTRIES);
        if self.first.len() < most {
            self.first.push((t, event));
            return;
        }
        if self.last.len() >= most {
            self.last.pop_front();
            self.skipped += 1;
        }
        self.last.push_back((t, event));
    }

    /// The guest's RIP at the #MC exit of time `t`, where that was not seen then.
    pub fn left_at(&mut self, t: u64, at: u64) {
        for (_, event) in self
            .first
            .iter_mut()
            .chain(&mut self.last)
            .filter(|(entry, _)| *entry == t)
        {
            if let TimelineEvent::McExit { rip: rip @ None, .. } = event {
                *rip = Some(Hex(at));
            }
        }
    }

    /// Adds another incident's entries.
    pub fn absorb(&mut self, other: Self) {
        for (t, event) in other.first.into_iter().chain(other.last) {
            self.add(t, event);
        }
        self.skipped += other.skipped;
    }

    /// The events that were kept, in the order in which they were added.
    pub fn events(&self) -> impl Iterator<Item = &TimelineEvent> {
        self.first.iter().chain(&self.last).map(|(_, event)| event)
    }

    /// All entries in order of time; [`TimelineEvent::Omitted`] stands for those that were not kept.
    pub fn entries(&self) -> Vec<(u64, TimelineEvent)> {
        let mut entries = self.first.clone();
        if let (true, Some((t, _))) = (self.skipped > 0, self.last.front()) {
            let omitted = TimelineEvent::Omitted {
                entries: self.skipped,
            };
            entries.push((*t, omitted));
        }
        entries.extend(self.last.iter().cloned());
        entries.sort_by_key(|(t, _)| *t);
        entries
    }
}

impl TimelineEvent {
    /// The entry of an exit.
    pub fn exit(exit: &PoisonExit, vcpu: Option<u32>) -> Self {
        Self::Exit(Box::new(Exit {
            vcpu,
            access: exit.access,
            gpa: exit.gpa,
            other_address: exit.other_address,
            rip: exit.rip,
            gup_ret: exit.gup_ret,
            gup_ns: exit.gup_ns,
        }))
    }

    /// The entry of `memory_failure_event`.
    pub fn action(page_type: &str, result: &str) -> Self {
        Self::FailureAction {
            page_type: page_type.into(),
            result: result.into(),
        }
    }

    super::terms::kinds! {
        Self::FailureBegin { .. } => "failure_begin",
        Self::Preexisting { .. } => "preexisting",
        Self::FailureAgain { .. } => "failure_again",
        Self::FailureAction { .. } => "failure_action",
        Self::FailureEnd { .. } => "failure_end",
        Self::Signal(_) => "signal",
        Self::Exit(_) => "exit",
        Self::Injection(_) => "injection",
        Self::MsrsUnread { .. } => "msrs_unread",
        Self::GuestCode { .. } => "guest_code",
        Self::McDelivered { .. } => "mc_delivered",
        Self::McExit { .. } => "mc_exit",
        Self::HostMce(_) => "host_mce",
        Self::Dimm { .. } => "dimm",
        Self::HandlerFinished { .. } => "handler_finished",
        Self::Termination(_) => "termination",
        Self::Statement(_) => "statement",
        Self::RecordsMissed { .. } => "records_missed",
        Self::Restarted { .. } => "restarted",
        Self::Omitted { .. } => "omitted",
        Self::Text { .. } => "text",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeline_counts_what_it_left_out() {
        let mut timeline = Timeline::default();
        for t in 0..1000 {
            timeline.add(t, TimelineEvent::FailureEnd { ret: 0 });
        }
        let entries = timeline.entries();
        assert_eq!(entries.len(), 2 * MAX_ENTRIES + 1);
        let omitted = TimelineEvent::Omitted { entries: 808 };
        assert!(entries.iter().any(|(_, event)| *event == omitted), "{entries:?}");
        assert_eq!(entries.last().map(|(t, _)| *t), Some(999));
    }

    #[test]
    fn a_timeline_of_version_0_1_0_keeps_its_text() {
        let stored = r#"{"first":[[5,"SIGBUS to the VMM"]],"last":[],"skipped":0}"#;
        let timeline: Timeline = serde_json::from_str(stored).unwrap();
        let text = TimelineEvent::Text {
            text: "SIGBUS to the VMM".into(),
        };
        assert_eq!(timeline.entries(), [(5, text)]);
        let written = serde_json::to_string(&timeline).unwrap();
        let read: Timeline = serde_json::from_str(&written).unwrap();
        assert_eq!(read.entries(), timeline.entries());
    }
}
