//! How fast records leave the ring buffer: by the daemon's own source, until they are decoded events in order.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use poisontrace_kernel_facts::facts::Facts;
use poisontrace_model::event::{EventKind, decode::Decoder};
use poisontrace_sources::probes::{load::Loaded, source::Source};
use serde::Serialize;

use super::synthetic_exits::{POISON, Played, Poison};
use super::{HVA, POISON_CALLS, POISON_ROUNDS, used};

/// How long a thread fills the ring buffer while another drains it.
const FLOOD: Duration = Duration::from_secs(2);

#[derive(Serialize)]
pub struct Drain {
    /// Of a full ring buffer, nobody writing: records a second and core.
    pub full: f64,
    /// While another processor's thread writes as fast as it can: records a second that it made, that arrived, and how
    /// many in a million were lost.
    pub made: f64,
    pub arrived: f64,
    pub lost_ppm: f64,
}

/// The ring buffer's far end.
pub struct Ring {
    source: Source,
    pub arrived: u64,
    pub lost: u64,
}

impl Ring {
    pub fn of(loaded: &mut Loaded) -> Result<Self> {
        let source = Source::new(loaded, Decoder::default()).map_err(|error| anyhow!("{error}"))?;
        Ok(Self {
            source,
            arrived: 0,
            lost: 0,
        })
    }

    /// Takes all that is there; returns how many records.
    pub fn drain(&mut self) -> Result<u64> {
        let before = self.arrived;
        loop {
            let events = self.source.drain();
            if events.is_empty() {
                return Ok(self.arrived - before);
            }
            for event in &events {
                match event.what {
                    EventKind::Lost { records } => self.lost += records,
                    _ => self.arrived += 1,
                }
            }
        }
    }
}

pub fn measure(object: &Path, facts: &Facts) -> Result<Drain> {
    let mut played = Played::load(object, facts, true)?;
    let mut ring = Ring::of(&mut played.loaded)?;
    played.attach(&POISON)?;
    let poison = Poison::new(HVA);
    let mut best = 0.0_f64;
    for round in 0..u64::from(POISON_ROUNDS) {
        for n in 0..POISON_CALLS {
            poison.exit(round * POISON_CALLS + n)?;
        }
        let before = used();
        let records = ring.drain()?;
        let rate = records as f64 / (used() - before).as_secs_f64();
        ensure!(
            records >= 3 * POISON_CALLS,
            "{records} records of {POISON_CALLS} exits"
        );
        best = best.max(rate);
    }
    ensure!(
        ring.lost == 0,
        "{} records are lost: the ring buffer is smaller than thought",
        ring.lost
    );
    let before = ring.arrived;
    let (wall, exits) = flooded(&mut ring)?;
    let arrived = ring.arrived - before;
    ensure!(exits > 0, "the flood made nothing");
    Ok(Drain {
        full: best,
        made: (arrived + ring.lost) as f64 / wall.as_secs_f64(),
        arrived: arrived as f64 / wall.as_secs_f64(),
        lost_ppm: ring.lost as f64 * 1e6 / (arrived + ring.lost) as f64,
    })
}

/// Exits on poison by another thread; until the last of its records is here.
fn flooded(ring: &mut Ring) -> Result<(Duration, u64)> {
    let stop = AtomicBool::new(false);
    let started = Instant::now();
    thread::scope(|scope| {
        let flood = scope.spawn(|| -> Result<u64> {
            let poison = Poison::new(HVA);
            let mut exits = 0;
            while !stop.load(Ordering::Relaxed) {
                poison.exit(exits)?;
                exits += 1;
            }
            Ok(exits)
        });
        while started.elapsed() < FLOOD && !flood.is_finished() {
            ring.drain()?;
        }
        stop.store(true, Ordering::Relaxed);
        let exits = flood.join().ok().context("the flood's thread has panicked")??;
        ring.drain()?;
        Ok((started.elapsed(), exits))
    })
}
