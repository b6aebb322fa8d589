//! The words of VMMs and of libvirt in a domain's log.

use crate::trace::hex;
use poisontrace_model::{
    event::{SigbusSeverity, log_statement::LogStatement},
    hex::Hex,
    text::sanitise,
};

/// Reads a line; the position is that of the words.
pub fn read(line: &[u8]) -> Option<(usize, LogStatement)> {
    memory_error(line)
        .or_else(|| own_memory(line))
        .or_else(|| reset(line))
        .or_else(|| run_failed(line))
        .or_else(|| libvirt(line))
        .or_else(|| firecracker(line))
}

/// QEMU since 4.2: "Guest MCE Memory Error at QEMU addr 0x… and GUEST addr 0x… of type BUS_MCEERR_AR
/// injected"; before, the same without types or in another order ("Guest Memory Error", "ram addr").
fn memory_error(line: &[u8]) -> Option<(usize, LogStatement)> {
    let at = find(line, b"Memory Error at ").or_else(|| find(line, b"Memory Error on "))?;
    let address = |keys: [&[u8]; 2]| {
        keys.iter().find_map(|key| {
            let begin = find(&line[at..], key)? + at + key.len();
            hex(number(line[begin..].trim_ascii_start())).map(Hex)
        })
    };
    let hva = address([b"QEMU addr ", b"host addr "]);
    let gpa = address([b"GUEST addr ", b"guest addr "]);
    (hva.is_some() || gpa.is_some()).then(|| {
        let severity = if find(line, b"BUS_MCEERR_AR").is_some() {
            Some(SigbusSeverity::ActionRequired)
        } else if find(line, b"BUS_MCEERR_AO").is_some() {
            Some(SigbusSeverity::ActionOptional)
        } else {
            None
        };
        (
            at,
            LogStatement::VmmTold {
                hva,
                gpa,
                severity,
                size: None,
            },
        )
    })
}

/// "Hardware memory error!" (up to 4.1), "QEMU got Hardware memory error at addr 0x…": it exits. "Hardware memory
/// error … for memory used by QEMU itself instead of guest system!": of type BUS_MCEERR_AO, which it ignores.
fn own_memory(line: &[u8]) -> Option<(usize, LogStatement)> {
    let at = find(line, b"ardware memory error")?;
    let fatal = find(&line[at..], b"QEMU itself").is_none() || find(&line[at..], b"BUS_MCEERR_AR").is_some();
    Some((at, LogStatement::VmmOwnMemory { fatal }))
}

/// "CPU 0: Previous MCE still in progress, raising triple fault", "CPU 0: MCE capability is not enabled, …"
/// (target/i386/helper.c, with `-d cpu_reset`; up to 4.2 the first stands for both).
fn reset(line: &[u8]) -> Option<(usize, LogStatement)> {
    let at = find(line, b"raising triple fault")?;
    let nested = find(&line[..at], b"Previous MCE still in progress").is_some();
    let disabled = find(&line[..at], b"MCE capability is not enabled").is_some();
    (nested || disabled).then_some((at, LogStatement::VmmReset { recursive: nested }))
}

/// "error: kvm run failed Memory page has hardware error": KVM_RUN said -EHWPOISON (accel/kvm/kvm-all.c), which
/// it does for guest_memfd.
fn run_failed(line: &[u8]) -> Option<(usize, LogStatement)> {
    let at = find(line, b"kvm run failed Memory page has hardware error")?;
    Some((at, LogStatement::RunFailed))
}

fn libvirt(line: &[u8]) -> Option<(usize, LogStatement)> {
    if let Some(at) = find(line, b": shutting down, reason=") {
        let reason = String::from_utf8_lossy(&line[at + 24..]);
        let reason = sanitise(reason.trim(), 32);
        return Some((at, LogStatement::VmShutdown { reason }));
    }
    // Before libvirt 3.x no reason was told.
    if line.ends_with(b": shutting down") && line.first().is_some_and(u8::is_ascii_digit) {
        let reason = "not told".to_owned();
        return Some((line.len(), LogStatement::VmShutdown { reason }));
    }
    let name = find(line, b"-name ").map(|at| &line[at + 6..]);
    let uuid = find(line, b"-uuid ").and_then(|at| value(&line[at + 6..], b""));
    if name.is_none() && uuid.is_none() {
        return None;
    }
    let name = name.and_then(|rest| value(rest, b"guest=").or_else(|| value(rest, b"")));
    let vmm = find(line, b"qemu-").map(|at| {
        let end = line[at..]
            .iter()
            .position(|b| b.is_ascii_whitespace())
            .map_or(line.len(), |end| at + end);
        sanitise(&String::from_utf8_lossy(&line[at..end]), 64)
    });
    Some((
        0,
        LogStatement::VmName {
            name,
            uuid,
            vmm,
            pid: None,
        },
    ))
}

/// A value of a command line, up to a comma, a blank or the end.
fn value(rest: &[u8], key: &[u8]) -> Option<String> {
    let rest = rest.strip_prefix(b"'").unwrap_or(rest).strip_prefix(key)?;
    let end = rest
        .iter()
        .position(|b| matches!(b, b',' | b'\'' | b'\\') || b.is_ascii_whitespace())
        .unwrap_or(rest.len());
    (end > 0).then(|| sanitise(&String::from_utf8_lossy(&rest[..end]), 128))
}

/// "Shutting down VM after intercepting signal 7, code 4."
fn firecracker(line: &[u8]) -> Option<(usize, LogStatement)> {
    let at = find(line, b"intercepting signal 7")?;
    let code = find(line, b"code ").and_then(|code| {
        let digits: String = line[code + 5..]
            .iter()
            .map(|b| char::from(*b))
            .take_while(char::is_ascii_digit)
            .collect();
        digits.parse().ok()
    });
    // BUS_ADRERR and the like is a shortage, not poison.
    matches!(code, None | Some(4 | 5)).then_some((at, LogStatement::VmmSigbus { code }))
}

fn find(line: &[u8], words: &[u8]) -> Option<usize> {
    memchr::memmem::find(line, words)
}

fn number(text: &[u8]) -> &[u8] {
    let end = text
        .iter()
        .position(|b| !(b.is_ascii_hexdigit() || *b == b'x' || *b == b'X'))
        .unwrap_or(text.len());
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qemu_of_several_ages_says_what_it_told_its_guest() {
        let told = |line: &str| read(line.as_bytes()).map(|(_, said)| said);
        let expected = |severity| {
            Some(LogStatement::VmmTold {
                hva: Some(Hex(0x7fcc_ea9e_b000)),
                gpa: Some(Hex(0x2be_b000)),
                severity,
                size: None,
            })
        };
        assert_eq!(
            told(
                "qemu-system-x86_64: Guest MCE Memory Error at QEMU addr 0x7fccea9eb000 and GUEST addr 0x2beb000 of type BUS_MCEERR_AR injected"
            ),
            expected(Some(SigbusSeverity::ActionRequired))
        );
        assert_eq!(
            told(
                "2026-11-22T15:45:34.1Z qemu-kvm: warning: Guest MCE Memory Error at QEMU addr 0x7fccea9eb000 and GUEST addr 0x2beb000 of type BUS_MCEERR_AO injected"
            ),
            expected(Some(SigbusSeverity::ActionOptional))
        );
        assert_eq!(
            told("Guest MCE Memory Error at GUEST addr 0x2beb000 and QEMU addr 0x7fccea9eb000 injected"),
            expected(None)
        );
        assert_eq!(
            told("QEMU got Hardware memory error"),
            Some(LogStatement::VmmOwnMemory { fatal: true })
        );
        assert_eq!(
            told("Hardware memory error for memory used by QEMU itself instead of guest system!"),
            Some(LogStatement::VmmOwnMemory { fatal: false })
        );
    }

    #[test]
    fn libvirt_names_the_domain_and_says_why_it_went() {
        let told = |line: &str| read(line.as_bytes()).map(|(_, said)| said);
        assert_eq!(
            told("-name guest=db-7,debug-threads=on \\"),
            Some(LogStatement::VmName {
                name: Some("db-7".to_owned()),
                uuid: None,
                vmm: None,
                pid: None
            })
        );
        assert_eq!(
            told("2026-11-22 15:45:34.123+0000: shutting down, reason=crashed"),
            Some(LogStatement::VmShutdown {
                reason: "crashed".to_owned()
            })
        );
        assert_eq!(
            told("Shutting down VM after intercepting signal 7, code 2."),
            None
        );
    }
}
