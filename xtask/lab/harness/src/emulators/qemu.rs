//! The emulated host: QEMU's software emulation of an AMD processor with nested virtualization.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::process::{End, Running};
use lab_protocol::{DEFERRED_STATUS, DONE, FAILED, MACHINE_CHECK, SHARE_TAG, STEP, TREE_TAG};
use xtask_support::progress::Progress;
use xtask_support::unpacked;

/// A boot and a guest take about a minute on two idle cores.
const DEADLINE: Duration = Duration::from_secs(300);
/// For each guest after the first.
const PER_GUEST: Duration = Duration::from_secs(150);
const POWER_OFF: Duration = Duration::from_secs(10);

/// How long a host that runs so many guests in turn may take.
pub fn deadline(guests: usize) -> Duration {
    let more = u32::try_from(guests.saturating_sub(1)).unwrap_or(0);
    DEADLINE + PER_GUEST * more
}

pub struct Host<'a> {
    pub tree: &'a Path,
    pub kernel: &'a Path,
    pub initramfs: &'a Path,
    pub share: &'a Path,
    /// An image with a file system, as the first virtio disk.
    pub disk: Option<&'a Path>,
    pub deadline: Duration,
}

impl Host<'_> {
    /// Boots, and follows the console to its last word.
    pub fn boot(&self, progress: &Progress) -> Result<End> {
        progress.step("lab: booting the host's kernel");
        let console = self.share.join("out/host-console.txt");
        let mut child = Running(self.command()?.spawn().context("cannot start QEMU")?);
        let mut monitor = child.0.stdin.take().context("QEMU has no standard input")?;
        let stdout = child.0.stdout.take().context("QEMU has no standard output")?;
        let stderr = child.0.stderr.take().context("QEMU has no standard error")?;
        let (sender, lines) = mpsc::channel();
        let errors = sender.clone();
        std::thread::spawn(move || follow(BufReader::new(stdout), |line| sender.send(line).is_ok()));
        std::thread::spawn(move || follow(BufReader::new(stderr), |line| errors.send(line).is_ok()));
        let deadline = Instant::now() + self.deadline;
        let mut seen = Vec::new();
        let end = loop {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    seen.push(line.clone());
                    if let Some(step) = line.find(STEP) {
                        progress.step(&line[step..]);
                    }
                    if let Some((_, address)) = line.split_once(MACHINE_CHECK) {
                        monitor
                            .write_all(machine_check(address.trim()).as_bytes())
                            .and_then(|()| monitor.flush())
                            .context("QEMU's monitor does not listen")?;
                    }
                    if line.contains(DONE) {
                        break End::Done;
                    }
                    if let Some((_, reason)) = line.split_once(FAILED) {
                        break End::Failed(reason.to_owned());
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    break End::Silent(format!("no answer in {} s", self.deadline.as_secs()));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let last = seen.last().map_or("nothing", String::as_str);
                    break End::Silent(format!("QEMU ended early; its last line: {last}"));
                }
            }
        };
        if !matches!(end, End::Silent(_)) {
            child.wait(POWER_OFF);
        }
        std::fs::write(&console, seen.join("\n") + "\n").context("cannot write the host's console")?;
        Ok(end)
    }

    fn command(&self) -> Result<Command> {
        let mut qemu = qemu(self.tree)?;
        qemu.args([
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
            "-monitor",
            "none",
        ])
        .args([
            "-machine",
            "q35",
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "EPYC,+svm",
        ])
        // The monitor shares the standard streams with the console.
        .args(["-smp", "2", "-m", "2048", "-serial", "mon:stdio"])
        .arg("-kernel")
        .arg(self.kernel)
        .arg("-initrd")
        .arg(self.initramfs)
        // On a busy machine the kernel's test of the timer fails, and it panics.
        .args([
            "-append",
            "console=ttyS0 quiet panic=-1 mitigations=off nokaslr no_timer_check",
        ]);
        for (tag, folder, access) in [(SHARE_TAG, self.share, ""), (TREE_TAG, self.tree, ",readonly=on")] {
            let path = folder
                .to_str()
                .context("the workspace's path is not UTF-8")?
                .replace(',', ",,");
            qemu.arg("-virtfs").arg(format!(
                "local,path={path},mount_tag={tag},security_model=none,multidevs=remap{access}"
            ));
        }
        if let Some(disk) = self.disk {
            let path = disk.to_str().context("the workspace's path is not UTF-8")?;
            let path = path.replace(',', ",,");
            qemu.arg("-drive")
                .arg(format!("file={path},format=raw,if=virtio,cache=unsafe"));
        }
        qemu.stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Ok(qemu)
    }
}

fn qemu(tree: &Path) -> Result<Command> {
    let mut command = unpacked::program(tree, "usr/bin/qemu-system-x86_64")?;
    command.env("QEMU_MODULE_DIR", tree.join("usr/lib/x86_64-linux-gnu/qemu"));
    for firmware in ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"] {
        command.arg("-L").arg(tree.join(firmware));
    }
    Ok(command)
}

/// What makes QEMU's monitor write an error of this address into a bank of the host's first processor. Control-A c leads from
/// the console to the monitor and back. Bank 4 is not taken for one with a usable address (`amd_mce_usable_address()`).
fn machine_check(address: &str) -> String {
    const SWITCH: &str = "\u{1}c";
    const BANK: u32 = 1;
    const MISC: u64 = 0x8c;
    format!("{SWITCH}mce 0 {BANK} {DEFERRED_STATUS:#x} 0 {address} {MISC:#x}\n{SWITCH}")
}

fn follow(mut from: impl BufRead, mut to: impl FnMut(String) -> bool) {
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        line.clear();
        if !to(text) {
            break;
        }
    }
}
