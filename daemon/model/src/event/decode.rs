//! Ring-buffer records to events. The records are ours, but they are read as if they were not: a length
//! that is not the kind's, or a kind that is not known, is an error and not a guess.

mod machine_checks;

use alloc::collections::BTreeMap;
use alloc::{format, string::String};

use poisontrace_probes::{
    NO_VCPU,
    page_totals::{self, FaultAccess},
    record::{self, Header, address, in_kvm_run, kind},
};
use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::{Access, Event, EventKind, Isa, OtherAddress, PoisonExit, SigbusSeverity};
use crate::{hex::Hex, text};
use machine_checks::{bank, host_mce, set_msrs};

/// A record that cannot be decoded.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DecodeError {
    /// Fewer bytes than a header has.
    #[error("a record of {0} bytes is shorter than a record's header")]
    Short(usize),
    /// A body of another length than its kind has.
    #[error("a record of kind {kind} has {len} bytes, expected {expected}")]
    Length {
        /// Its kind.
        kind: u32,
        /// Its bytes.
        len: usize,
        /// Bytes of that kind.
        expected: usize,
    },
    /// A kind that this version does not know.
    #[error("a record of kind {0}, which this version does not know")]
    Kind(u32),
    /// A `si_code` that no SIGBUS for poison has.
    #[error("SIGBUS with si_code {0}, expected 4 (AR) or 5 (AO)")]
    SigCode(u32),
}

/// The running kernel's words for the numbers in its events.
#[derive(Clone, Debug, Default)]
pub struct Decoder {
    /// `enum mf_action_page_type`, from `print fmt` of memory_failure_event.
    pub page_types: BTreeMap<i64, String>,
    /// The same of `enum mf_result`.
    pub results: BTreeMap<i64, String>,
}

const ISA_VMX: u32 = 1;
const ISA_SVM: u32 = 2;

impl Decoder {
    /// Decodes one record.
    ///
    /// # Errors
    /// A record that is torn, of an unknown kind or with an impossible value.
    pub fn decode(&self, bytes: &[u8]) -> Result<Event, DecodeError> {
        let (header, _) = Header::read_from_prefix(bytes).map_err(|_| DecodeError::Short(bytes.len()))?;
        let what = self.what(header.kind, bytes)?;
        Ok(Event {
            t: header.t_ns,
            tid: header.tid,
            pid: header.pid,
            vcpu: (header.vcpu != NO_VCPU).then_some(header.vcpu),
            what,
        })
    }

    /// What an exit's record shows besides, in place of records of their own: the signal that answered it, and the way back into the
    /// guest of the thread's exit before it.
    ///
    /// # Errors
    /// As [`Self::decode`].
    pub fn besides(&self, event: &Event, bytes: &[u8]) -> Result<[Option<Event>; 2], DecodeError> {
        if !matches!(event.what, EventKind::PoisonExit(_)) {
            return Ok([None, None]);
        }
        let exit: record::PoisonExit = body(kind::POISON_EXIT, bytes)?;
        let at = |t, what| Event {
            t,
            tid: event.tid,
            pid: event.pid,
            vcpu: event.vcpu,
            what,
        };
        let signal = || EventKind::Sigbus {
            hva: Hex(exit.hva),
            severity: SigbusSeverity::ActionRequired,
            lsb: exit.signal_lsb,
            target_tid: event.tid,
            target_pid: event.pid,
            forced: false,
            // As in the signals before it.
            comm: String::new(),
        };
        let reentry = || EventKind::Reentry {
            exit_ns: exit.before_exit_ns,
            entry_ns: exit.before_entry_ns,
        };
        Ok([
            (exit.before_exit_ns != 0).then(|| at(exit.before_entry_ns, reentry())),
            (exit.signal_lsb != 0).then(|| at(exit.signal_ns, signal())),
        ])
    }

    fn what(&self, kind: u32, bytes: &[u8]) -> Result<EventKind, DecodeError> {
        Ok(match kind {
            kind::FAILURE_BEGIN => {
                let r: record::FailureBegin = body(kind, bytes)?;
                EventKind::FailureBegin {
                    pfn: Hex(r.pfn),
                    flags: r.flags,
                    in_kvm_run: match r.in_kvm_run {
                        in_kvm_run::NO => Some(false),
                        in_kvm_run::YES => Some(true),
                        _ => None,
                    },
                }
            }
            kind::FAILURE_ACTION => {
                let r: record::FailureAction = body(kind, bytes)?;
                EventKind::FailureAction {
                    pfn: Hex(r.pfn),
                    page_type: word(&self.page_types, r.page_type, "page type"),
                    result: word(&self.results, r.result, "result"),
                }
            }
            kind::FAILURE_END => EventKind::FailureEnd {
                ret: body::<record::FailureEnd>(kind, bytes)?.ret,
            },
            kind::SIGBUS => sigbus(&body(kind, bytes)?)?,
            kind::SIGBUS_NO_ADDRESS => sigbus_seen(&body(kind, bytes)?)?,
            kind::POISON_EXIT => EventKind::PoisonExit(poison_exit(&body(kind, bytes)?)),
            kind::REENTRY => {
                let r: record::Reentry = body(kind, bytes)?;
                EventKind::Reentry {
                    exit_ns: r.exit_ns,
                    entry_ns: r.entry_ns,
                }
            }
            kind::SET_MSRS => set_msrs(bytes)?,
            kind::SET_MCE => {
                let r: record::SetMce = body(kind, bytes)?;
                EventKind::SetMce {
                    mcg_status: Hex(r.mcg_status),
                    bank: bank(&r.bank),
                }
            }
            kind::QUEUE_EXCEPTION => {
                let r: record::QueueException = body(kind, bytes)?;
                EventKind::QueueException {
                    pending: r.pending != 0,
                    injected: r.injected != 0,
                }
            }
            kind::DELIVERED => match body::<record::Delivered>(kind, bytes)?.rip {
                0 => EventKind::Delivered,
                rip => EventKind::DeliveredAt { rip: Hex(rip) },
            },
            kind::MC_EXIT => EventKind::McExit {
                rip: Some(body::<record::McExit>(kind, bytes)?.rip)
                    .filter(|rip| *rip != 0)
                    .map(Hex),
            },
            kind::HOST_MCE => EventKind::HostMce(host_mce(&body(kind, bytes)?)),
            kind::EDAC_EVENT => {
                let r: record::EdacEvent = body(kind, bytes)?;
                EventKind::EdacError {
                    addr: Hex(r.address),
                    label: text::from_c(&r.label),
                }
            }
            kind::FIRMWARE_ERROR => EventKind::FirmwareError {
                addr: Hex(body::<record::FirmwareError>(kind, bytes)?.address),
            },
            kind::MCG_STATUS => {
                let r: record::McgStatus = body(kind, bytes)?;
                EventKind::McgStatus {
                    write: r.write != 0,
                    data: Hex(r.data),
                    mc_on: (r.mc_on != 0).then_some(r.mc_on),
                }
            }
            kind::USERSPACE_EXIT => {
                let r: record::UserspaceExit = body(kind, bytes)?;
                EventKind::UserspaceExit {
                    reason: r.reason,
                    errno: r.errno,
                    gpa: (r.located != 0).then_some(Hex(r.gpa)),
                }
            }
            kind::PIO => {
                let r: record::Pio = body(kind, bytes)?;
                EventKind::Pio {
                    port: Hex(u64::from(r.port)),
                    size: r.size,
                    value: Hex(r.value),
                }
            }
            kind::VCPU_RESET => EventKind::VcpuReset {
                rip: Hex(body::<record::VcpuReset>(kind, bytes)?.rip),
            },
            kind::TRIPLE_FAULT => {
                let r: record::TripleFault = body(kind, bytes)?;
                EventKind::TripleFault {
                    rip: Hex(r.rip),
                    reason: r.exit_reason,
                }
            }
            kind::TASK_EXIT => {
                let r: record::TaskExit = body(kind, bytes)?;
                EventKind::TaskExit {
                    exit_code: r.exit_code,
                    live: (r.live >= 0).then_some(r.live),
                    comm: text::from_c(&r.comm),
                }
            }
            kind::VM_DESTROYED => {
                body::<record::VmDestroyed>(kind, bytes)?;
                EventKind::VmDestroyed
            }
            kind::SREGS => {
                let r: record::Sregs = body(kind, bytes)?;
                EventKind::Sregs(super::Sregs {
                    cr0: Hex(r.cr0),
                    cr3: Hex(r.cr3),
                    cr4: Hex(r.cr4),
                    efer: Hex(r.efer),
                    long_code: r.cs_l != 0,
                })
            }
            kind::MEM_SLOT => {
                let r: record::MemSlot = body(kind, bytes)?;
                EventKind::MemSlot {
                    n: r.n,
                    gpa: Hex(r.gpa),
                    bytes: r.bytes,
                    hva: Hex(r.hva),
                }
            }
            other => return Err(DecodeError::Kind(other)),
        })
    }
}

/// The record as a `T`, if it has exactly that size.
fn body<T: FromBytes + KnownLayout + Immutable>(kind: u32, bytes: &[u8]) -> Result<T, DecodeError> {
    T::read_from_bytes(bytes).map_err(|_| DecodeError::Length {
        kind,
        len: bytes.len(),
        expected: size_of::<T>(),
    })
}

fn word(words: &BTreeMap<i64, String>, number: i32, what: &str) -> String {
    match words.get(&i64::from(number)) {
        Some(word) => word.clone(),
        None => format!("{what} {number}"),
    }
}

fn severity(code: u32) -> Result<SigbusSeverity, DecodeError> {
    match code {
        4 => Ok(SigbusSeverity::ActionRequired),
        5 => Ok(SigbusSeverity::ActionOptional),
        other => Err(DecodeError::SigCode(other)),
    }
}

fn sigbus_seen(r: &record::SigbusNoAddress) -> Result<EventKind, DecodeError> {
    Ok(EventKind::SigbusNoAddress {
        severity: severity(r.code)?,
        target_tid: r.target_tid,
        target_pid: r.target_pid,
        comm: text::from_c(&r.comm),
        gpa: (r.located != 0).then_some(Hex(r.gpa)),
        pfn: None,
    })
}

fn sigbus(r: &record::Sigbus) -> Result<EventKind, DecodeError> {
    Ok(EventKind::Sigbus {
        hva: Hex(r.hva),
        severity: severity(r.code)?,
        lsb: r.lsb,
        target_tid: r.target_tid,
        target_pid: r.target_pid,
        forced: r.forced != 0,
        comm: text::from_c(&r.comm),
    })
}

fn poison_exit(r: &record::PoisonExit) -> PoisonExit {
    let seen = |ns: u64| (ns != 0).then_some(ns);
    let isa = match r.isa {
        ISA_VMX => Isa::Vmx,
        ISA_SVM => Isa::Svm,
        _ => Isa::Unknown,
    };
    PoisonExit {
        exit_ns: seen(r.exit_ns),
        fault_ns: seen(r.fault_ns),
        gup_ns: (r.gup_calls != 0).then_some(r.gup_ns),
        gup_ret: (r.gup_calls != 0).then_some(r.gup_ret),
        signal_ns: seen(r.signal_ns),
        user_ns: seen(r.user_ns),
        entry_ns: seen(r.entry_ns),
        // RIP 0 is what KVM reports for a guest whose state is protected.
        rip: (r.rip != 0).then_some(Hex(r.rip)),
        gpa: (r.address == address::GPA).then_some(Hex(r.gpa)),
        other_address: match r.address {
            address::VIRTUAL => Some(OtherAddress::Virtual(Hex(r.gpa))),
            address::NESTED => Some(OtherAddress::Nested(Hex(r.gpa))),
            _ => None,
        },
        // No user mapping begins at 0: a signal that was seen without its address.
        hva: (r.signal_ns != 0 && r.hva != 0).then_some(Hex(r.hva)),
        access: match r.address {
            _ if r.fault_ns == 0 => Access::Unknown,
            address::VIRTUAL => access_by_page_fault(r.fault_code),
            _ => access(isa, r.fault_code),
        },
        isa,
        reason: r.exit_reason,
        user_reason: (r.user_ns != 0).then_some(r.user_reason),
        user_errno: (r.user_ns != 0).then_some(r.user_errno),
        insn: instruction(r),
        recovered: r.recovered != 0,
    }
}

fn instruction(r: &record::PoisonExit) -> Option<String> {
    let bytes = r
        .insn
        .get(..r.insn_len as usize)
        .filter(|bytes| !bytes.is_empty())?;
    Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Kind of access from `kvm_page_fault.error_code`: on VMX the raw exit qualification, on SVM the NPF error code.
pub fn access(isa: Isa, code: u64) -> Access {
    let access = match isa {
        Isa::Vmx => page_totals::vmx_access(code),
        Isa::Svm => page_totals::svm_access(code),
        Isa::Unknown => return Access::Unknown,
    };
    match access {
        // Bit 0 is clear where the qualification is not one of an EPT violation.
        FaultAccess::Read if isa == Isa::Vmx && code & 1 == 0 => Access::Unknown,
        FaultAccess::Read => Access::Read,
        FaultAccess::Write => Access::Write,
        FaultAccess::Fetch => Access::Fetch,
        FaultAccess::PageWalk => Access::PageWalk,
        FaultAccess::WriteOrPageWalk => Access::WriteOrPageWalk,
    }
}

/// Kind of access from the error code of #PF, which KVM gives under shadow paging (bit 1 write, bit 4 fetch; Intel SDM
/// volume 3, "Page-Fault Exceptions"). KVM walks the guest's page tables itself then.
fn access_by_page_fault(code: u64) -> Access {
    match (code & 0x10 != 0, code & 2 != 0) {
        (true, _) => Access::Fetch,
        (false, true) => Access::Write,
        (false, false) => Access::Read,
    }
}

#[cfg(test)]
mod tests {
    use poisontrace_probes::record::Record;
    use zerocopy::IntoBytes;

    use super::*;

    pub(super) fn header(kind: u32) -> Header {
        Header {
            kind,
            vcpu: NO_VCPU,
            t_ns: 7,
            tid: 11,
            pid: 10,
        }
    }

    #[test]
    fn page_types_are_in_the_running_kernels_own_words() {
        let mut decoder = Decoder::default();
        decoder.page_types.insert(11, "dirty LRU page".into());
        decoder.results.insert(3, "Recovered".into());
        let record = record::FailureAction {
            h: header(record::FailureAction::KIND),
            pfn: 0xf7eb,
            page_type: 11,
            result: 3,
        };
        let event = decoder.decode(record.as_bytes()).unwrap();
        assert_eq!(event.vcpu, None);
        assert_eq!(
            event.what,
            EventKind::FailureAction {
                pfn: Hex(0xf7eb),
                page_type: "dirty LRU page".into(),
                result: "Recovered".into()
            }
        );
        let unknown = Decoder::default().decode(record.as_bytes()).unwrap();
        assert!(
            matches!(unknown.what, EventKind::FailureAction { page_type, .. } if page_type.contains("page type 11"))
        );
    }

    #[test]
    fn torn_and_foreign_records_are_refused() {
        let decoder = Decoder::default();
        let record = record::VmDestroyed {
            h: header(record::VmDestroyed::KIND),
        };
        assert_eq!(
            decoder.decode(&record.as_bytes()[..20]),
            Err(DecodeError::Short(20))
        );
        let wrong = record::VmDestroyed {
            h: header(kind::SIGBUS),
        };
        assert_eq!(
            decoder.decode(wrong.as_bytes()),
            Err(DecodeError::Length {
                kind: kind::SIGBUS,
                len: 24,
                expected: 72
            })
        );
        let unknown = record::VmDestroyed { h: header(999) };
        assert_eq!(decoder.decode(unknown.as_bytes()), Err(DecodeError::Kind(999)));
    }

    #[test]
    fn access_bits_differ_between_vmx_and_svm() {
        assert_eq!(access(Isa::Vmx, 0x581), Access::Read);
        assert_eq!(access(Isa::Vmx, 0x582), Access::Write);
        assert_eq!(access(Isa::Vmx, 0x584), Access::Fetch);
        assert_eq!(access(Isa::Svm, 0x1_0000_0004), Access::Read);
        assert_eq!(access(Isa::Svm, 0x1_0000_0006), Access::Write);
        assert_eq!(access(Isa::Svm, 0x1_0000_0014), Access::Fetch);
        // KVM's handler of EPT violations (vmx.c): bit 7 without bit 8 is a paging structure, read or written.
        assert_eq!(access(Isa::Vmx, 0x081), Access::PageWalk);
        assert_eq!(access(Isa::Vmx, 0x083), Access::PageWalk);
        assert_eq!(access(Isa::Svm, 0x2_0000_0006), Access::PageWalk);
        // 5.10 to 6.0 hand out 32 bits.
        assert_eq!(access(Isa::Svm, 0x6), Access::WriteOrPageWalk);
        assert_eq!(access(Isa::Svm, 0x4), Access::Read);
        assert_eq!(access(Isa::Vmx, 0), Access::Unknown);
        assert_eq!(access(Isa::Unknown, 0), Access::Unknown);
    }

    /// From a page's third exit on.
    #[test]
    fn an_exits_record_has_its_signal_and_the_way_back_before_it() {
        let exit = |signal_lsb, before_exit_ns| {
            let mut bytes = vec![0; size_of::<record::PoisonExit>()];
            let (exit, _) = record::PoisonExit::mut_from_prefix(&mut bytes).unwrap();
            exit.h = header(record::PoisonExit::KIND);
            exit.hva = 0x7000;
            exit.signal_ns = 40;
            exit.signal_lsb = signal_lsb;
            (exit.before_exit_ns, exit.before_entry_ns) = (before_exit_ns, 30);
            bytes
        };
        let besides = |bytes: &[u8]| {
            let event = Decoder::default().decode(bytes).unwrap();
            let all = Decoder::default().besides(&event, bytes).unwrap();
            all.map(|event| event.map(|event| (event.t, event.what)))
        };
        let signal = EventKind::Sigbus {
            hva: Hex(0x7000),
            severity: SigbusSeverity::ActionRequired,
            lsb: 12,
            target_tid: header(0).tid,
            target_pid: header(0).pid,
            forced: false,
            comm: String::new(),
        };
        let reentry = EventKind::Reentry {
            exit_ns: 20,
            entry_ns: 30,
        };
        assert_eq!(besides(&exit(12, 20)), [Some((30, reentry)), Some((40, signal))]);
        assert_eq!(besides(&exit(0, 0)), [None, None]);
    }

    #[test]
    fn a_machine_check_enters_the_guest_at_its_rip_where_kvm_has_it() {
        let record = |rip| record::Delivered {
            h: header(record::Delivered::KIND),
            rip,
        };
        let decode = |rip| Decoder::default().decode(record(rip).as_bytes()).unwrap().what;
        assert_eq!(decode(0), EventKind::Delivered);
        let rip = 0xffff_ffff_8100_0000;
        assert_eq!(decode(rip), EventKind::DeliveredAt { rip: Hex(rip) });
    }
}
