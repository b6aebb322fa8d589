//! The same as the lines of a recording, written while they are read.

use std::io::{BufReader, Read};

use anyhow::{Result, anyhow, ensure};
use poisontrace_model::event::session::Session;
use poisontrace_recording::{Reader, Writer};

use super::records::Records;
use super::stream::{START_NS, STEP_NS, beginning, walk};

const BUFFER: usize = 1 << 20;

/// Lines, and where in them the digits of their times are.
struct Block {
    bytes: Vec<u8>,
    times: Vec<usize>,
}

pub struct Lines {
    /// Header and beginning, then walks, then the closing line.
    block: Block,
    at: usize,
    walk: Option<Block>,
    left: u64,
    events: u64,
    t_ns: u64,
}

/// A recording of about so many events, by its own count.
pub fn recording(events: u64) -> Result<Reader<BufReader<Lines>>> {
    let mut records = Records::new();
    let mut lines = |count: usize, session: bool| -> Result<Block> {
        let mut writer = Writer::new(Vec::new(), &Session::default())?;
        for _ in 0..count {
            writer.event(&records.next_event()?)?;
        }
        let bytes = writer.finish()?;
        // The closing line counts these few alone.
        let end = bytes[..bytes.len() - 1]
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        let start = match session {
            true => 0,
            false => bytes
                .iter()
                .position(|byte| *byte == b'\n')
                .map_or(0, |at| at + 1),
        };
        Block::new(bytes[start..end].to_vec())
    };
    let first = beginning().len();
    let block = lines(first, true)?;
    let walk_length = walk().len();
    let walk = lines(walk_length, false)?;
    let walks = events / walk_length as u64;
    ensure!(walks > 0, "at least {walk_length} events");
    let lines = Lines {
        block,
        at: 0,
        walk: Some(walk),
        left: walks,
        events: first as u64 + walks * walk_length as u64,
        t_ns: START_NS,
    };
    Reader::new(BufReader::with_capacity(BUFFER, lines), false).map_err(|error| anyhow!("{error}"))
}

const TIME: &[u8] = b"{\"t\":";
const DIGITS: usize = 13;

impl Block {
    fn new(bytes: Vec<u8>) -> Result<Self> {
        let mut times = Vec::new();
        let mut at = 0;
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            if line.starts_with(TIME) {
                ensure!(
                    line[TIME.len() + DIGITS] == b',',
                    "a time of other than {DIGITS} digits"
                );
                times.push(at + TIME.len());
            }
            at += line.len();
        }
        Ok(Self { bytes, times })
    }

    /// Sets the times; returns the last.
    fn later(&mut self, mut t_ns: u64) -> u64 {
        for at in &self.times {
            t_ns += STEP_NS;
            let mut rest = t_ns;
            for digit in self.bytes[*at..*at + DIGITS].iter_mut().rev() {
                *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
                rest /= 10;
            }
        }
        t_ns
    }
}

impl Read for Lines {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if self.at == self.block.bytes.len() {
            self.at = 0;
            match (&mut self.walk, self.left) {
                (_, 0) if self.events > 0 => {
                    self.block.bytes = format!("{{\"end\":{{\"events\":{}}}}}\n", self.events).into_bytes();
                    self.events = 0;
                }
                (_, 0) => return Ok(0),
                (walk, _) => {
                    if let Some(walk) = walk.take() {
                        self.block = walk;
                    }
                    self.left -= 1;
                    self.t_ns = self.block.later(self.t_ns);
                }
            }
        }
        let length = out.len().min(self.block.bytes.len() - self.at);
        out[..length].copy_from_slice(&self.block.bytes[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}
