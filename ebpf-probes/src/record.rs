//! The records of the ring buffer, one struct a kind, each beginning with a [`Header`].

/// Values of [`PoisonExit::address`]: what `kvm_page_fault` gave.
pub mod address {
    /// No address: its field is not read on this kernel, or no fault was seen.
    pub const NONE: u32 = 0;
    pub const GPA: u32 = 1;
    /// Guest-virtual: shadow paging.
    pub const VIRTUAL: u32 = 2;
    /// Of a guest that the guest itself runs.
    pub const NESTED: u32 = 3;
}

/// Values of [`FailureBegin::in_kvm_run`].
pub mod in_kvm_run {
    /// No vCPU is loaded on the thread.
    pub const NO: u32 = 0;
    /// The thread is within KVM_RUN, or another ioctl of a vCPU.
    pub const YES: u32 = 1;
    /// This kernel's BTF does not lead there.
    pub const UNKNOWN: u32 = 2;
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $value:literal $konst:ident => $record:ident [$size:literal]),+ $(,)?) => {
        /// Values of [`Header::kind`].
        pub mod kind {
            $($(#[$doc])* pub const $konst: u32 = $value;)+
        }
        $(
            const _: () = assert!(core::mem::size_of::<$record>() == $size);
            impl Record for $record { const KIND: u32 = $value; }
        )+
    };
}

/// A record that can travel through the ring buffer.
pub trait Record: Copy {
    const KIND: u32;
}

shared! {
    /// What every record begins with.
    pub struct Header {
        pub kind: u32,
        /// vCPU of the thread, or [`crate::NO_VCPU`].
        pub vcpu: u32,
        /// CLOCK_MONOTONIC, nanoseconds (`bpf_ktime_get_ns`).
        pub t_ns: u64,
        /// The thread (`task_struct.pid`).
        pub tid: u32,
        /// Its process (`task_struct.tgid`).
        pub pid: u32,
    }

    /// `memory_failure(pfn, flags)` was entered.
    pub struct FailureBegin {
        pub h: Header,
        pub pfn: u64,
        pub flags: u64,
        /// One of [`in_kvm_run`].
        pub in_kvm_run: u32,
        pub pad: u32,
    }

    /// Tracepoint `memory_failure_event`; the numbers are those of the running kernel's `format`.
    pub struct FailureAction { pub h: Header, pub pfn: u64, pub page_type: i32, pub result: i32, }

    /// `memory_failure` returned `ret` (0 or a negative errno).
    pub struct FailureEnd { pub h: Header, pub ret: i64, }

    /// `send_sig_mceerr` or `force_sig_mceerr`.
    pub struct Sigbus {
        pub h: Header,
        /// `si_addr`: address in the target process.
        pub hva: u64,
        /// `si_code`: 4 BUS_MCEERR_AR, 5 BUS_MCEERR_AO.
        pub code: u32,
        /// `si_addr_lsb`: log2 of the lost range.
        pub lsb: u32,
        /// 0 where the target could not be read.
        pub target_tid: u32,
        pub target_pid: u32,
        /// 1: `force_sig_mceerr`, which unblocks the signal.
        pub forced: u32,
        pub pad: u32,
        pub comm: [u8; 16],
    }

    /// A VM exit whose page fault met poison. Times are CLOCK_MONOTONIC nanoseconds, 0 if not seen.
    pub struct PoisonExit {
        pub h: Header,
        pub exit_ns: u64,
        pub fault_ns: u64,
        /// Time in `get_user_pages_unlocked` during this exit, nanoseconds, summed over its calls.
        pub gup_ns: u64,
        /// Last return value of it.
        pub gup_ret: i64,
        /// When SIGBUS was sent.
        pub signal_ns: u64,
        /// When KVM_RUN was about to return (`kvm_userspace_exit`).
        pub user_ns: u64,
        /// When the vCPU entered the guest again; 0 while it has not.
        pub entry_ns: u64,
        pub rip: u64,
        /// `kvm_page_fault.fault_address`; its kind is in `address`.
        pub gpa: u64,
        /// `kvm_page_fault.error_code`: VMX exit qualification, NPF error code, or that of #PF (shadow paging).
        pub fault_code: u64,
        pub hva: u64,
        pub exit_reason: u32,
        /// 1 VMX, 2 SVM, 0 unknown.
        pub isa: u32,
        pub gup_calls: u32,
        pub user_reason: u32,
        pub user_errno: i32,
        /// Bytes of the instruction in `insn` that the processor delivered (SVM decode assists), 0: none.
        pub insn_len: u32,
        pub insn: [u8; 16],
        /// One of [`address`].
        pub address: u32,
        /// 1: kvm_exit did not see it. `exit_ns` is then what KVM itself noted of it (`last_guest_tsc`), or 0.
        pub recovered: u32,
        /// `si_addr_lsb` of the SIGBUS that answers it, in place of a [`Sigbus`] of its own; 0: that was sent.
        pub signal_lsb: u32,
        pub pad: u32,
        /// The thread's exit before it, in place of a [`Reentry`] of its own; 0: that was sent, or there was none.
        pub before_exit_ns: u64,
        pub before_entry_ns: u64,
    }

    /// SIGBUS for poison as `signal:signal_generate` shows it, without its address.
    pub struct SigbusNoAddress {
        pub h: Header,
        /// GPA of the exit that it answers; valid if `located` is 1.
        pub gpa: u64,
        pub located: u32,
        /// `si_code`: 4 BUS_MCEERR_AR, 5 BUS_MCEERR_AO.
        pub code: u32,
        pub target_tid: u32,
        /// 0 where it is not the current process.
        pub target_pid: u32,
        pub comm: [u8; 16],
    }

    /// The vCPU entered the guest again after the poison exit that began at `exit_ns`.
    pub struct Reentry { pub h: Header, pub exit_ns: u64, pub entry_ns: u64, }

    /// One machine-check bank.
    pub struct Bank { pub bank: u64, pub status: u64, pub addr: u64, pub misc: u64, }

    /// One MSR (`struct kvm_msr_entry`).
    pub struct Msr { pub index: u32, pub reserved: u32, pub data: u64, }

    /// KVM_SET_MSRS, as the VMM passed it; `used` [`Msr`]s follow. The list is not looked through in the kernel:
    /// the loop that would do so is more than the verifiers of 5.10 to 6.1 can follow.
    pub struct SetMsrs {
        pub h: Header,
        /// Length of the VMM's list; longer than `used` where it was cut.
        pub nmsrs: u32,
        pub used: u32,
        /// 1: the list could not be read.
        pub unreadable: u32,
        pub pad: u32,
    }

    /// KVM_X86_SET_MCE (`struct kvm_x86_mce`).
    pub struct SetMce { pub h: Header, pub mcg_status: u64, pub bank: Bank, }

    /// KVM_SET_VCPU_EVENTS with exception 18 pending or injected.
    pub struct QueueException { pub h: Header, pub pending: u32, pub injected: u32, }

    /// `kvm_inj_exception` 18, not reinjected: #MC enters the guest, which it interrupts at `rip` (0: not known).
    pub struct Delivered { pub h: Header, pub rip: u64, }

    /// The guest reads or writes MCG_STATUS (`kvm_msr`). `mc_on`: the thread on which the last #MC entered this vCPU, if it is another;
    /// else 0.
    pub struct McgStatus { pub h: Header, pub data: u64, pub write: u32, pub mc_on: u32, }

    /// KVM_RUN returns with `reason`; `errno` is its (negative) return value.
    pub struct UserspaceExit {
        pub h: Header,
        pub reason: u32,
        pub errno: i32,
        /// GPA of the page fault that the exit began with; valid if `located` is 1.
        pub gpa: u64,
        pub located: u32,
        pub pad: u32,
    }

    /// The guest writes to a port that reports its end.
    pub struct Pio { pub h: Header, pub port: u32, pub size: u32, pub value: u64, }

    /// `kvm_entry` at the reset vector, RIP 0xfff0.
    pub struct VcpuReset { pub h: Header, pub rip: u64, }

    /// `kvm_exit` by triple fault (VMX 2) or shutdown (SVM 0x7f).
    pub struct TripleFault { pub h: Header, pub rip: u64, pub exit_reason: u32, pub isa: u32, }

    /// A thread of a VMM with poison exits; `live` threads remain (-1: not known).
    pub struct TaskExit { pub h: Header, pub exit_code: i32, pub live: i32, pub comm: [u8; 16], }

    /// `kvm_arch_destroy_vm`.
    pub struct VmDestroyed { pub h: Header, }

    /// What the VMM read of its vCPU by KVM_GET_SREGS or KVM_GET_SREGS2 after a poison exit.
    pub struct Sregs {
        pub h: Header,
        pub cr0: u64,
        pub cr3: u64,
        pub cr4: u64,
        pub efer: u64,
        /// CS.L: 64-bit code.
        pub cs_l: u32,
        pub pad: u32,
    }

    /// A memslot (`struct kvm_memory_slot`) of the VM whose VMM reads those registers.
    pub struct MemSlot {
        pub h: Header,
        pub gpa: u64,
        pub bytes: u64,
        pub hva: u64,
        /// 0: those before are not valid any more.
        pub n: u32,
        pub pad: u32,
    }

    /// `kvm_exit` by #MC (VMX exception exit with vector 18, SVM 0x52): the processor reported an error while the guest
    /// ran.
    pub struct McExit { pub h: Header, pub rip: u64, pub exit_reason: u32, pub isa: u32, }

    /// Tracepoint `mce_record`: a bank of the host's processor, of an error that was not corrected.
    pub struct HostMce {
        pub h: Header,
        pub mcg_status: u64,
        pub status: u64,
        pub addr: u64,
        pub misc: u64,
        /// Of the interrupted context; with `cs` 3 and 0 here it is KVM's, of a guest (`kvm_machine_check`).
        pub ip: u64,
        pub cpu: u32,
        pub bank: u32,
        pub cs: u32,
        /// `X86_VENDOR_…` (arch/x86/include/asm/processor.h).
        pub vendor: u32,
    }

    /// Tracepoint `mc_event` of EDAC, of an error that was not corrected.
    pub struct EdacEvent {
        pub h: Header,
        /// Physical address.
        pub address: u64,
        /// `enum hw_event_mc_err_type`.
        pub error_type: u32,
        pub pad: u32,
        /// The memory module, as the board labels it; ends with 0 where it is shorter.
        pub label: [u8; 64],
    }

    /// Tracepoint `extlog_mem_event`: the firmware's own record of a memory error.
    pub struct FirmwareError {
        pub h: Header,
        pub address: u64,
        /// CPER severity.
        pub severity: u32,
        pub pad: u32,
    }
}

kinds! {
    1 FAILURE_BEGIN => FailureBegin [48],
    2 FAILURE_ACTION => FailureAction [40],
    3 FAILURE_END => FailureEnd [32],
    4 SIGBUS => Sigbus [72],
    5 POISON_EXIT => PoisonExit [184],
    6 REENTRY => Reentry [40],
    7 SET_MSRS => SetMsrs [40],
    8 SET_MCE => SetMce [64],
    9 QUEUE_EXCEPTION => QueueException [32],
    10 DELIVERED => Delivered [32],
    11 MCG_STATUS => McgStatus [40],
    12 USERSPACE_EXIT => UserspaceExit [48],
    13 PIO => Pio [40],
    14 VCPU_RESET => VcpuReset [32],
    15 TRIPLE_FAULT => TripleFault [40],
    16 TASK_EXIT => TaskExit [48],
    17 VM_DESTROYED => VmDestroyed [24],
    18 SREGS => Sregs [64],
    19 SIGBUS_NO_ADDRESS => SigbusNoAddress [64],
    20 MEM_SLOT => MemSlot [56],
    21 MC_EXIT => McExit [40],
    22 HOST_MCE => HostMce [80],
    23 EDAC_EVENT => EdacEvent [104],
    24 FIRMWARE_ERROR => FirmwareError [40],
}

const _: () = assert!(size_of::<Msr>() == 16);
