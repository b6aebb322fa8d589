//! Two VMMs with one page of memory, which the host loses.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsRawFd, FromRawFd};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab_protocol::vmm_fate::VmmFate;

use storm_vmm::guest::POISONED;

use crate::signals::{self, OnSigbus};
use crate::vm::{Vm, poison};
use crate::{forecast, memory_file};

/// The second VMM: the same program, given the memory file.
pub const CHILD: &str = "shared-child";
const READY: &str = "ready";
/// Both live on for a while, as a VMM does.
const AFTERLIFE: Duration = Duration::from_millis(500);

/// A VMM whose guest has the shared page, and has touched it.
fn vm(file: &File) -> Result<Vm> {
    signals::handle(OnSigbus::Note)?;
    signals::early_notice()?;
    let mut vm = Vm::new(VmmFate::Shared)?;
    memory_file::map_at(file, vm.memory.host(POISONED))?;
    vm.touch_first()?;
    Ok(vm)
}

pub fn parent() -> Result<()> {
    let file = memory_file::create()?;
    let vm = vm(&file)?;
    forecast::ask()?;
    let mut child = Command::new("/proc/self/exe")
        .args([CHILD, &file.as_raw_fd().to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the second VMM")?;
    let mut line = String::new();
    let output = child.stdout.take().context("the second VMM has no output")?;
    BufReader::new(output).read_line(&mut line)?;
    ensure!(line.trim() == READY, "the second VMM printed {line:?}");
    poison(vm.memory.page_frame(POISONED)?)?;
    sleep(AFTERLIFE);
    let status = child.wait()?;
    ensure!(status.success(), "the second VMM: {status}");
    // The kernel clears the VM up, as it does QEMU's.
    std::mem::forget(vm);
    Ok(())
}

pub fn child() -> Result<()> {
    let number = std::env::args().nth(2).context("no memory file")?;
    // SAFETY: the parent left this descriptor open for us, and nothing else here owns it.
    let file = unsafe { File::from_raw_fd(number.parse().context("no descriptor")?) };
    let vm = vm(&file)?;
    println!("{READY}");
    sleep(2 * AFTERLIFE);
    std::mem::forget(vm);
    Ok(())
}
