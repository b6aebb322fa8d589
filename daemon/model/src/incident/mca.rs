//! Machine-check bank registers: Intel SDM volume 3, "Machine-Check Architecture" (IA32_MCi_STATUS), and
//! AMD APM volume 2, "Machine Check Architecture" (MCi_STATUS); `arch/x86/include/asm/mce.h`.

use crate::{event::McVendor, incident::terms::Severity};

/// The register is valid.
pub const VAL: u64 = 1 << 63;
/// An earlier error was still in the bank: OVER.
pub const OVER: u64 = 1 << 62;
/// Uncorrected.
pub const UC: u64 = 1 << 61;
/// Reporting was enabled.
pub const EN: u64 = 1 << 60;
/// MISC is valid.
pub const MISCV: u64 = 1 << 59;
/// ADDR is valid.
pub const ADDRV: u64 = 1 << 58;
/// Processor context corrupt.
pub const PCC: u64 = 1 << 57;
/// Intel: signalled by #MC.
pub const S: u64 = 1 << 56;
/// Intel: action required.
pub const AR: u64 = 1 << 55;
/// AMD: the error was deferred (no #MC).
pub const DEFERRED: u64 = 1 << 44;
/// AMD: poisoned data was consumed (with UC) or found (with DEFERRED).
pub const POISON: u64 = 1 << 43;
/// MCACOD of an internal timer error (SDM volume 3, simple error codes), whose ADDR is no memory's.
pub const INTERNAL_TIMER: u64 = 0x400;

/// MCG_STATUS: a machine check is in progress.
pub const MCIP: u64 = 1 << 2;

/// Whether a memory controller reports the error: compound code 000F 0000 1MMM CCCC (Intel SDM volume 3, "Compound Error
/// Codes").
pub const fn of_memory_controller(status: u64) -> bool {
    status & 0xef80 == 0x80
}

/// Whether what ran on the processor consumed the error, so that it came with a #MC: on Intel action is required (SRAR; UCNA and
/// SRAO, of scrubbing and explicit writebacks, are none), on AMD poison was used and the error not deferred.
pub fn consumed(vendor: McVendor, status: u64) -> bool {
    match vendor {
        McVendor::Intel => status & UC != 0 && status & (AR | PCC) != 0,
        McVendor::Amd => status & UC != 0 && status & DEFERRED == 0,
        McVendor::Other => status & UC != 0 && status & (AR | PCC | POISON) != 0 && status & DEFERRED == 0,
    }
}

/// Whether writing this STATUS comes with a #MC.
pub fn raises_mc(status: u64) -> bool {
    status & UC != 0
}

/// The kind of an injected machine check. A bank without an address is a copy for the other vCPUs (QEMU's broadcast writes
/// VAL and UC alone).
pub fn severity(status: u64) -> Severity {
    if status & ADDRV == 0 {
        return if status & UC != 0 {
            Severity::Broadcast
        } else {
            Severity::Other
        };
    }
    if status & (S | AR) != 0 {
        return if status & AR != 0 {
            Severity::Ar
        } else {
            Severity::Ao
        };
    }
    match (status & UC != 0, status & DEFERRED != 0, status & POISON != 0) {
        (true, _, true) => Severity::Ar,
        (false, true, _) => Severity::Ao,
        _ => Severity::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_consumed_where_action_is_required_or_poison_was_used() {
        let intel = VAL | UC | EN | MISCV | ADDRV | S;
        assert!(consumed(McVendor::Intel, intel | AR | 0x134));
        // SRAO: patrol scrub, writeback. UCNA: neither S nor AR. Bits 52 to 38 count corrected errors.
        assert!(!consumed(McVendor::Intel, intel | 0xc3));
        assert!(!consumed(McVendor::Intel, intel | 0x17a | POISON));
        assert!(!consumed(McVendor::Intel, VAL | UC | EN | MISCV | ADDRV | 0x9f));
        // Bit 56 is ErrCoreIdVal on AMD.
        assert!(consumed(McVendor::Amd, VAL | UC | EN | ADDRV | POISON | S));
        assert!(!consumed(McVendor::Amd, VAL | EN | ADDRV | DEFERRED | POISON | S));
    }

    #[test]
    fn qemu_injects_into_an_amd_and_an_intel_guest() {
        // The bank of the demo's guest at its panic (AMD, QEMU 7.2 with Debian's patches).
        assert_eq!(severity(0xfc00_0800_0000_0000), Severity::Ar);
        // AMD AO: deferred, without #MC.
        let deferred = VAL | EN | MISCV | ADDRV | DEFERRED | POISON;
        assert_eq!(severity(deferred), Severity::Ao);
        assert!(!raises_mc(deferred));
        // Intel AR and AO.
        assert_eq!(
            severity(VAL | UC | EN | MISCV | ADDRV | S | AR | 0x134),
            Severity::Ar
        );
        assert_eq!(severity(VAL | UC | EN | MISCV | ADDRV | S | 0xc0), Severity::Ao);
        assert_eq!(severity(VAL | UC), Severity::Broadcast);
    }
}
