//! A name before a line: of a machine, as `pdsh` and `xargs` put it, as a receiver of netconsole does, or of a console. It is
//! one only where a line of a log begins right behind it.

use super::prefix;

/// Longest name.
const MAX_NAME: usize = 96;

/// What may stand between a name and its line.
const ENDS: [&[u8]; 7] = [b": ", b":", b" | ", b"| ", b"> ", b" - ", b" "];

/// The name before a line, and the line. `dated`: a time stands before the name.
pub fn cut(rest: &[u8], dated: bool) -> Option<(&[u8], &[u8])> {
    match rest.first()? {
        b'{' => return of_loki(rest),
        b'[' => return bracketed(rest, b']'),
        b'<' => return bracketed(rest, b'>'),
        b'(' => return bracketed(rest, b')'),
        first if !first.is_ascii_alphanumeric() => return None,
        _ => {}
    }
    let name = name(rest)?;
    let after = &rest[name.len()..];
    let (end, next) = ENDS
        .iter()
        .find_map(|end| Some((*end, after.strip_prefix(*end)?.trim_ascii_start())))?;
    let sure = end != b" " && end != b":" || dated || is_name(name);
    if sure && begins(next, dated) {
        return Some((name, next));
    }
    // A pod and its container.
    let second = self::name(next).filter(|second| end == b" " && is_name(name) && is_name(second))?;
    let inner = next[second.len()..].strip_prefix(b" ")?.trim_ascii_start();
    let whole = &rest[..rest.len() - next.len() + second.len()];
    prefix::begins_with_boot(inner).then_some((whole, inner))
}

/// Whether a name before lines is that of a console that somebody relays: `console-vm1`, `vm1-serial0`, `ttyS0`.
pub fn is_console(name: &[u8]) -> bool {
    const WORDS: [&[u8]; 6] = [b"console", b"serial", b"ttyS", b"hvc", b"microvm", b"guest"];
    let letter = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphabetic);
    WORDS.iter().any(|word| {
        memchr::memmem::find_iter(name, word)
            .any(|at| (at == 0 || !letter(name.get(at - 1))) && !letter(name.get(at + word.len())))
    })
}

/// Whether a name is one that people give VMs: `vm1`, `vm-db`, `web_vm`.
pub fn is_of_a_vm(name: &str) -> bool {
    let mut parts = name.split(|c: char| !c.is_ascii_alphanumeric());
    parts.any(|part| {
        let number = part.strip_prefix("vm").or_else(|| part.strip_suffix("vm"));
        number.is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit()))
    })
}

/// Whether a name holds what a word of a language does not.
pub fn is_name(name: &[u8]) -> bool {
    let mark = |b: &u8| b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
    name.iter().any(|b| b.is_ascii_alphanumeric()) && name.iter().any(mark)
}

/// A run of a name's letters, without the colon that ends it; an address of IPv6 holds some.
fn name(rest: &[u8]) -> Option<&[u8]> {
    let of_name = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b':' | b'/' | b'@');
    let end = rest.iter().take(MAX_NAME + 1).position(|b| !of_name(b))?;
    let run = &rest[..end];
    let run = run.strip_suffix(b":").unwrap_or(run);
    let v6 = run.iter().filter(|b| **b == b':').count() > 1
        && run
            .iter()
            .all(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.'));
    let end = match memchr::memchr(b':', run) {
        Some(colon) if !v6 => colon,
        _ => run.len(),
    };
    let name = &run[..end];
    (!name.is_empty() && !is_other(name)).then_some(name)
}

/// What stands before a colon and is no name of a machine.
fn is_other(name: &[u8]) -> bool {
    const WORDS: [&[u8]; 6] = [b"kernel", b"login", b"Password", b"password", b"mce", b"audit"];
    WORDS.contains(&name)
        || super::program::is_vmm(&String::from_utf8_lossy(
            name.rsplit(|b| *b == b'/').next().unwrap_or(name),
        ))
        || name.starts_with(b"qemu")
        || prefix::begins_with_date(name)
        || name.iter().all(u8::is_ascii_digit)
}

/// Whether a line of a log begins here.
fn begins(next: &[u8], dated: bool) -> bool {
    let of_json = next.starts_with(b"{\"") && memchr::memmem::find(next, b"\"event\"").is_some();
    prefix::begins_with_boot(next)
        || prefix::begins_with_date(next)
        || prefix::begins_with_priority(next)
        || of_json
        || dated && (super::wordings::read(next).is_some() || super::wordings::is_stem(next))
}

/// `[node1] [   12.3] …`, `<10.0.0.5> …`, `(node1) …`.
fn bracketed(rest: &[u8], close: u8) -> Option<(&[u8], &[u8])> {
    let end = rest.iter().take(MAX_NAME).position(|b| *b == close)?;
    let inner = &rest[1..end];
    let next = rest[end + 1..].strip_prefix(b" ")?.trim_ascii_start();
    let letters =
        inner.iter().any(u8::is_ascii_alphabetic) || inner.iter().filter(|b| **b == b'.').count() == 3;
    let is = letters && name(&rest[1..]).is_some_and(|name| name.len() == inner.len());
    (is && begins(next, false)).then_some((inner, next))
}

/// `{host="node1", job="kernel"} …` of Loki: the labels.
fn of_loki(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    const MAX: usize = 512;
    let end = memchr::memmem::find(&rest[..rest.len().min(MAX)], b"\"} ")?;
    let labels = &rest[1..=end];
    let first = labels.split(|b| *b == b'=').next()?;
    let plain = first.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_');
    (plain && !first.is_empty()).then(|| (of_labels(labels), rest[end + 3..].trim_ascii_start()))
}

/// The label that names a machine or a console, else all.
fn of_labels(labels: &[u8]) -> &[u8] {
    const KEYS: [&[u8]; 9] = [
        b"pod=\"",
        b"vm=\"",
        b"domain=\"",
        b"hostname=\"",
        b"host=\"",
        b"node=\"",
        b"nodename=\"",
        b"instance=\"",
        b"filename=\"",
    ];
    KEYS.iter()
        .find_map(|key| {
            let at = memchr::memmem::find(labels, key)?;
            let begins = at == 0 || matches!(labels[at - 1], b' ' | b',' | b'_');
            let value = &labels[at + key.len()..];
            let end = memchr::memchr(b'"', value)?;
            (begins && end > 0).then(|| &value[..end])
        })
        .unwrap_or(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Option<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        cut(line.as_bytes(), false).map(|(name, next)| (text(name), text(next)))
    }

    #[test]
    fn names_before_lines() {
        for (before, name) in [
            ("node1: ", "node1"),
            ("10.0.0.5 ", "10.0.0.5"),
            ("10.0.0.5: ", "10.0.0.5"),
            ("[node1] ", "node1"),
            ("<10.0.0.5> ", "10.0.0.5"),
            ("fe80::1 ", "fe80::1"),
            ("alpha> ", "alpha"),
            ("node-1.example.org:", "node-1.example.org"),
            ("virt-launcher-a compute-1 ", "virt-launcher-a compute-1"),
            ("{host=\"n1\", job=\"k\"} ", "n1"),
        ] {
            for line in ["[   12.300000] x", "<3>[   12.3] x"] {
                if before.starts_with("virt") && line.starts_with('<') {
                    continue;
                }
                let found = of(&format!("{before}{line}"));
                assert_eq!(found, Some((name.to_owned(), line.to_owned())), "{before}");
            }
        }
        let kmsg = "6,1234,5678000,-;x";
        assert_eq!(
            of(&format!("10.0.0.5 {kmsg}")),
            Some(("10.0.0.5".to_owned(), kmsg.to_owned()))
        );
    }

    #[test]
    fn consoles_and_vms_by_their_names() {
        for name in [
            "console-vm1",
            "vm1-serial0",
            "ttyS0",
            "hvc0",
            "microvm@a",
            "guest-console-log",
        ] {
            assert!(is_console(name.as_bytes()), "{name}");
        }
        for name in ["node1", "consoles", "vm1", "guestbook"] {
            assert!(!is_console(name.as_bytes()), "{name}");
        }
        for name in ["vm1", "vm", "vm-db", "web_vm", "10.0.0.5 vm3"] {
            assert!(is_of_a_vm(name), "{name}");
        }
        for name in ["node1", "vmhost1", "svm", "kvm-3", ""] {
            assert!(!is_of_a_vm(name), "{name}");
        }
    }

    #[test]
    fn words_before_lines() {
        for line in [
            "and [   12.3] x",
            "login: [   12.3] x",
            "kernel: [   12.3] x",
            "qemu-system-x86_64: [   12.3] x",
            "mce: [Hardware Error]: x",
            "node1: words",
            "[   12.3] x",
            "2026-11-22T10:00:00Z [   12.3] x",
        ] {
            assert_eq!(of(line), None, "{line}");
        }
    }
}
