//! What libvirt quotes of a VMM whose monitor has closed (qemuProcessReportLogError(), src/qemu/qemu_process.c), and whose log a
//! file is.

/// A VMM's last words.
#[derive(Debug, PartialEq, Eq)]
pub struct Quote<'a> {
    pub domain: Option<&'a [u8]>,
    pub words: &'a [u8],
}

/// `internal error: QEMU unexpectedly closed the monitor (vm='db-7'): 2026-… qemu-kvm: …`, in libvirt's log behind the place in
/// its source, in virsh's output behind `error: `.
pub fn quoted(message: &[u8]) -> Option<Quote<'_>> {
    const STEM: &[u8] = b"internal error: ";
    const CAUSES: [&[u8]; 4] = [
        b"qemu unexpectedly closed the monitor",
        b"QEMU unexpectedly closed the monitor",
        b"process exited while connecting to monitor",
        b"early end of file from monitor, possible problem",
    ];
    if !(message.starts_with(b"internal ") || message.starts_with(b"error")) {
        return None;
    }
    let at = memchr::memmem::find(message, STEM)?;
    let before = &message[..at];
    let begins = before.is_empty() || before.ends_with(b" : ") || before.ends_with(b"error: ");
    let rest = &message[at + STEM.len()..];
    let rest = CAUSES
        .iter()
        .find_map(|cause| rest.strip_prefix(*cause))
        .filter(|_| begins)?;
    let (domain, rest) = match rest.strip_prefix(b" (vm='") {
        Some(inner) => {
            let end = memchr::memmem::find(inner, b"')")?;
            (Some(&inner[..end]), &inner[end + 2..])
        }
        None => (None, rest),
    };
    let words = rest.strip_prefix(b": ")?;
    Some(Quote { domain, words })
}

/// The domain whose log has this path: `/var/log/libvirt/qemu/db-7.log`, rotated or not.
pub fn domain_of_log(path: &str) -> Option<&str> {
    let (_, name) = path.split_once("libvirt/qemu/")?;
    let (domain, end) = name.rsplit_once(".log")?;
    let rotated = end.is_empty() || end.starts_with('.') && end[1..].bytes().all(|b| b.is_ascii_digit());
    (rotated && !domain.is_empty() && !domain.contains('/')).then_some(domain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_and_their_domain() {
        let words = &b"2026-11-22T15:45:34.000000Z qemu-kvm: x"[..];
        for (before, domain) in [
            ("internal error: qemu unexpectedly closed the monitor: ", None),
            (
                "internal error: QEMU unexpectedly closed the monitor (vm='db-7'): ",
                Some(&b"db-7"[..]),
            ),
            (
                "error : qemuProcessReportLogError:1932 : internal error: qemu unexpectedly closed the monitor: ",
                None,
            ),
            (
                "error: internal error: process exited while connecting to monitor: ",
                None,
            ),
        ] {
            let line = [before.as_bytes(), words].concat();
            assert_eq!(quoted(&line), Some(Quote { domain, words }), "{before}");
        }
        for line in [
            "internal error: End of file from qemu monitor",
            "we saw internal error: qemu unexpectedly closed the monitor: x",
            "internal error: QEMU unexpectedly closed the monitor (vm='db-7",
        ] {
            assert_eq!(quoted(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn a_log_is_that_of_its_domain() {
        for path in ["/var/log/libvirt/qemu/db-7.log", "node1/libvirt/qemu/db-7.log.1"] {
            assert_eq!(domain_of_log(path), Some("db-7"));
        }
        for path in [
            "/var/log/libvirt/libvirtd.log",
            "/var/log/libvirt/qemu/.log",
            "db-7.log",
            "",
        ] {
            assert_eq!(domain_of_log(path), None, "{path}");
        }
    }
}
