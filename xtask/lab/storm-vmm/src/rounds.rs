//! A guest that does nothing but leave, for benchmarks. The VMM measures itself, so that the same is measured
//! whatever looks on.

mod guest;

use std::arch::x86_64::_rdtsc;

use anyhow::{Context, Result, bail};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};
use lab_protocol::bench::{Kind, Loop, Spent};
use rustix::time::{ClockId, clock_gettime};

use storm_vmm::machine::vm_over;
use storm_vmm::memory::{Memory, PAGE};

use crate::sigbus;
use guest::{AGAIN, CODE, DONE, FAULT_PAGES, FAULTS, LOAD, LOOP, SPARE};

/// Runs the loop and prints what it took.
pub fn measure(plan: Loop) -> Result<()> {
    let mut memory = Memory::map()?;
    guest::write(&mut memory, plan.kind, plan.exits)?;
    // Present already, but for the pages whose faults are the matter.
    for page in (0..FAULTS / PAGE).filter(|page| *page != CODE / PAGE) {
        memory.write(page * PAGE, &[0])?;
    }
    let kvm = Kvm::new().context("cannot open /dev/kvm")?;
    let vm = vm_over(&kvm, &memory)?;
    let mut vcpu = vm.create_vcpu(0).context("KVM_CREATE_VCPU")?;
    start(&vcpu)?;
    if plan.poisoned || plan.kind == Kind::Poison {
        memory.poison(SPARE)?;
        sigbus::take().context("no SIGBUS came of the poison")?;
    }
    let before = now();
    go_round(&mut vcpu, &memory, plan)?;
    let after = now();
    let spent = Spent {
        ticks: after.ticks - before.ticks,
        wall_ns: after.wall_ns - before.wall_ns,
        own_ns: after.own_ns - before.own_ns,
    };
    println!("{}", serde_json::to_string(&spent)?);
    Ok(())
}

/// Real mode with 32-bit addresses.
fn start(vcpu: &VcpuFd) -> Result<()> {
    let mut sregs = vcpu.get_sregs().context("KVM_GET_SREGS")?;
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    sregs.ds.limit = 0xffff_ffff;
    sregs.ds.g = 1;
    vcpu.set_sregs(&sregs).context("KVM_SET_SREGS")?;
    let mut regs = vcpu.get_regs().context("KVM_GET_REGS")?;
    regs.rip = CODE;
    regs.rflags = 2;
    vcpu.set_regs(&regs).context("KVM_SET_REGS")
}

fn go_round(vcpu: &mut VcpuFd, memory: &Memory, plan: Loop) -> Result<()> {
    let mut left = 0_u64;
    loop {
        match vcpu.run() {
            Ok(VcpuExit::IoOut(LOOP, _) | VcpuExit::Hlt) => left += 1,
            Ok(VcpuExit::IoOut(AGAIN, _)) => {
                left += u64::from(FAULT_PAGES);
                memory.drop_pages(FAULTS, u64::from(FAULT_PAGES))?;
            }
            Ok(VcpuExit::IoOut(DONE, _)) => break,
            Ok(other) => bail!("unexpected {other:?}"),
            Err(error) if error.errno() == libc::EINTR => {
                left += u64::from(sigbus::take().is_some());
                if plan.kind == Kind::Poison && left == u64::from(plan.exits) {
                    step_over(vcpu)?;
                }
            }
            Err(error) => return Err(error).context("KVM_RUN"),
        }
    }
    // The other kinds never come here.
    let expected = match plan.kind {
        Kind::Cpuid | Kind::Msr => 0,
        Kind::Pio | Kind::Hlt | Kind::Fault | Kind::Poison => u64::from(plan.exits),
    };
    if left != expected {
        bail!("{left} exits in place of {expected}");
    }
    Ok(())
}

/// Past the load of the poisoned page.
fn step_over(vcpu: &VcpuFd) -> Result<()> {
    let mut regs = vcpu.get_regs().context("KVM_GET_REGS")?;
    regs.rip += LOAD.len() as u64;
    vcpu.set_regs(&regs).context("KVM_SET_REGS")
}

fn now() -> Spent {
    let ns = |clock| {
        let time = clock_gettime(clock);
        time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
    };
    Spent {
        // SAFETY: every processor of this architecture has it.
        ticks: unsafe { _rdtsc() },
        wall_ns: ns(ClockId::Monotonic),
        own_ns: ns(ClockId::ThreadCPUTime),
    }
}
