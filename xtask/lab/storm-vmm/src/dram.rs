//! Poison in the emulated machine's DRAM, by the ports that the lab's Bochs has for it. Nothing here is reported to the
//! kernel: it learns of the poison when something consumes it.

use std::arch::asm;

use anyhow::{Context, Result};
use lab_protocol::storm::dram_ports;

/// Poisons the 64-byte line at a physical address of the host.
pub fn poison(address: u64) -> Result<()> {
    command(address, dram_ports::POISON)
}

/// The line is as any other again.
pub fn heal(address: u64) -> Result<()> {
    command(address, dram_ports::HEAL)
}

fn command(address: u64, command: u32) -> Result<()> {
    allow()?;
    out(dram_ports::ADDRESS_LOW, address as u32);
    out(dram_ports::ADDRESS_HIGH, (address >> 32) as u32);
    out(dram_ports::COMMAND, command);
    Ok(())
}

/// Machine checks that poison in DRAM has raised since power-on.
pub fn consumed() -> Result<u32> {
    allow()?;
    let value: u32;
    // SAFETY: the port is one of the emulator's own, which reading does not change; ioperm has allowed it.
    unsafe { asm!("in eax, dx", in("dx") dram_ports::CONSUMED, out("eax") value, options(nomem, nostack)) };
    Ok(value)
}

fn allow() -> Result<()> {
    let (first, count) = (dram_ports::FIRST, dram_ports::COUNT);
    // SAFETY: takes integers only; no other device has these ports.
    if unsafe { libc::ioperm(first.into(), count.into(), 1) } != 0 {
        return Err(std::io::Error::last_os_error()).context("ioperm: root is needed");
    }
    Ok(())
}

fn out(port: u16, value: u32) {
    // SAFETY: the port is one of the emulator's own, and no memory of this program is what it is told to poison: the page is
    // the guest's; ioperm has allowed it.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nostack)) };
}
