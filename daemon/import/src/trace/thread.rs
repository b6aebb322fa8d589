//! What a trace has shown of one thread since its last guest entry.

use super::{
    fields::{hex, hex_of, number_of, value},
    reason::{self, Kind},
};
use poisontrace_model::{
    event::{Access, EventKind, Isa, PoisonExit, decode::access},
    hex::Hex,
};

/// Longest fields of a `kvm_exit` that are kept until it is known whether it met poison.
const MAX_FIELDS: usize = 256;

#[derive(Default)]
pub struct Thread {
    pub tgid: Option<u32>,
    pub comm: Vec<u8>,
    pub vcpu: Option<u32>,
    /// The VM's process, once an event needed it.
    pub pid: Option<u32>,
    /// KVM's events have fired on it.
    pub kvm: bool,
    pub exit: Option<Exit>,
    /// Its latest exit on poison.
    pub poison_ns: Option<u64>,
    /// Poison exit that waits for its entry.
    pub open_exit_ns: Option<u64>,
    /// #MC deliveries whose handler has not been seen to finish.
    pub mc_open: bool,
    /// Since the delivery the vCPU has been in a kernel of the upper half.
    pub in_kernel: bool,
    /// RIP of its latest exit on poison.
    pub touched_rip: Option<u64>,
    /// The latest write to a port by which guests end or say that they do, and when.
    pub last_words: Option<(u64, u64)>,
    /// RIP of the latest MSR write since the delivery.
    pub msr_write_rip: Option<u64>,
    /// RIP of the MSR write by which a handler is known to have finished.
    pub finishing_rip: Option<u64>,
    /// Signals that wait for the `memory_failure_event` that names their page.
    pub signals: Vec<Signal>,
    /// The page of its latest `memory_failure()` for which no signal was seen, and when it failed.
    pub failed: Option<(u64, Failure)>,
    /// The thread has entered the guest, and no exit has been seen since.
    pub in_guest: bool,
    gup_begin: Option<u64>,
}

/// A SIGBUS for poison.
pub struct Signal {
    pub t: u64,
    pub required: bool,
    pub target: u32,
    pub comm: Vec<u8>,
}

/// What a `memory_failure_event` shows.
pub struct Failure {
    pub pfn: u64,
    pub page_type: String,
    pub result: String,
}

impl Failure {
    pub fn event(&self) -> EventKind {
        EventKind::FailureAction {
            pfn: Hex(self.pfn),
            page_type: self.page_type.clone(),
            result: self.result.clone(),
        }
    }
}

/// One VM exit.
pub struct Exit {
    pub t: u64,
    fields: Vec<u8>,
    pub fault: Option<Fault>,
    pub signal_ns: Option<u64>,
    pub user: Option<(u64, u32, i32)>,
    gup_ns: Option<u64>,
    gup_ret: Option<i64>,
    pub hva: Option<u64>,
    pub entry: bool,
}

pub struct Fault {
    pub t: u64,
    pub gpa: Option<u64>,
    error_code: Option<u64>,
    rip: Option<u64>,
}

const EHWPOISON: i64 = -133;
/// What KVM's lookup of a pfn returns for poison (include/linux/kvm_host.h), the same since 4.19.
const KVM_PFN_ERR_HWPOISON: i64 = 0x7ff0_0000_0000_0001;

impl Thread {
    pub fn exited(&mut self, t: u64, fields: &[u8]) {
        let mut kept = self.exit.take().map(|exit| exit.fields).unwrap_or_default();
        kept.clear();
        kept.extend_from_slice(&fields[..fields.len().min(MAX_FIELDS)]);
        self.exit = Some(Exit {
            t,
            fields: kept,
            fault: None,
            signal_ns: None,
            user: None,
            gup_ns: None,
            gup_ret: None,
            hva: None,
            entry: false,
        });
        self.gup_begin = None;
    }

    /// An exit that left only its signal in the trace.
    pub fn signalled(&mut self, t: u64) {
        self.exited(t, b"");
        if let Some(exit) = &mut self.exit {
            exit.signal_ns = Some(t);
        }
    }

    /// The oldest waiting signal that KVM sent to this thread, number `tid`, for an access of its guest.
    pub fn take_own_signal(&mut self, tid: u32) -> Option<u64> {
        let own = |signal: &Signal| signal.required && signal.target == tid;
        let n = self.signals.iter().position(own)?;
        Some(self.signals.remove(n).t)
    }

    pub fn faulted(&mut self, t: u64, fields: &[u8]) {
        // A trace may lack kvm_exit, or begin between the two.
        if self.exit.is_none() {
            self.exited(t, b"");
        }
        if let Some(exit) = &mut self.exit {
            exit.fault = Some(Fault {
                t,
                gpa: hex_of(fields, b"address").or_else(|| hex_of(fields, b"fault_address")),
                error_code: hex_of(fields, b"error_code"),
                rip: reason::rip(fields),
            });
        }
    }

    pub fn gup_began(&mut self, t: u64, hva: Option<u64>) {
        self.gup_begin = Some(t);
        if let (Some(exit), Some(hva)) = (&mut self.exit, hva) {
            exit.hva = Some(hva);
        }
    }

    /// Whether the vCPU, on which a #MC was open, has come back to user space: not to the instruction that met the error,
    /// from a kernel of the upper half.
    pub fn back_in_user_space(&mut self, rip: u64) -> bool {
        // Kernels of 32 bits live in the upper half of these; firmware and tiny guests in low memory.
        let user = (0x40_0000..0x8000_0000).contains(&rip) || (0x1_0000_0000..1 << 47).contains(&rip);
        self.in_kernel |= rip >> 63 == 1;
        user && self.in_kernel && self.touched_rip != Some(rip)
    }

    /// The return value of another function of the lookup, by a probe.
    pub fn lookup_ended(&mut self, ret: Option<i64>) {
        if let Some(exit) = &mut self.exit
            && ret == Some(KVM_PFN_ERR_HWPOISON)
        {
            exit.gup_ret.get_or_insert(EHWPOISON);
        }
    }

    /// Events were lost: what was under way may have ended since.
    pub fn gap(&mut self) {
        self.exit = None;
        self.open_exit_ns = None;
        self.in_guest = false;
        self.gup_begin = None;
        self.mc_open = false;
    }

    pub fn gup_ended(&mut self, t: u64, ret: Option<i64>) {
        let begin = self.gup_begin.take();
        let Some(exit) = &mut self.exit else { return };
        if let Some(begin) = begin {
            *exit.gup_ns.get_or_insert(0) += t.saturating_sub(begin);
        }
        exit.gup_ret = ret.or(exit.gup_ret);
    }
}

impl Exit {
    /// Poison: SIGBUS followed the fault, or gup returned -EHWPOISON.
    pub fn is_poison(&self) -> bool {
        self.signal_ns.is_some() || self.gup_ret == Some(EHWPOISON)
    }

    pub fn rip(&self) -> Option<u64> {
        reason::rip(&self.fields).or_else(|| self.fault.as_ref()?.rip)
    }

    /// Which extension: by the reason, else by what only one of them prints as the fault's error code.
    pub fn isa(&self) -> Isa {
        let (isa, _) = reason::read(&self.fields);
        match (isa, self.error_code()) {
            // Bits 32 and 33 are NPF's; bit 7, always set on an access by address, is reserved in NPF's.
            (Isa::Unknown, Some(code)) if code >> 32 & 3 != 0 => Isa::Svm,
            (Isa::Unknown, Some(code)) if code & 0x80 != 0 => Isa::Vmx,
            (isa, _) => isa,
        }
    }

    /// Whether it can have been on poison: what left the guest for another reason is answered by no SIGBUS of
    /// its own.
    pub fn may_be_fault(&self) -> bool {
        self.fault.is_some() || matches!(reason::read(&self.fields).1, Kind::Fault | Kind::Unknown)
    }

    /// GPA of the fault: from kvm_page_fault, else of SVM's EXITINFO2. With shadow paging the address is the
    /// guest's virtual one, and the exit an exception's.
    pub fn gpa(&self) -> Option<u64> {
        let (_, kind) = reason::read(&self.fields);
        if kind != Kind::Fault && kind != Kind::Unknown {
            return None;
        }
        if let Some(fault) = &self.fault {
            return fault.gpa;
        }
        if self.isa() != Isa::Svm {
            return None;
        }
        hex_of(&self.fields, b"info2").or_else(|| second_info(&self.fields))
    }

    fn error_code(&self) -> Option<u64> {
        /// Kernels before 6.1 print 32 bits of it in kvm_page_fault, and all of it in kvm_exit.
        const SHOWN: u64 = u32::MAX as u64;
        let of_fault = self.fault.as_ref().and_then(|fault| fault.error_code);
        let of_exit = reason::info1(&self.fields);
        // By the reason alone: isa() asks for this code.
        let is_svm = |exit: u64| match reason::read(&self.fields).0 {
            Isa::Svm => true,
            Isa::Unknown => exit >> 32 & 3 != 0,
            Isa::Vmx => false,
        };
        match (of_fault, of_exit) {
            (Some(fault), Some(exit)) if exit & SHOWN == fault && is_svm(exit) => Some(exit),
            (fault, exit) => fault.or(exit),
        }
    }

    fn access(&self) -> Access {
        // Exit qualification, or page-fault error code.
        self.error_code()
            .map_or(Access::Unknown, |code| access(self.isa(), code))
    }

    /// The port that the guest wrote to in this exit (I/O exit information of either vendor).
    pub fn out_port(&self) -> Option<u64> {
        let info = reason::info1(&self.fields)?;
        let input = match reason::read(&self.fields) {
            (Isa::Vmx, Kind::Port) => info & 8 != 0,
            (Isa::Svm, Kind::Port) => info & 1 != 0,
            _ => return None,
        };
        (!input).then_some((info >> 16) & 0xffff)
    }

    /// As the correlator takes it. `entry_ns` for an exit that never left the kernel; `insn` where the
    /// instruction at its RIP is known.
    pub fn poison(&self, entry_ns: Option<u64>, insn: Option<String>) -> PoisonExit {
        let isa = self.isa();
        PoisonExit {
            exit_ns: (!self.fields.is_empty()).then_some(self.t),
            fault_ns: self.fault.as_ref().map(|fault| fault.t),
            gup_ns: self.gup_ns,
            gup_ret: self.gup_ret,
            signal_ns: self.signal_ns,
            user_ns: self.user.map(|(t, _, _)| t),
            entry_ns,
            rip: self.rip().map(Hex),
            gpa: self.gpa().map(Hex),
            hva: None,
            access: self.access(),
            isa,
            reason: match isa {
                Isa::Vmx => 48,
                Isa::Svm => 0x400,
                Isa::Unknown => 0,
            },
            user_reason: self.user.map(|(_, reason, _)| reason),
            user_errno: self.user.map(|(_, _, errno)| errno),
            insn,
            recovered: false,
            other_address: None,
        }
    }
}

/// The second number of `info A B`, as kernels before 5.10 and trace-cmd print it.
fn second_info(fields: &[u8]) -> Option<u64> {
    let at = memchr::memmem::find(fields, b" info ")?;
    let mut numbers = fields[at + 6..].split(|b| *b == b' ');
    numbers.next()?;
    hex(numbers.next()?)
}

/// `reason NAME (N)` of kvm_userspace_exit: reason and errno of KVM_RUN.
pub fn userspace_exit(fields: &[u8]) -> (u32, i32) {
    const KVM_EXIT_INTR: u32 = 10;
    const KVM_EXIT_MEMORY_FAULT: u32 = 39;
    let number = memchr::memchr(b'(', fields)
        .and_then(|at| super::record::decimal(fields[at + 1..].split(|b| *b == b')').next()?))
        .and_then(|n| u32::try_from(n).ok());
    let name = value(fields, b"reason").unwrap_or_default();
    match (name, number) {
        (b"restart", Some(errno)) => (KVM_EXIT_INTR, -errno.cast_signed()),
        // Only memory faults return -EHWPOISON; the name of the reason is not printed with an error.
        (b"error", Some(133)) => (KVM_EXIT_MEMORY_FAULT, -133),
        (b"error", Some(errno)) => (0, -errno.cast_signed()),
        (_, Some(reason)) => (reason, 0),
        // Other printers: reason=8 errno=0.
        _ => (
            number_of(fields, b"reason").unwrap_or(0),
            super::fields::signed_of(fields, b"errno")
                .and_then(|e| i32::try_from(e).ok())
                .unwrap_or(0),
        ),
    }
}
