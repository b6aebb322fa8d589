//! Going on with incidents after the daemon was killed, stopped or replaced. What a daemon knows of an incident is
//! stored with it; the clock of the events goes on while the machine does.

use alloc::{string::String, vec::Vec};
use serde::{Deserialize, Serialize};

use super::{Correlator, IncidentNo};
use crate::incident::{evidence::Evidence, limits::PAGE_SIZE, timeline::TimelineEvent};

/// An incident that another daemon opened.
#[derive(Debug, Deserialize)]
pub struct State {
    id: String,
    started_at: Option<String>,
    evidence: Evidence,
}

#[derive(Serialize)]
struct StateRef<'a> {
    id: &'a str,
    started_at: Option<&'a str>,
    evidence: &'a Evidence,
}

/// What became of the kernel's totals in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TotalsContinuity {
    /// The probes stayed attached and counted on.
    Continuous,
    /// They were detached, but the totals are still there.
    Retained,
    /// They were detached; the totals begin anew.
    Reset,
}

impl State {
    /// The VMM.
    pub fn pid(&self) -> u32 {
        self.evidence.pid
    }

    /// Of the VMM, as /proc/PID/stat has it.
    pub fn start_ticks(&self) -> Option<u64> {
        self.evidence.vmm.start_ticks
    }
}

impl Correlator {
    /// What is needed to resume incident `no`, reported as `id` and `started_at`; `None`: its VMM is gone, and nothing more
    /// can come.
    pub fn state(&self, no: IncidentNo, id: &str, started_at: Option<&str>) -> Option<String> {
        let evidence = self.incidents.get(no).filter(|evidence| !evidence.vmm_gone())?;
        let state = StateRef {
            id,
            started_at,
            evidence,
        };
        let mut json = serde_json::to_string(&state).ok()?;
        json.shrink_to_fit();
        Some(json)
    }

    /// Until `t` the probes were detached: what the daemon before had not stored yet, and what the ring buffer kept of it,
    /// is all that is known of these incidents.
    pub fn unwatched(&mut self, t: u64) {
        let open: Vec<IncidentNo> = self
            .incidents
            .iter()
            .filter(|(_, evidence)| evidence.known_as.is_none() && !evidence.vmm_gone())
            .map(|(no, _)| no)
            .collect();
        for no in open {
            if let Some(evidence) = self.incidents.touch(no) {
                evidence.predates = true;
                let restarted = TimelineEvent::Restarted {
                    known_ns: None,
                    counted: false,
                };
                evidence.timeline.add(t, restarted);
            }
        }
    }

    /// Takes an incident over, at time `t` of the events.
    pub fn resume(&mut self, state: State, t: u64, continuity: TotalsContinuity) {
        let mut evidence = state.evidence;
        evidence.known_as = Some((state.id, state.started_at));
        if continuity == TotalsContinuity::Reset {
            evidence.exits.begin_anew();
        }
        let restarted = TimelineEvent::Restarted {
            known_ns: Some(evidence.last.saturating_sub(evidence.t0)),
            counted: continuity == TotalsContinuity::Continuous,
        };
        evidence.timeline.add(t, restarted);
        let pid = evidence.pid;
        let size = evidence.size().unwrap_or(PAGE_SIZE);
        let (hva, gpa, gpas) = (evidence.hva, evidence.gpa, evidence.gpas.clone());
        self.introduce(pid, evidence.vmm.clone());
        let no = self.open(evidence);
        if let Some(hva) = hva {
            self.pages.insert_hva(pid, hva, size, no);
        }
        if let Some(gpa) = gpa {
            self.pages.insert_gpa(pid, gpa, size, no);
        }
        for gpa in gpas {
            self.pages.insert_piece(pid, gpa, no);
        }
    }
}
