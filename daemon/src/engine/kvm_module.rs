//! KVM comes and goes: waiting for it at start, and following it while running.

use std::{path::Path, time::Duration};

use tokio::io::{Interest, unix::AsyncFd};

use super::attach::Attached;
use crate::{
    failure::Failure,
    service::{notify, privileges},
    terminal,
};
use poisontrace_kernel_facts::{facts::Facts, kvm::Kvm, plan::Plan, uevent::Uevents};
use poisontrace_report::probes::reasons;
use poisontrace_sources::probes::kvm::Reattached;

const ROOT: &str = "/";
/// How often KVM is looked for where the kernel does not say when it comes.
const LOOK: Duration = Duration::from_secs(10);

/// Returns once KVM can run guests; prints a line if it has to wait. `waiting` is called before the wait.
pub fn wait(waiting: impl FnOnce()) -> Result<(), Failure> {
    let events = Uevents::open();
    // Looked at after the socket is open: what comes in between wakes us.
    let mut now = Kvm::of(Path::new(ROOT));
    if now == Kvm::Ready {
        return Ok(());
    }
    let what = match now {
        Kvm::Idle => "KVM is loaded, but neither kvm_intel nor kvm_amd",
        _ => "KVM is not loaded",
    };
    terminal::print(&format!(
        "poisontrace: {what}: waiting for it (modprobe kvm_intel or kvm_amd)\n"
    ))?;
    waiting();
    while now != Kvm::Ready {
        notify::alive();
        match &events {
            Ok(events) => {
                events.wait(LOOK);
                events.about_kvm();
            }
            Err(_) => std::thread::sleep(LOOK),
        }
        now = Kvm::of(Path::new(ROOT));
    }
    tracing::info!("KVM is loaded");
    Ok(())
}

/// Follows KVM while the probes are attached.
pub struct KvmModuleWatcher {
    /// `None` where netlink sockets are forbidden: then it is looked for now and then.
    events: Option<AsyncFd<Uevents>>,
    last: Kvm,
}

impl KvmModuleWatcher {
    /// Without uevents it looks now and then.
    pub fn open() -> Self {
        let events = Uevents::open().and_then(|events| {
            // SAFETY: the descriptor is owned by this object, which neither closes nor replaces it while it lives.
            let watched = unsafe { AsyncFd::register_with_interest(events, Interest::READABLE) };
            Ok(watched?)
        });
        if let Err(err) = &events {
            tracing::debug!(error = %err, "no uevents: KVM is looked for now and then");
        }
        Self {
            events: events.ok(),
            last: Kvm::Ready,
        }
    }

    /// Returns when the kernel reports a change of KVM's modules.
    pub async fn news(&mut self) {
        let Some(events) = &mut self.events else {
            return std::future::pending().await;
        };
        loop {
            match events.readable_mut().await {
                Ok(mut ready) => {
                    let about = ready.get_inner_mut().about_kvm();
                    ready.clear_ready();
                    if about {
                        return;
                    }
                }
                Err(_) => return std::future::pending().await,
            }
        }
    }

    /// Detaches KVM's probes while it is unloaded, and attaches them when it is back; whether it is back just now.
    ///
    /// # Errors
    /// If KVM came back with events of another layout than the programs were loaded for.
    pub fn follow(&mut self, attached: &mut Attached) -> Result<bool, Failure> {
        let now = Kvm::of(Path::new(ROOT));
        let before = std::mem::replace(&mut self.last, now);
        match (before == Kvm::Ready, now == Kvm::Ready) {
            (true, false) => {
                let probes = attached.loaded.release_kvm();
                tracing::warn!(
                    probes,
                    "KVM was unloaded; its probes are detached until it reloads"
                );
            }
            (false, true) => {
                let reattached = privileges::attaching(|| reattach(attached))?;
                if !reattached.failed.is_empty() && notify::managed() {
                    return Err(Failure::new(
                        "KVM is back, and this process has given up the right to attach to it: started again, it goes on",
                    ));
                }
                let probes = reattached.probes;
                tracing::info!(probes, "KVM is back: its probes are attached again");
                for (probe, why) in reattached.failed {
                    tracing::error!(%probe, why = reasons(&why), "a probe did not come back");
                }
            }
            _ => {}
        }
        Ok(before != Kvm::Ready && now == Kvm::Ready)
    }
}

fn reattach(attached: &mut Attached) -> Result<Reattached, Failure> {
    let facts = Facts::of_this_kernel()?;
    if !attached.loaded.fits(&Plan::new(&facts, false)) {
        return Err(Failure::new(
            "KVM came back with events of another layout: start poisontrace again",
        ));
    }
    Ok(attached.loaded.reattach_kvm())
}
