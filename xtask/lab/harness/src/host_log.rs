//! The emulated host's kernel log, held against poisontrace: it must not make the kernel complain.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use lab_protocol::{DAEMON_BEGINS, KERNEL_LOG, TAINT};

/// First words of a complaint. A call trace on its own is the rest of one whose first line the ring buffer has dropped.
const COMPLAINTS: [&str; 6] = [
    "WARNING:",
    "BUG:",
    "kernel BUG at",
    "Oops:",
    "general protection fault",
    "Call Trace:",
];
/// TAINT_MACHINE_CHECK (include/linux/panic.h): the host's processor has reported an error, as some scenarios have it do.
const MACHINE_CHECK: u64 = 1 << 4;
const FIRST: usize = 3;

/// # Errors
/// A log in which the kernel warns, or is tainted anew, since poisontrace was first started.
pub fn check(log: &Path) -> Result<()> {
    let bytes = fs::read(log).with_context(|| format!("the lab left no {}", log.display()))?;
    let complaints = complaints(&String::from_utf8_lossy(&bytes));
    let shown: Vec<&str> = complaints.iter().take(FIRST).map(String::as_str).collect();
    ensure!(
        complaints.is_empty(),
        "the host's kernel complains {} times since poisontrace was started: {}; see {}",
        complaints.len(),
        shown.join(" | "),
        log.display()
    );
    Ok(())
}

fn complaints(log: &str) -> Vec<String> {
    let mut lines = log.lines();
    let Some(begins) = log
        .lines()
        .find(|line| line.contains(DAEMON_BEGINS))
        .and_then(seconds)
    else {
        return Vec::new();
    };
    let mut found = Vec::new();
    let taints: Vec<u64> = lines
        .by_ref()
        .take_while(|line| !line.starts_with(KERNEL_LOG))
        .filter_map(taint)
        .collect();
    if let (Some(before), Some(after)) = (taints.first(), taints.last()) {
        let new = after & !before & !MACHINE_CHECK;
        if new != 0 {
            found.push(format!("new taint {new:#x}"));
        }
    }
    let complains = |line: &&str| {
        seconds(line).is_some_and(|at| at >= begins) && COMPLAINTS.iter().any(|words| line.contains(words))
    };
    found.extend(lines.filter(complains).map(str::to_owned));
    found
}

/// `[ 12.345678] …`
fn seconds(line: &str) -> Option<f64> {
    let (time, _) = line.strip_prefix('[')?.split_once(']')?;
    time.trim().parse().ok()
}

fn taint(line: &str) -> Option<u64> {
    line.split_once(TAINT)?.1.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the matrix's host with 5.10, shortened.
    const WARNS: &str = "\
[    3.900] lab: kernel taint 0
[    4.000] lab: starting poisontrace
[   14.000] lab: kernel taint 512
--- kernel log
[    1.000000] WARNING: CPU: 0 PID: 1 at init/main.c:1
[    4.211000] WARNING: CPU: 1 PID: 163 at kernel/bpf/verifier.c:10519 check_map_prog_compatibility+0x1d5/0x220
[    4.212000] Call Trace:
[    4.213000] Memory failure: 0x109d3: recovery action for dirty LRU page: Recovered
";

    #[test]
    fn a_warning_since_the_daemon_was_started_is_a_complaint() {
        let found = complaints(WARNS);
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[0].contains("0x200"), "{found:?}");
        assert!(found[1].contains("verifier.c"), "{found:?}");
    }

    #[test]
    fn what_the_kernel_said_before_the_daemon_and_a_machine_check_are_none() {
        let later = WARNS
            .replace("[    4.000] lab: starting", "[    9.000] lab: starting")
            .replace("taint 512", "taint 16");
        assert_eq!(complaints(&later), Vec::<String>::new());
        let without_daemon = WARNS.replace("starting poisontrace", "starting QEMU");
        assert_eq!(complaints(&without_daemon), Vec::<String>::new());
    }
}
