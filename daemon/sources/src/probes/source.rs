//! The live source: records out of the ring buffer, in order of time.

use std::{
    collections::BTreeSet,
    io,
    os::fd::{AsRawFd, RawFd},
};

use aya::maps::{Array, HashMap, MapData, PerCpuArray, RingBuf};
use poisontrace_probes::{lost, record, reported};
use tokio::io::{Interest, unix::AsyncFd};

use super::{
    load::{LoadError, Loaded},
    totals::Totals,
};
use crate::host::{machine::clock_pair, process::process_of};
use poisontrace_model::event::{Event, EventKind, decode::Decoder};

/// Records taken in one go, so that a flood cannot keep the daemon from its other work.
const BATCH: usize = 512;

/// See the module.
pub struct Source {
    ring: RingBuf<MapData>,
    lost: PerCpuArray<MapData, u64>,
    /// Losses that are reported, for a daemon that comes after this one.
    reported: Option<Array<MapData, u64>>,
    lost_before: u64,
    undecodable: u64,
    own_pid: u32,
    proved: bool,
    decoder: Decoder,
    totals: Totals,
    signals: Option<HashMap<MapData, [u64; 2], SignalRecord>>,
    /// Time and thread of the signals that were taken from there: the ring may have them as well, each once.
    resumed: BTreeSet<(u64, u32)>,
}

type SignalRecord = [u8; size_of::<record::Sigbus>()];

impl Source {
    /// Takes the ring buffer and its loss counters out of the loaded object.
    ///
    /// # Errors
    /// An object without these maps.
    pub fn new(loaded: &mut Loaded, decoder: Decoder) -> Result<Self, LoadError> {
        let ring = loaded
            .ebpf
            .take_map("EVENTS")
            .and_then(|map| RingBuf::try_from(map).ok());
        let lost = loaded
            .ebpf
            .take_map("LOST")
            .and_then(|map| PerCpuArray::try_from(map).ok());
        let reported: Option<Array<MapData, u64>> = loaded
            .ebpf
            .take_map("REPORTED")
            .and_then(|map| Array::try_from(map).ok());
        let lost_before = reported
            .as_ref()
            .and_then(|reported| reported.get(&reported::LOST, 0).ok());
        let totals = Totals::new(loaded)?;
        let signals = loaded
            .ebpf
            .take_map("SIGNALS")
            .and_then(|map| HashMap::try_from(map).ok());
        Ok(Self {
            ring: ring.ok_or(LoadError::Map("EVENTS"))?,
            lost: lost.ok_or(LoadError::Map("LOST"))?,
            reported,
            lost_before: lost_before.unwrap_or(0),
            undecodable: 0,
            own_pid: std::process::id(),
            proved: false,
            decoder,
            totals,
            signals,
            resumed: BTreeSet::new(),
        })
    }

    /// The last signal of each page that the kernel has kept, in order of time.
    pub fn kept_signals(&self) -> Vec<Event> {
        let kept = self.signals.iter().flat_map(HashMap::iter).flatten();
        let mut events: Vec<Event> = kept
            .filter_map(|(_, record)| self.decoder.decode(&record).ok())
            .collect();
        events.sort_by_key(|event| event.t);
        events
    }

    /// These signals have been taken: their records, should the ring still have them, add nothing.
    pub fn pass_over(&mut self, taken: &[Event]) {
        self.resumed = taken.iter().map(|event| (event.t, event.tid)).collect();
    }

    /// Makes it wake the current tokio runtime when records arrive.
    ///
    /// # Errors
    /// If the runtime cannot watch the descriptor.
    pub fn watched(self) -> io::Result<AsyncFd<Self>> {
        // SAFETY: the descriptor is that of the ring buffer's map, which this object owns and neither closes nor
        // replaces while it lives.
        let watched = unsafe { AsyncFd::register_with_interest(self, Interest::READABLE) };
        Ok(watched?)
    }

    /// Takes what is there (at most a batch), sorted by time: records of one thread are in order anyway, those
    /// of several CPUs are in the order of their reservation, which may differ from that of their times.
    pub fn drain(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while events.len() < BATCH {
            let Some(record) = self.ring.next() else { break };
            match self.decoder.decode(&record) {
                // A thread of the daemon's own: only its arrival matters.
                Ok(event)
                    if event.pid == self.own_pid && matches!(event.what, EventKind::TaskExit { .. }) =>
                {
                    self.proved = true;
                }
                Ok(event)
                    if matches!(event.what, EventKind::Sigbus { .. })
                        && self.resumed.remove(&(event.t, event.tid)) => {}
                Ok(mut event) => {
                    self.proved = true;
                    name_target(&mut event);
                    let besides = self.decoder.besides(&event, &record);
                    events.extend(besides.unwrap_or_default().into_iter().flatten());
                    events.push(event);
                }
                Err(err) => {
                    self.undecodable += 1;
                    tracing::error!(error = %err, "a record of the probes cannot be decoded");
                }
            }
        }
        events.sort_by_key(|event| event.t);
        events.iter().for_each(|event| self.totals.note(event));
        let lost = self.newly_lost();
        if lost > 0 {
            let t = events
                .last()
                .map_or_else(|| clock_pair().monotonic_ns, |event| event.t);
            tracing::error!(
                records = lost,
                "the ring buffer was full: records of the probes are lost"
            );
            events.push(Event {
                t,
                tid: 0,
                pid: 0,
                vcpu: None,
                what: EventKind::Lost { records: lost },
            });
        }
        events
    }

    /// Whether a record has come since the last call: the probes ran, and this end read what they sent.
    pub fn proved_live(&mut self) -> bool {
        std::mem::take(&mut self.proved)
    }

    /// The kernel's totals that have changed since the last call.
    pub fn totals(&mut self) -> Vec<Event> {
        self.totals.changed(clock_pair().monotonic_ns)
    }

    /// Exits on pages that the kernel's totals had no room for, and that were sent as records instead.
    pub fn untotalled(&self) -> u64 {
        self.no_room(lost::TOTALS).unwrap_or(0)
    }

    /// Exits under way whose place in the kernel another thread took, so that their times are lost.
    pub fn displaced(&self) -> u64 {
        self.no_room(lost::SLOTS).unwrap_or(0)
    }

    /// Signals for poison that a process may have made itself, beyond the one a millisecond that is reported.
    pub fn unproved(&self) -> u64 {
        self.no_room(lost::UNPROVED).unwrap_or(0)
    }

    fn no_room(&self, what: u32) -> Option<u64> {
        match self.lost.get(&what, 0) {
            Ok(per_cpu) => Some(per_cpu.iter().sum()),
            Err(err) => {
                tracing::warn!(error = %err, "cannot read the loss counters");
                None
            }
        }
    }

    /// Whether any page has totals: they may then go on to change without a record that would say so.
    pub fn has_totals(&self) -> bool {
        self.totals.any()
    }

    /// Records lost since the last call: those that did not fit, and those that could not be decoded.
    fn newly_lost(&mut self) -> u64 {
        let Some(full) = self.no_room(lost::RECORDS) else {
            return 0;
        };
        let total = full + self.undecodable;
        let newly = total.saturating_sub(self.lost_before);
        self.lost_before = total;
        if newly > 0
            && let Some(reported) = &mut self.reported
            && let Err(err) = reported.set(reported::LOST, full, 0)
        {
            tracing::debug!(error = %err, "the next daemon will report these losses again");
        }
        newly
    }
}

/// A tracepoint of signals has the thread only. One that has ended meanwhile was its process, most likely: VMMs take
/// early signals on their first thread.
fn name_target(event: &mut Event) {
    if let EventKind::SigbusNoAddress {
        target_tid,
        target_pid: target_pid @ 0,
        ..
    } = &mut event.what
    {
        *target_pid = process_of(*target_tid).unwrap_or(*target_tid);
    }
}

impl AsRawFd for Source {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}
