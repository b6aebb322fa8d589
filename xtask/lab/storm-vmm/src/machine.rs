//! One vCPU and the memory slots of a VM.

use anyhow::{Context, Result, bail, ensure};
use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_userspace_memory_region, kvm_x86_mce};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use lab_protocol::storm::{Instruction, MISSING_INSTRUCTION, StormPlan};
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

use crate::guest::Guest;
use crate::memory::Memory;

// kvm-ioctls has no machine checks.
ioctl_iow_nr!(KVM_X86_SETUP_MCE, kvm_bindings::KVMIO, 0x9c, u64);
ioctl_iow_nr!(KVM_X86_SET_MCE, kvm_bindings::KVMIO, 0x9e, kvm_x86_mce);

/// As QEMU has them.
const BANKS: u64 = 10;
const BANK: u8 = 9;
const MCG_CTL_P: u64 = 1 << 8;
const MCG_SER_P: u64 = 1 << 24;
/// Valid, uncorrected, enabled, MISC and ADDR valid, signalled, action required; error code "data load".
const STATUS: u64 = 1 << 63 | 1 << 61 | 1 << 60 | 1 << 59 | 1 << 58 | 1 << 56 | 1 << 55 | 0x134;
/// A physical address, of 2^12 bytes.
const MISC: u64 = 2 << 6 | 12;
/// In progress, and the instruction pointer is the error's.
const MCG_STATUS: u64 = 4 | 2;

pub struct Machine {
    pub vcpu: VcpuFd,
    /// The vCPU is the VM's; it goes on as long as this is open.
    _vm: VmFd,
}

/// A VM whose memslots are the halves of `memory`, from guest address 0.
pub fn vm_over(kvm: &Kvm, memory: &Memory) -> Result<VmFd> {
    let vm = kvm.create_vm().context("KVM_CREATE_VM")?;
    vm.set_tss_address(0xfffb_d000).context("KVM_SET_TSS_ADDR")?;
    for (slot, half) in (0..).zip(memory.halves()) {
        let region = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: half.gpa,
            memory_size: half.bytes,
            userspace_addr: half.hva,
        };
        // SAFETY: the mapping has this size and lives as long as the process.
        unsafe { vm.set_user_memory_region(region) }.context("KVM_SET_USER_MEMORY_REGION")?;
    }
    Ok(vm)
}

impl Machine {
    pub fn create(memory: &Memory, plan: StormPlan) -> Result<Self> {
        let kvm = Kvm::new().context("cannot open /dev/kvm")?;
        let cpuid = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .context("KVM_GET_SUPPORTED_CPUID")?;
        available(&cpuid, plan.instruction)?;
        let vm = vm_over(&kvm, memory)?;
        let vcpu = vm.create_vcpu(0).context("KVM_CREATE_VCPU")?;
        vcpu.set_cpuid2(&cpuid).context("KVM_SET_CPUID2")?;
        // SAFETY: the request's argument is a u64, which the kernel reads only.
        let done = unsafe { ioctl_with_ref(&vcpu, KVM_X86_SETUP_MCE(), &(MCG_CTL_P | MCG_SER_P | BANKS)) };
        checked(done, "KVM_X86_SETUP_MCE")?;
        let mut sregs = vcpu.get_sregs().context("KVM_GET_SREGS")?;
        Guest::enter_long_mode(&mut sregs);
        vcpu.set_sregs(&sregs).context("KVM_SET_SREGS")?;
        vcpu.set_regs(&Guest::registers(plan.page))
            .context("KVM_SET_REGS")?;
        Ok(Self { vcpu, _vm: vm })
    }

    /// Injects the machine check that QEMU injects for poisoned memory.
    pub fn inject(&self, gpa: u64) -> Result<()> {
        let event = kvm_x86_mce {
            status: STATUS,
            addr: gpa,
            misc: MISC,
            mcg_status: MCG_STATUS,
            bank: BANK,
            ..kvm_x86_mce::default()
        };
        // SAFETY: the request's argument is this structure, which the kernel reads only.
        let done = unsafe { ioctl_with_ref(&self.vcpu, KVM_X86_SET_MCE(), &event) };
        checked(done, "KVM_X86_SET_MCE")
    }
}

fn checked(result: libc::c_int, what: &'static str) -> Result<()> {
    if result < 0 {
        return Err(std::io::Error::last_os_error()).context(what);
    }
    Ok(())
}

/// A processor without the instruction would run it as something else, or not at all.
fn available(cpuid: &CpuId, instruction: Instruction) -> Result<()> {
    let bit = match instruction {
        Instruction::Clflushopt => 23,
        Instruction::Clwb => 24,
        Instruction::Clflush | Instruction::Load | Instruction::Store => return Ok(()),
    };
    let features = cpuid
        .as_slice()
        .iter()
        .find(|entry| entry.function == 7 && entry.index == 0);
    let Some(features) = features else {
        bail!("{MISSING_INSTRUCTION} CPUID leaf 7, and so no {instruction}");
    };
    ensure!(
        features.ebx >> bit & 1 == 1,
        "{MISSING_INSTRUCTION} {instruction}: choose another --cpu or --instruction"
    );
    Ok(())
}
