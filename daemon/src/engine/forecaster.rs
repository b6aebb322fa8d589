//! The forecast of the running daemon, for its metrics: on a thread of its own, seldom, of the VMs that it knows already. The
//! iterator is loaded before the privileges are given up; running it takes none.

use std::{
    io,
    path::Path,
    sync::mpsc::{SyncSender, sync_channel},
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::forecast;
use poisontrace_model::forecast::{Counts, terms::Reason};
use poisontrace_sources::{inputs::forecast::Versions, probes::vcpus::VcpuIterator};

/// Settings of a guest change with a restart of it.
const EVERY: Duration = Duration::from_secs(300);
/// Requests and counts that wait to be taken.
const WAITING: usize = 2;

/// What reads the vCPUs, or why nothing does.
pub type Iterator = Result<VcpuIterator, Reason>;

enum Request {
    /// Of the VMs of these processes.
    Count(Vec<u32>),
    /// KVM is back: the iterator for its new addresses.
    Renew(Iterator),
}

/// See the module.
pub struct Forecaster {
    requests: SyncSender<Request>,
    counts: mpsc::Receiver<Counts>,
    next: Instant,
}

impl Forecaster {
    /// Starts the thread, which ends with this.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start(mut iterator: Iterator) -> io::Result<Self> {
        if let Err(reason) = &iterator {
            tracing::info!(
                %reason,
                "the forecast has no machine-check state of the vCPUs: where it decides, poisontrace_vms_by_forecast is unknown"
            );
        }
        let (requests, requested) = sync_channel(WAITING);
        let (sender, counts) = mpsc::channel(WAITING);
        std::thread::Builder::new()
            .name("forecast".to_owned())
            .spawn(move || {
                let versions = Versions::default();
                while let Ok(request) = requested.recv() {
                    match request {
                        Request::Renew(new) => iterator = new,
                        Request::Count(pids) => {
                            let counts = forecast::counts(Path::new("/"), &pids, &versions, &mut iterator);
                            if sender.blocking_send(counts).is_err() {
                                return;
                            }
                        }
                    }
                }
            })?;
        Ok(Self {
            requests,
            counts,
            next: Instant::now(),
        })
    }

    /// Asks for the next counts if it is time. Does nothing while others are made.
    pub fn ask_if_due(&mut self, pids: impl FnOnce() -> Vec<u32>) {
        let now = Instant::now();
        if now >= self.next && self.requests.try_send(Request::Count(pids())).is_ok() {
            self.next = now + EVERY;
        }
    }

    /// Takes the iterator for a KVM that was loaded again.
    pub fn renew(&mut self, iterator: Iterator) {
        if self.requests.try_send(Request::Renew(iterator)).is_ok() {
            self.next = Instant::now();
        }
    }

    /// The next counts.
    pub async fn next(&mut self) -> Counts {
        match self.counts.recv().await {
            Some(counts) => counts,
            None => std::future::pending().await,
        }
    }
}
