//! Notifications to the service manager, and the heartbeat of the probes behind them.
//!
//! A running process does not prove that its probes run. So at each [`proof_interval`] a thread of the daemon's ends, at once: the
//! program on `sched_process_exit` sends a record of that, and only what comes out of the ring buffer at this end (that
//! record, or any other) makes the watchdog's ping. Attachment, program, ring buffer, decoder and event loop are all in it.

use std::time::Duration;

use sd_notify::NotifyState;

/// How often life is proved where no watchdog asks for more.
const PROOF: Duration = Duration::from_secs(60);

/// How often life is proved: three times within what the unit's WatchdogSec allows.
pub fn proof_interval() -> Duration {
    sd_notify::watchdog_enabled().map_or(PROOF, |limit| PROOF.min(limit / 3).max(Duration::from_secs(1)))
}
const THREAD: &str = "pt-heartbeat";

/// Without a service manager nothing is sent, and that is no error.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(err) = sd_notify::notify(states) {
        tracing::debug!(error = %err, "cannot notify the service manager");
    }
}

/// Whether a service manager has started this process, and starts it again if it fails.
pub fn managed() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// Started, as far as the manager is concerned; `status` names what it waits for.
pub fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Nothing to prove yet: KVM is waited for.
pub fn alive() {
    notify(&[NotifyState::Watchdog]);
}

pub fn stopping() {
    notify(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
}

/// See the module.
#[derive(Default)]
pub struct ProbeWatchdog {
    /// Whether a proof has ever come: before, its absence means nothing (a container of its own pid namespace, no
    /// `sched_process_exit`).
    proved: bool,
    judged: bool,
    silent: bool,
}

/// What a look at the watchdog came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeHealth {
    /// Proved live.
    Live,
    /// Never proved on this host: only the event loop is.
    Unproved,
    /// Proved before, and not now.
    Silent,
}

impl ProbeWatchdog {
    /// Judges by whether a record has come since the last call.
    pub fn evaluate(&mut self, record_came: bool) -> ProbeHealth {
        self.proved |= record_came;
        let beat = match (record_came, self.proved) {
            (true, _) => ProbeHealth::Live,
            (false, true) => ProbeHealth::Silent,
            (false, false) => ProbeHealth::Unproved,
        };
        match beat {
            ProbeHealth::Silent => tracing::error!("the probes do not prove that they run"),
            ProbeHealth::Unproved if !self.judged => tracing::warn!(
                "the probes cannot be proved live on this host: the watchdog watches the daemon alone"
            ),
            _ => {}
        }
        self.judged = true;
        self.silent = beat == ProbeHealth::Silent;
        if !self.silent {
            alive();
        }
        beat
    }

    /// Whether the last proof did not come.
    pub fn silent(&self) -> bool {
        self.silent
    }

    /// Asks for the next proof.
    pub fn ask(&self) {
        let thread = std::thread::Builder::new()
            .name(THREAD.to_owned())
            .stack_size(64 * 1024)
            .spawn(|| {});
        if let Err(err) = thread {
            tracing::warn!(error = %err, "no thread for the proof of life");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_counts_only_after_a_first_proof() {
        let mut watchdog = ProbeWatchdog::default();
        assert_eq!(watchdog.evaluate(false), ProbeHealth::Unproved);
        assert_eq!(watchdog.evaluate(true), ProbeHealth::Live);
        assert_eq!(watchdog.evaluate(false), ProbeHealth::Silent);
        assert_eq!(watchdog.evaluate(true), ProbeHealth::Live);
    }
}
