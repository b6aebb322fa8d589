//! Instructions that a trace shows: `kvm_emulate_insn: 0:ffffffff8106a01c:0f ae 3f (prot64)` gives the bytes at a
//! RIP. KVM emulates nothing on the way to poison, so the bytes come from another visit to the same place.

use std::{collections::BTreeMap, fmt::Write as _};

use super::fields::hex;

/// RIPs whose bytes are kept, all threads together.
const MAX_RIPS: usize = 4096;
/// Longest x86 instruction.
const MAX_BYTES: usize = 15;

/// Bytes by thread and RIP, as hex digits. Which threads are one VM's is not known yet when they are seen.
#[derive(Default)]
pub struct Instructions(BTreeMap<(u32, u64), String>);

impl Instructions {
    /// Takes the fields of a `kvm_emulate_insn` of the thread. Only 64-bit code is taken: an address of the
    /// other modes shows little without its segment.
    pub fn emulated(&mut self, tid: u32, fields: &[u8]) {
        let Some((rip, bytes)) = parse(fields) else {
            return;
        };
        if self.0.len() < MAX_RIPS {
            self.0.entry((tid, rip)).or_insert(bytes);
        }
    }

    pub fn at(&self, tid: u32, rip: u64) -> Option<&String> {
        self.0.get(&(tid, rip))
    }
}

/// `CSBASE:RIP:BYTES (MODE)` (arch/x86/kvm/trace.h); trace-cmd's plugin prints the bytes unseparated.
fn parse(fields: &[u8]) -> Option<(u64, String)> {
    let mut parts = fields.splitn(3, |b| *b == b':');
    let base = hex(parts.next()?.trim_ascii())?;
    let rip = hex(parts.next()?.trim_ascii())?;
    let rest = parts.next()?;
    let open = memchr::memchr(b'(', rest)?;
    if base != 0 || !rest[open..].starts_with(b"(prot64") {
        return None;
    }
    let digits = rest[..open].iter().filter(|b| **b != b' ');
    let mut bytes = String::with_capacity(2 * MAX_BYTES);
    for digit in digits.take(2 * MAX_BYTES) {
        if !digit.is_ascii_hexdigit() {
            return None;
        }
        let _ = write!(bytes, "{}", char::from(*digit));
    }
    (!bytes.is_empty() && bytes.len().is_multiple_of(2)).then_some((rip, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_64_bit_code_are_taken_and_no_others() {
        assert_eq!(
            parse(b"0:ffffffff8106a01c:0f ae 3f (prot64)"),
            Some((0xffff_ffff_8106_a01c, "0fae3f".to_owned()))
        );
        assert_eq!(
            parse(b"0:10011:660fae3f (prot64) failed"),
            Some((0x10011, "660fae3f".to_owned()))
        );
        for other in [
            "f0000:fff0:ea 5b e0 00 f0 (real)",
            "0:10011: (prot64)",
            "0:10011:zz (prot64)",
            "0:1",
            "",
        ] {
            assert_eq!(parse(other.as_bytes()), None, "{other}");
        }
    }
}
