//! A VMM just large enough to meet poisoned memory in one way: `scenario-vmm NAME` ([`VmmFate`]). Its guest is the storms'.

mod claims;
mod forecast;
mod memory_file;
mod shared;
mod signals;
mod two_vms;
mod vm;

use anyhow::{Context, Result};
use lab_protocol::vmm_fate::VmmFate;

use signals::OnSigbus;
use vm::Vm;

/// A vCPU thread that blocks SIGBUS never comes back by itself, seconds from its poison on; before it, it is asked about.
pub const BLOCKED_FOR: u32 = 1;
const ASKED_FOR: u32 = 240;

fn main() -> Result<()> {
    let name = std::env::args().nth(1).context("usage: scenario-vmm NAME")?;
    if name == shared::CHILD {
        return shared::child();
    }
    let fate = VmmFate::named(&name).with_context(|| format!("no fate {name}"))?;
    match fate {
        VmmFate::Exit149 => signals::handle(OnSigbus::Exit149)?,
        VmmFate::SecondSigbus => signals::handle(OnSigbus::RaiseSecond)?,
        VmmFate::Swallow | VmmFate::Nested | VmmFate::MachineChecksOff | VmmFate::Dropped => {
            signals::handle(OnSigbus::Note)?;
        }
        VmmFate::Blocked => signals::block(ASKED_FOR)?,
        VmmFate::Shared => return shared::parent(),
        VmmFate::Forged => return claims::forge(true),
        VmmFate::ForgedWithoutVm => return claims::forge(false),
        VmmFate::MarkedOwn => return claims::read_marked(),
        VmmFate::TwoVms => return two_vms::run(),
        VmmFate::NoHandler | VmmFate::Marked => signals::by_default()?,
        // Rust's own handler, of its runtime: it takes itself away, and the access is tried again.
        VmmFate::OwnMemory | VmmFate::Truncated => {}
    }
    Vm::new(fate)?.run()
}
