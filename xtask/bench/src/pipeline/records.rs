//! Records without end: each walk is the one before, later.

use anyhow::{Result, anyhow};
use poisontrace_model::event::Event;
use poisontrace_model::event::decode::Decoder;

use super::stream::{START_NS, STEP_NS, beginning, walk};

/// Where a header has its time.
const T_NS: std::ops::Range<usize> = 8..16;

pub struct Records {
    decoder: Decoder,
    records: Vec<Vec<u8>>,
    next: usize,
    /// Where a walk begins.
    again: usize,
    t_ns: u64,
}

impl Records {
    pub fn new() -> Self {
        let mut records = beginning();
        let again = records.len();
        records.extend(walk());
        Self {
            decoder: Decoder::default(),
            records,
            next: 0,
            again,
            t_ns: START_NS,
        }
    }

    pub fn next_event(&mut self) -> Result<Event> {
        if self.next == self.records.len() {
            self.next = self.again;
        }
        let record = &mut self.records[self.next];
        self.next += 1;
        self.t_ns += STEP_NS;
        record[T_NS].copy_from_slice(&self.t_ns.to_le_bytes());
        self.decoder.decode(record).map_err(|error| anyhow!("{error}"))
    }
}
