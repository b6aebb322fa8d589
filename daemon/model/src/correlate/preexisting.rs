//! Pages that were poisoned before anybody looked: the guest is at risk, and what came of it until now is not known.

use super::{
    Correlator,
    pages::{LSB_4K, New},
};
use crate::{event::Event, hex::Hex, incident::timeline::TimelineEvent};

impl Correlator {
    pub(super) fn found(&mut self, event: &Event, pfn: u64, hva: u64) {
        self.failures.note_loss();
        let pid = event.pid;
        if let Some(no) = self.pages.of_hva(pid, hva) {
            // Touched meanwhile, or known by the daemon before.
            self.name_pfn(no, pfn);
            return;
        }
        let new = New {
            hva: Some(hva),
            lsb: Some(LSB_4K),
            pfn: Some(pfn),
            ..New::default()
        };
        let no = self.open_new(event, pid, new);
        if let Some(evidence) = self.incidents.touch(no) {
            evidence.predates = true;
            let (pfn, hva) = (Hex(pfn), Hex(hva));
            evidence
                .timeline
                .add(event.t, TimelineEvent::Preexisting { pfn, pid, hva });
        }
    }
}
