//! Machine-check bank registers: Intel SDM volume 3, "Machine-Check Architecture" (IA32_MCi_STATUS), and
//! AMD APM volume 2, "Machine Check Architecture" (MCi_STATUS); `arch/x86/include/asm/mce.h`.

use crate::incident::terms::Severity;

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

/// MCG_STATUS: a machine check is in progress.
pub const MCIP: u64 = 1 << 2;

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
