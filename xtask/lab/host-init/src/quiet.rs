//! When a program that prints nothing has begun: perf reads all symbols of the kernel first, and then waits for events.

use std::fs;
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// Without any use of the processor: it waits. Of the emulated host's own time.
const QUIET: Duration = Duration::from_secs(2);
/// An emulated processor may be slow beside its own clock.
const LIMIT: Duration = Duration::from_secs(1800);
const LOOK: Duration = Duration::from_millis(200);

/// Waits until the process has worked, and then has not for a while.
pub fn wait(child: &mut Child) -> Result<()> {
    let began = Instant::now();
    let (mut used, mut since) = (0, began);
    loop {
        if let Some(status) = child.try_wait()? {
            bail!("it ended before it was ready: {status}");
        }
        let now = ticks(child.id())?;
        if now != used {
            (used, since) = (now, Instant::now());
        }
        if used > 0 && since.elapsed() >= QUIET {
            return Ok(());
        }
        ensure!(
            began.elapsed() < LIMIT,
            "it was still at work after {} s",
            LIMIT.as_secs()
        );
        std::thread::sleep(LOOK);
    }
}

/// Processor time of a process, user and system, in clock ticks (fields 14 and 15 of /proc/PID/stat).
fn ticks(pid: u32) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("it is gone")?;
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let field = |n: usize| -> Option<u64> { fields.split_whitespace().nth(n)?.parse().ok() };
    let (user, system) = field(11).zip(field(12)).context("no times in its stat")?;
    Ok(user + system)
}
