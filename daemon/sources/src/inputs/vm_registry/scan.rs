//! Looks for VMs among the host's processes: on a thread of its own, as descriptors are their owners' to multiply, and
//! bounded by time and number. What is left out is looked at the next time, and counted.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::PathBuf,
    sync::mpsc::{SyncSender, sync_channel},
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::{Holds, proc};
use poisontrace_model::event::Vmm;

/// Looks at a process before it is taken for no VMM.
pub(super) const LOOKS: u8 = 3;
/// Looks without a list, one after the other: a /proc of another PID namespace than the daemon's counts apart.
pub(super) const UNLISTED: u8 = 5;
/// How long one look may take.
const BUDGET: Duration = Duration::from_millis(500);
/// Looks that wait to be taken.
const WAITING: usize = 4;

/// What one look has found.
#[derive(Debug, Default)]
pub struct Look {
    /// Processes that run a VM and were not known before.
    pub found: Vec<(u32, Vmm)>,
    /// All processes that there are; `None`: no list was made, as nothing has started.
    pub pids: Option<BTreeSet<u32>>,
    /// Processes that there was no time for, or that have more descriptors than are looked at.
    pub left_out: u64,
}

/// See the module.
pub struct VmScan {
    proc: PathBuf,
    /// VMMs that have been found.
    known: BTreeSet<u32>,
    /// Processes that were no VMM when looked at, and how often that was: a VMM opens its VM soon after it
    /// starts, so that the rest of the host's processes need not be looked at for ever.
    dismissed: BTreeMap<u32, u8>,
    /// [`proc::last_pid`] when /proc was listed last, if no process was left to be looked at again; and the looks that did
    /// without a list since.
    settled: Option<(String, u8)>,
    /// Where the next look begins: after the last process that the one before had time for.
    next: u32,
    budget: Duration,
}

impl VmScan {
    /// `proc`: `/proc`.
    pub fn new(proc: impl Into<PathBuf>) -> Self {
        Self {
            proc: proc.into(),
            known: BTreeSet::new(),
            dismissed: BTreeMap::new(),
            settled: None,
            next: 0,
            budget: BUDGET,
        }
    }

    #[cfg(test)]
    pub fn budget(&mut self, budget: Duration) {
        self.budget = budget;
    }

    /// Looks at processes that were not there the last time.
    pub fn look(&mut self) -> Look {
        // Before the list: what starts while it is made is new the next time.
        let last_pid = proc::last_pid(&self.proc);
        if self.nothing_new(last_pid.as_deref()) {
            return Look::default();
        }
        let Ok(entries) = fs::read_dir(&self.proc) else {
            return Look::default();
        };
        let pids: BTreeSet<u32> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect();
        self.known.retain(|pid| pids.contains(pid));
        self.dismissed.retain(|pid, _| pids.contains(pid));
        let mut look = Look::default();
        let until = Instant::now() + self.budget;
        // Round and round, so that each process has its turn.
        let order: Vec<u32> = pids
            .range(self.next..)
            .chain(pids.range(..self.next))
            .copied()
            .collect();
        self.next = 0;
        for (n, pid) in order.iter().copied().enumerate() {
            let looks = self.dismissed.get(&pid).copied().unwrap_or(0);
            if looks >= LOOKS || self.known.contains(&pid) {
                continue;
            }
            if n > 0 && Instant::now() > until {
                if self.next == 0 {
                    self.next = pid;
                }
                look.left_out += 1;
                continue;
            }
            match proc::holds_a_vm(&self.proc, pid) {
                Holds::Vm => {
                    self.dismissed.remove(&pid);
                    self.known.insert(pid);
                    look.found.push((pid, proc::read(&self.proc, pid, Some(true))));
                }
                holds => {
                    look.left_out += u64::from(holds == Holds::TooMany);
                    self.dismissed.insert(pid, looks + 1);
                }
            }
        }
        let all_settled = look.left_out == 0 && self.dismissed.values().all(|looks| *looks >= LOOKS);
        self.settled = last_pid.filter(|_| all_settled).map(|last| (last, 0));
        look.pids = Some(pids);
        look
    }

    fn nothing_new(&mut self, last_pid: Option<&str>) -> bool {
        let Some((settled, unlisted)) = &mut self.settled else {
            return false;
        };
        if last_pid != Some(settled.as_str()) || *unlisted >= UNLISTED {
            return false;
        }
        *unlisted += 1;
        true
    }

    /// Looks on a thread, each time that it is asked to.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start(mut self) -> io::Result<Looks> {
        let (asked, ask) = sync_channel(1);
        let (sender, looks) = mpsc::channel(WAITING);
        std::thread::Builder::new()
            .name("vm_scan".to_owned())
            .spawn(move || {
                while ask.recv().is_ok() {
                    if sender.blocking_send(self.look()).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Looks { asked, looks })
    }
}

/// The looks of a [`VmScan`] on its thread, which ends with this.
pub struct Looks {
    asked: SyncSender<()>,
    looks: mpsc::Receiver<Look>,
}

impl Looks {
    /// Asks for a look. Does nothing while one is under way.
    pub fn ask(&self) {
        let _ = self.asked.try_send(());
    }

    /// The next look.
    pub async fn next(&mut self) -> Look {
        match self.looks.recv().await {
            Some(look) => look,
            None => std::future::pending().await,
        }
    }
}
