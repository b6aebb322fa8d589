//! One process with two VMs, one of which loses a page.

use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;
use lab_protocol::vmm_fate::{TWO_VMS_EXITS, VmmFate};

use crate::signals::{self, OnSigbus};
use crate::vm::Vm;

/// For the destruction of a VM to be seen.
const SHOWS: Duration = Duration::from_millis(500);

pub fn run() -> Result<()> {
    signals::handle(OnSigbus::Note)?;
    let mut other = Vm::new(VmmFate::TwoVms)?;
    let mut vm = Vm::new(VmmFate::TwoVms)?;
    other.touch_first()?;
    vm.step()?;
    while vm.signals() < TWO_VMS_EXITS / 2 {
        vm.step()?;
    }
    drop(other);
    sleep(SHOWS);
    while vm.signals() < TWO_VMS_EXITS {
        vm.step()?;
    }
    // The kernel clears the VM up, as it does QEMU's.
    std::process::exit(0);
}
