//! The words of `mm/memory-failure.c` and its neighbours, of about ten years of kernels. Host and guest use
//! the same ones; who speaks is decided over the whole file.

use crate::trace::record::decimal;

/// What a kernel said about a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    Signal {
        pfn: u64,
        comm: String,
        pid: u32,
    },
    Action {
        pfn: u64,
        page_type: String,
        result: String,
    },
    /// SIGKILL: the page could not be unmapped.
    Kill {
        pfn: u64,
        comm: String,
        pid: u32,
    },
    OwnAccess {
        comm: String,
        pid: u32,
        hva: u64,
    },
}

/// Reads a line; the position is that of the words.
pub fn read(line: &[u8]) -> Option<(usize, Line)> {
    if let Some(at) = memchr::memmem::find(line, b"memory_failure_event") {
        return Some((at, rasdaemon(&line[at..])?));
    }
    if let Some(at) = memchr::memmem::find(line, b"Memory failure: 0x") {
        return Some((at, about_page(&line[at + 18..])?));
    }
    // Up to 4.19 or so: "MCE 0x…: Killing …".
    let at = memchr::memmem::find(line, b"MCE")?;
    let rest = &line[at + 3..];
    if let Some(rest) = rest.strip_prefix(b" 0x") {
        return Some((at, about_page(rest)?));
    }
    let rest = rest.strip_prefix(b": Killing ")?;
    let (comm, pid, rest) = process(rest)?;
    let at_fault = memchr::memmem::find(rest, b"fault at ")?;
    let hva = super::super::trace::hex(word(&rest[at_fault + 9..]))?;
    Some((at, Line::OwnAccess { comm, pid, hva }))
}

/// `memory_failure_event: 2026-11-22 15:45:34 +0000 pfn=0xf7eb page_type=… action_result=… ` (rasdaemon's
/// ras-memory-failure-handler.c, since 0.6.6; its journal and its standard output).
fn rasdaemon(line: &[u8]) -> Option<Line> {
    memchr::memmem::find(line, b"page_type=")?;
    let (pfn, page_type, result) = super::super::trace::action(line)?;
    Some(Line::Action {
        pfn,
        page_type,
        result,
    })
}

fn about_page(rest: &[u8]) -> Option<Line> {
    let colon = memchr::memchr(b':', rest)?;
    let pfn = super::super::trace::hex(&rest[..colon])?;
    let rest = rest[colon + 1..].trim_ascii();
    for verb in [&b"Sending SIGBUS to "[..], b"Killing "] {
        if let Some(rest) = rest.strip_prefix(verb) {
            let (comm, pid, _) = process(rest)?;
            return Some(Line::Signal { pfn, comm, pid });
        }
    }
    if let Some(rest) = rest.strip_prefix(b"forcibly killing ") {
        let (comm, pid, _) = process(rest)?;
        return Some(Line::Kill { pfn, comm, pid });
    }
    let text = String::from_utf8_lossy(rest);
    let (page_type, result) = match text.strip_prefix("recovery action for ") {
        Some(rest) => rest.split_once(": ")?,
        None => text.split_once(" recovery: ")?,
    };
    let words = |text: &str| poisontrace_model::text::sanitise(text.trim(), 64);
    Some(Line::Action {
        pfn,
        page_type: words(page_type),
        result: words(result),
    })
}

/// `COMM:PID due to …`; the name may hold anything.
fn process(rest: &[u8]) -> Option<(String, u32, &[u8])> {
    let end = [&b" due to "[..], b" early due to ", b" because "]
        .iter()
        .filter_map(|words| memchr::memmem::find(rest, words))
        .min()?;
    let colon = memchr::memrchr(b':', &rest[..end])?;
    let pid = u32::try_from(decimal(&rest[colon + 1..end])?).ok()?;
    let comm = poisontrace_model::text::sanitise(&String::from_utf8_lossy(&rest[..colon]), 64);
    Some((comm, pid, &rest[end..]))
}

fn word(text: &[u8]) -> &[u8] {
    text.split(|b| b.is_ascii_whitespace()).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signal(line: &str) -> Line {
        read(line.as_bytes()).unwrap().1
    }

    #[test]
    fn ten_years_of_wording() {
        let killed = Line::Signal {
            pfn: 0xf7eb,
            comm: "CPU 0/KVM".to_owned(),
            pid: 249,
        };
        for line in [
            "[   34.1] Memory failure: 0xf7eb: Sending SIGBUS to CPU 0/KVM:249 due to hardware memory corruption",
            "Memory failure: 0xf7eb: Killing CPU 0/KVM:249 due to hardware memory corruption",
            "MCE 0xf7eb: Killing CPU 0/KVM:249 early due to hardware memory corruption",
            "junk MCE 0xf7eb: Killing CPU 0/KVM:249 due to hardware memory corruption",
        ] {
            assert_eq!(signal(line), killed, "{line}");
        }
        let recovered = Line::Action {
            pfn: 0xf7eb,
            page_type: "dirty LRU page".to_owned(),
            result: "Recovered".to_owned(),
        };
        for line in [
            "Memory failure: 0xf7eb: recovery action for dirty LRU page: Recovered",
            "MCE 0xf7eb: dirty LRU page recovery: Recovered",
        ] {
            assert_eq!(signal(line), recovered, "{line}");
        }
        assert_eq!(
            signal("MCE: Killing qemu:12 due to hardware memory corruption fault at 7f0000000040"),
            Line::OwnAccess {
                comm: "qemu".to_owned(),
                pid: 12,
                hva: 0x7f00_0000_0040
            }
        );
    }

    #[test]
    fn other_words_tell_nothing() {
        for line in [
            "",
            "Memory failure: 0xf7eb: already hardware poisoned",
            "Memory failure: 0xf7eb",
            "Memory failure: 0xZZ: Killing a:1 due to x",
            "Memory failure: 0xf7eb: Killing a:99999999999 due to x",
            "Soft offlining pfn 0xf7eb at process virtual address 0x7f0000000000",
            "MCE: In-kernel MCE decoding enabled.",
        ] {
            assert_eq!(read(line.as_bytes()), None, "{line}");
        }
    }
}
