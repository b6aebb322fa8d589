//! Processes that a program of the hook leaves behind in sessions of their own: a process group does not have them.

use std::{
    collections::BTreeSet,
    fs,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, set_child_subreaper, waitpid};

/// The variable that marks the processes of one run.
pub const RUN: &str = "POISONTRACE_RUN";
/// Rounds of killing: the children of those killed come to us in turn.
const ROUNDS: u32 = 20;
const BETWEEN: Duration = Duration::from_millis(5);
/// Of a process's environment.
const MAX_ENVIRON: u64 = 64 << 10;

/// Makes orphans of the hook's programs children of this process (PR_SET_CHILD_SUBREAPER).
pub fn adopt() {
    if let Err(err) = set_child_subreaper(Some(rustix::process::getpid())) {
        tracing::debug!(error = %err, "orphans of the hook's programs will not be found");
    }
}

/// A mark for one run.
pub fn new_mark() -> String {
    static RUNS: AtomicU64 = AtomicU64::new(0);
    format!("{}-{}", std::process::id(), RUNS.fetch_add(1, Ordering::Relaxed))
}

/// The hook's programs that run: others wait for these.
static PROGRAMS: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

fn programs() -> MutexGuard<'static, BTreeSet<i32>> {
    PROGRAMS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A program of the hook, from its start until its exit status has been taken.
pub struct Program(Option<Pid>);

impl Program {
    pub fn new(pid: Option<Pid>) -> Self {
        programs().extend(pid.map(|pid| pid.as_raw_nonzero().get()));
        Self(pid)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            programs().remove(&pid.as_raw_nonzero().get());
        }
    }
}

/// Kills all that the run has left behind.
pub async fn kill(mark: &str) {
    for _ in 0..ROUNDS {
        let left = left_behind(mark);
        if left.is_empty() {
            return;
        }
        for pid in left {
            let _ = kill_process(pid, Signal::KILL);
        }
        tokio::time::sleep(BETWEEN).await;
        reap();
    }
    tracing::warn!("processes of the hook that was killed are still running");
}

/// Takes the exit statuses of orphans: nobody else waits for them.
pub fn reap() {
    for pid in orphans().into_iter().filter(|pid| has_ended(*pid)) {
        let _ = waitpid(Some(pid), WaitOptions::NOHANG);
    }
}

fn left_behind(mark: &str) -> Vec<Pid> {
    orphans().into_iter().filter(|pid| is_of(*pid, mark)).collect()
}

/// Children that are no programs of the hook.
fn orphans() -> Vec<Pid> {
    let Ok(threads) = fs::read_dir("/proc/self/task") else {
        return Vec::new();
    };
    let lists = threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let programs = programs();
    lists
        .flat_map(|list| {
            let pids = list.split_ascii_whitespace();
            pids.filter_map(|pid| Pid::from_raw(pid.parse().ok()?))
                .collect::<Vec<_>>()
        })
        .filter(|pid| !programs.contains(&pid.as_raw_nonzero().get()))
        .collect()
}

fn has_ended(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    // The name before it may have anything in it.
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| rest.starts_with(" Z"))
}

fn is_of(pid: Pid, mark: &str) -> bool {
    use std::io::Read as _;
    let Ok(file) = fs::File::open(format!("/proc/{}/environ", pid.as_raw_nonzero())) else {
        return false;
    };
    let mut environ = Vec::new();
    let _ = file.take(MAX_ENVIRON).read_to_end(&mut environ);
    let wanted = format!("{RUN}={mark}");
    environ
        .split(|byte| *byte == 0)
        .any(|variable| variable == wanted.as_bytes())
}
