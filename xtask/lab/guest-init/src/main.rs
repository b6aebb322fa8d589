//! First process of the KVM guest. It starts an application with one page that the host will poison, and prints
//! its end.

mod application;
mod free_page;
mod kernel;
mod page;

use std::ffi::CStr;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use lab_protocol::{
    GUEST_ALIVE, GUEST_APPLICATION_KILLED, GUEST_HANDLER_PAGE, GUEST_PANICS, MODULE_ORDER_FILE, words,
};
use rustix::mount::{MountFlags, mount};
use rustix::process::Signal;
use rustix::system::{RebootCommand, finit_module, reboot};

/// After which it is a late death.
const BEFORE_PANIC: Duration = Duration::from_secs(5);
/// Time for a late #MC or panic to show.
const SETTLE: Duration = Duration::from_secs(3);

fn main() {
    if std::env::args().nth(1).as_deref() == Some("application") {
        let how = std::env::args().nth(2).unwrap_or_default();
        if let Err(error) = application::run(&how) {
            println!("guest: application failed: {error:#}");
            std::process::exit(1);
        }
        return;
    }
    if let Err(error) = init() {
        println!("guest: failed: {error:#}");
    }
    // Only returns where the kernel refuses, and then the VMM's deadline ends the guest.
    if let Err(error) = reboot(RebootCommand::PowerOff) {
        println!("guest: cannot power off: {error}");
    }
}

fn init() -> Result<()> {
    mount_on("proc", "/proc", c"proc")?;
    mount_on("sysfs", "/sys", c"sysfs")?;
    mount_on("devtmpfs", "/dev", c"devtmpfs").ok();
    for module in fs::read_to_string(MODULE_ORDER_FILE).unwrap_or_default().lines() {
        if let Err(error) = load(module) {
            println!("guest: {error:#}");
        }
    }
    let line = fs::read_to_string("/proc/cmdline").context("cannot read /proc/cmdline")?;
    let mut given = line.split_whitespace();
    let free_page = given.clone().find_map(|word| word.strip_prefix(words::FREE_PAGE));
    if let Some(gpa) = free_page {
        free_page::wait_for_death(gpa)?;
        println!("{GUEST_ALIVE}");
        return Ok(());
    }
    let how = given.clone().find_map(|word| word.strip_prefix(words::TOUCH));
    if given.any(|word| word == "nokaslr") {
        println!("{GUEST_HANDLER_PAGE}{:#x}", kernel::handler_page()?);
    }
    // Not this process: the death of process 1 would be a panic of its own.
    let mut child = Command::new("/proc/self/exe")
        .args(["application", how.unwrap_or(words::READ)])
        .spawn()
        .context("cannot start the application")?;
    let status = child.wait()?;
    match status.signal() {
        Some(signal) if signal == Signal::BUS.as_raw() => {
            println!("{GUEST_APPLICATION_KILLED}");
        }
        Some(signal) => println!("guest: application killed by signal {signal}"),
        None => println!("guest: application ended: {status}"),
    }
    std::thread::sleep(SETTLE);
    println!("{GUEST_ALIVE}");
    if line.split_whitespace().any(|word| word == words::THEN_PANIC) {
        std::thread::sleep(BEFORE_PANIC);
        println!("{GUEST_PANICS}");
        fs::write("/proc/sysrq-trigger", "c").context("no sysrq")?;
    }
    Ok(())
}

fn load(module: &str) -> Result<()> {
    let file = File::open(module).with_context(|| format!("cannot open {module}"))?;
    finit_module(file, c"", 0).with_context(|| format!("cannot load {module}"))
}

fn mount_on(kind: &str, target: &str, source: &CStr) -> Result<()> {
    fs::create_dir_all(target).with_context(|| format!("cannot create {target}"))?;
    mount(source, target, kind, MountFlags::empty(), None).with_context(|| format!("cannot mount {target}"))
}
