//! What wakes the event loop: its timers, its signals, and what it is woken for.

use std::time::Duration;

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, Interval, MissedTickBehavior, interval_at},
};

use crate::{failure::Failure, service::notify};
use poisontrace_http::Scrape;
use poisontrace_model::{event::Event, forecast::Counts};
use poisontrace_sources::inputs::{poison_scan::Found, vm_registry::scan::Look};

/// Changes are handed to the store and the log at most this often.
const FLUSH: Duration = Duration::from_millis(50);
/// The first proof of life is looked for so soon after the start.
const FIRST_PROOF: Duration = Duration::from_secs(2);
/// How often the totals are read while they change.
pub const STORM: Duration = Duration::from_secs(1);
/// How often new VMs are looked for, and a failed store is tried again.
const RESCAN: Duration = Duration::from_secs(10);

/// What the loop waits for.
pub enum Wake {
    /// Records in the ring buffer.
    Records,
    /// A page that was poisoned before the start.
    Preexisting(Found),
    /// VMs that have started.
    Vms(Look),
    /// A statement of a VMM.
    Statement(Box<Event>),
    /// Changed incidents are due for the outputs.
    Flush,
    /// The kernel's totals may have changed without a record.
    Totals,
    /// KVM's module was loaded or unloaded.
    Kvm,
    /// Time to look for new VMs.
    Rescan,
    /// Time to judge the probes' heartbeat.
    Heartbeat,
    Scrape(Scrape),
    /// What an error would do to each VM.
    Forecast(Counts),
    /// SIGHUP.
    Reload,
    /// SIGUSR1: another daemon is about to start.
    HandOver,
    /// SIGINT or SIGTERM.
    Stop,
}

/// When something is due.
pub struct Timers {
    /// While nothing waits to be flushed there is no timer to wake up for.
    pub flush_at: Option<Instant>,
    /// In a storm most exits send no record; their totals are then read every second while they change.
    pub totals_at: Option<Instant>,
    /// When what is attached to the hooks of every exit is detached, unless there is poison again.
    pub detach_at: Option<Instant>,
    pub rescan: Interval,
    pub heartbeat: Interval,
}

impl Timers {
    /// Started now.
    pub fn start() -> Self {
        let every = |first: Duration, period: Duration| {
            let mut interval = interval_at(Instant::now() + first, period);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        };
        Self {
            // Once, for what a daemon before left.
            flush_at: Some(Instant::now() + FLUSH),
            totals_at: None,
            detach_at: None,
            rescan: every(RESCAN, RESCAN),
            heartbeat: every(FIRST_PROOF, notify::proof_interval()),
        }
    }

    /// Changed incidents are due soon.
    pub fn flush_soon(&mut self) {
        self.flush_at.get_or_insert_with(|| Instant::now() + FLUSH);
    }

    /// The totals are due within [`STORM`].
    pub fn totals_later(&mut self) {
        self.totals_at.get_or_insert_with(|| Instant::now() + STORM);
    }
}

/// Signals that end the daemon, or ask something of it.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    successor: Signal,
}

impl Signals {
    /// # Errors
    /// If the kernel gives no handler.
    pub fn new() -> Result<Self, Failure> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            successor: signal(SignalKind::user_defined1())?,
        })
    }

    /// The next of them.
    pub async fn next(&mut self) -> Wake {
        tokio::select! {
            _ = self.interrupt.recv() => Wake::Stop,
            _ = self.terminate.recv() => Wake::Stop,
            _ = self.hangup.recv() => Wake::Reload,
            _ = self.successor.recv() => Wake::HandOver,
        }
    }
}
