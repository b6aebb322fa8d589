//! The VM, its vCPU's loop, and the VMM's part in each fate.

use std::fs::{self, File};
use std::process::exit;

use anyhow::{Context, Result, bail, ensure};
use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuExit;
use lab_protocol::pagemap::page_frame;
use lab_protocol::storm::{Instruction, Mode, StormPlan};
use lab_protocol::vmm_fate::VmmFate;
use storm_vmm::guest::{BARE_EXITS_DONE, DONE, Guest, MACHINE_CHECK, POISON_ME, POISONED};
use storm_vmm::machine::Machine;
use storm_vmm::memory::{Memory, PAGE};

use crate::{BLOCKED_FOR, claims, forecast, memory_file, signals};

const SECOND: u64 = POISONED + PAGE;
/// Where the guest's #MC handler is.
const HANDLER: u64 = 0x1_1000;
/// mov 0x101000,%rax: the second page.
const TOUCH_SECOND: [u8; 8] = [0x48, 0x8b, 0x04, 0x25, 0x00, 0x10, 0x10, 0x00];
const CR4_MCE: u64 = 1 << 6;
const MCG_CTL: u32 = 0x17b;
/// Exits that are swallowed, and machine checks that are injected in vain.
const SWALLOWED: u32 = 100;
const DROPPED: u32 = 3;

pub struct Vm {
    fate: VmmFate,
    pub memory: Memory,
    pub machine: Machine,
    signals: u32,
    /// What keeps the guest's memory marked.
    marked: Option<File>,
}

impl Vm {
    pub fn new(fate: VmmFate) -> Result<Self> {
        let mut memory = Memory::map()?;
        let plan = StormPlan::new(Mode::Inject, Instruction::Load);
        Guest::write(&mut memory, plan)?;
        // KVM and the kernel know only pages that have been touched.
        memory.write(SECOND, &[1])?;
        if fate == VmmFate::Nested {
            memory.write(HANDLER, &TOUCH_SECOND)?;
        }
        let machine = Machine::create(&memory, plan)?;
        if fate == VmmFate::MachineChecksOff {
            let mut sregs = machine.vcpu.get_sregs().context("KVM_GET_SREGS")?;
            sregs.cr4 &= !CR4_MCE;
            machine.vcpu.set_sregs(&sregs).context("KVM_SET_SREGS")?;
        }
        if fate == VmmFate::Dropped {
            let off = kvm_msr_entry {
                index: MCG_CTL,
                data: 0,
                ..kvm_msr_entry::default()
            };
            let list = Msrs::from_entries(&[off]).context("a list of one MSR")?;
            machine.vcpu.set_msrs(&list).context("KVM_SET_MSRS")?;
        }
        Ok(Self {
            fate,
            memory,
            machine,
            signals: 0,
            marked: None,
        })
    }

    pub fn run(&mut self) -> Result<()> {
        loop {
            self.step()?;
        }
    }

    /// One KVM_RUN, and the VMM's part after it.
    pub fn step(&mut self) -> Result<()> {
        match self.machine.vcpu.run() {
            Ok(VcpuExit::IoOut(POISON_ME, _)) => self.lose()?,
            Ok(VcpuExit::IoOut(BARE_EXITS_DONE | MACHINE_CHECK, _)) => {}
            // A VMM would start the guest anew; this one has shown what it is for.
            Ok(VcpuExit::IoOut(DONE, _) | VcpuExit::Shutdown) => exit(0),
            Ok(other) => bail!("unexpected {other:?}"),
            Err(error) if error.errno() == libc::EINTR => {}
            Err(error) if error.errno() == libc::EFAULT && self.fate == VmmFate::Truncated => {
                self.touch(POISONED);
                bail!("alive after a touch of truncated memory");
            }
            Err(error) => return Err(error).context("KVM_RUN"),
        }
        if signals::pending() {
            self.on_sigbus()?;
            signals::done();
        }
        Ok(())
    }

    /// The guest touches its page, which stays as it is.
    pub fn touch_first(&mut self) -> Result<()> {
        let exit = self.machine.vcpu.run().context("KVM_RUN")?;
        ensure!(
            matches!(exit, VcpuExit::IoOut(POISON_ME, _)),
            "the guest began otherwise"
        );
        Ok(())
    }

    /// How often SIGBUS has come.
    pub const fn signals(&self) -> u32 {
        self.signals
    }

    /// Memory is lost as the hardware would report it: only processes that asked for early notice get a signal.
    fn lose(&mut self) -> Result<()> {
        forecast::ask()?;
        match self.fate {
            VmmFate::Blocked => {
                signals::block(BLOCKED_FOR)?;
                poison(self.memory.page_frame(POISONED)?)
            }
            VmmFate::Truncated => self.memory_file_without_memory(),
            VmmFate::Marked => {
                self.marked = Some(claims::mark(self.memory.host(POISONED), PAGE)?);
                Ok(())
            }
            VmmFate::OwnMemory => {
                let mut own = Box::new([0x5a_u8; 2 * PAGE as usize]);
                let at = own.as_mut_ptr().addr() as u64;
                // A page that holds nothing else of this process.
                let page = at.next_multiple_of(PAGE);
                poison(page_frame(page)?.context("the page to poison is not present")?)?;
                // SAFETY: the page lies in `own`.
                let byte = unsafe { own.as_ptr().add((page - at) as usize).read_volatile() };
                bail!("alive after a touch of lost memory: {byte}");
            }
            VmmFate::Nested | VmmFate::SecondSigbus => {
                poison(self.memory.page_frame(POISONED)?)?;
                poison(self.memory.page_frame(SECOND)?)
            }
            _ => poison(self.memory.page_frame(POISONED)?),
        }
    }

    fn on_sigbus(&mut self) -> Result<()> {
        self.signals += 1;
        match self.fate {
            VmmFate::SecondSigbus => {
                self.touch(SECOND);
                bail!("alive after a second SIGBUS");
            }
            VmmFate::Swallow if self.signals == SWALLOWED => exit(0),
            VmmFate::Swallow | VmmFate::TwoVms => Ok(()),
            VmmFate::Dropped if self.signals == DROPPED => exit(0),
            VmmFate::Nested if self.signals > 1 => self.machine.inject(SECOND),
            VmmFate::Nested | VmmFate::MachineChecksOff | VmmFate::Dropped => self.machine.inject(POISONED),
            _ => bail!("SIGBUS, which was not to come"),
        }
    }

    /// The VMM's own access to its guest's memory, as of a device that it emulates.
    fn touch(&self, gpa: u64) {
        let at = std::ptr::with_exposed_provenance::<u8>(self.memory.host(gpa) as usize);
        // SAFETY: the address lies in the guest's memory, which is mapped as long as the process lives; what comes of
        // the access is a signal, which is what it is for.
        unsafe { at.read_volatile() };
    }

    fn memory_file_without_memory(&mut self) -> Result<()> {
        let file = memory_file::create()?;
        memory_file::map_at(&file, self.memory.host(POISONED))?;
        file.set_len(0).context("cannot truncate the memory file")
    }
}

/// The kernel takes the page for lost, as after a machine check that named it.
pub fn poison(pfn: u64) -> Result<()> {
    fs::write("/sys/kernel/debug/hwpoison/corrupt-pfn", format!("{pfn:#x}"))
        .context("the kernel did not poison the page")
}
