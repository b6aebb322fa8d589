//! Why the guest was left, as `kvm_exit` prints it: a name of either vendor's table
//! (`kvm_print_exit_reason`, arch/x86/kvm/trace.h), `UNKNOWN (48)` (trace-cmd's plugin), or a bare number, which
//! shows nothing unless `isa` stands beside it.

use super::fields::{hex_of, number_of, value};
use poisontrace_model::event::Isa;

/// What the reason means here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// EPT violation or misconfiguration, nested page fault: the address beside it is a GPA.
    Fault,
    TripleFault,
    /// An access to an MSR; a write, as far as is known.
    Msr,
    Port,
    Other,
    /// The event is missing, or its reason shows nothing.
    Unknown,
}

/// Reads the fields of a `kvm_exit`.
pub fn read(fields: &[u8]) -> (Isa, Kind) {
    let Some(word) = value(fields, b"reason").or_else(|| value(fields, b"exit_reason")) else {
        return (Isa::Unknown, Kind::Unknown);
    };
    // EXIT_REASON_* of uapi/asm/vmx.h and SVM_EXIT_* of uapi/asm/svm.h.
    match word {
        b"EPT_VIOLATION" | b"EPT_MISCONFIG" => return (Isa::Vmx, Kind::Fault),
        b"npf" => return (Isa::Svm, Kind::Fault),
        b"TRIPLE_FAULT" => return (Isa::Vmx, Kind::TripleFault),
        b"shutdown" => return (Isa::Svm, Kind::TripleFault),
        b"MSR_WRITE" => return (Isa::Vmx, Kind::Msr),
        b"msr" => {
            let read = info1(fields) == Some(0);
            return (Isa::Svm, if read { Kind::Other } else { Kind::Msr });
        }
        b"IO_INSTRUCTION" => return (Isa::Vmx, Kind::Port),
        b"io" => return (Isa::Svm, Kind::Port),
        b"UNKNOWN" => return (Isa::Unknown, Kind::Unknown),
        _ => {}
    }
    let number = match word.first() {
        Some(b'0'..=b'9') => number_of(fields, b"reason").or_else(|| number_of(fields, b"exit_reason")),
        _ => None,
    };
    if let Some(number) = number {
        return match number_of(fields, b"isa") {
            Some(1) => (Isa::Vmx, vmx(number & 0xffff)),
            Some(2) => (Isa::Svm, svm(number)),
            _ => (Isa::Unknown, Kind::Unknown),
        };
    }
    // SVM names its exceptions "PF excp"; its other names are in lower case.
    let exception = memchr::memmem::find(fields, b" excp ").is_some();
    let isa = match word.iter().any(u8::is_ascii_uppercase) {
        true if !exception => Isa::Vmx,
        _ => Isa::Svm,
    };
    (isa, Kind::Other)
}

pub fn rip(fields: &[u8]) -> Option<u64> {
    hex_of(fields, b"rip").or_else(|| hex_of(fields, b"guest_rip"))
}

/// Exit qualification, or EXITINFO1.
pub fn info1(fields: &[u8]) -> Option<u64> {
    hex_of(fields, b"info1").or_else(|| hex_of(fields, b"info"))
}

fn vmx(reason: u32) -> Kind {
    match reason {
        2 => Kind::TripleFault,
        30 => Kind::Port,
        32 => Kind::Msr,
        48 | 49 => Kind::Fault,
        _ => Kind::Other,
    }
}

fn svm(reason: u32) -> Kind {
    match reason {
        0x7b => Kind::Port,
        0x7c => Kind::Msr,
        0x7f => Kind::TripleFault,
        0x400 => Kind::Fault,
        _ => Kind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_reason_in_the_words_of_many_tools() {
        for (fields, expected) in [
            ("reason EPT_VIOLATION rip 0x1 info 581 0", (Isa::Vmx, Kind::Fault)),
            ("vcpu 0 reason npf rip 0x1 info1 0x4", (Isa::Svm, Kind::Fault)),
            (
                "exit_reason=48 guest_rip=0x1 isa=1 info1=1409",
                (Isa::Vmx, Kind::Fault),
            ),
            ("exit_reason=0x400 (1024) isa=0x2 (2)", (Isa::Svm, Kind::Fault)),
            ("reason UNKNOWN (48) rip 0x1", (Isa::Unknown, Kind::Unknown)),
            ("reason 0x4a rip 0x1", (Isa::Unknown, Kind::Unknown)),
            (
                "vcpu 0 reason TRIPLE_FAULT rip 0x1",
                (Isa::Vmx, Kind::TripleFault),
            ),
            ("reason shutdown rip 0x1", (Isa::Svm, Kind::TripleFault)),
            ("reason PF excp rip 0x1 info1 0x2", (Isa::Svm, Kind::Other)),
            ("reason EXCEPTION_NMI rip 0x1", (Isa::Vmx, Kind::Other)),
            ("reason vmmcall rip 0x1", (Isa::Svm, Kind::Other)),
            (
                "reason msr rip 0x1 info1 0x0000000000000000",
                (Isa::Svm, Kind::Other),
            ),
            (
                "reason msr rip 0x1 info1 0x0000000000000001",
                (Isa::Svm, Kind::Msr),
            ),
            ("", (Isa::Unknown, Kind::Unknown)),
        ] {
            assert_eq!(read(fields.as_bytes()), expected, "{fields}");
        }
    }
}
