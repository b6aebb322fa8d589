//! One line of a kernel trace as text, in its three dialects:
//!
//! ```text
//! tracefs    qemu-249   (  221) [001] d..1.    34.190884: kvm_entry: vcpu 0, rip 0xffffffff81ce5fff
//! trace-cmd  qemu-249   [001]    34.190884: kvm_entry:            vcpu 0, rip 0xffffffff81ce5fff
//! perf       CPU 0/KVM   221/249   [001]    34.190884: kvm:kvm_entry: vcpu 0, rip 0xffffffff81ce5fff
//! ```
//!
//! The anchor is `[CPU]`: names of tasks may hold anything, brackets and colons too.

/// A trace line, borrowed from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Nanoseconds of the trace's clock.
    pub t: u64,
    pub tid: u32,
    /// Its process, where the dialect tells.
    pub tgid: Option<u32>,
    pub comm: &'a [u8],
    /// The event's name, without its group.
    pub name: &'a [u8],
    /// The rest of the line.
    pub fields: &'a [u8],
}

/// Digits of a CPU number; longer brackets are something else.
const MAX_CPU_DIGITS: usize = 5;

/// The line as a trace record, or `None` where it has another shape.
pub fn parse(line: &[u8]) -> Option<Record<'_>> {
    let mut from = 0;
    while let Some(at) = memchr::memchr(b'[', &line[from..]) {
        let open = from + at;
        let digits = line[open + 1..]
            .iter()
            .take(MAX_CPU_DIGITS + 1)
            .take_while(|b| b.is_ascii_digit())
            .count();
        let close = open + 1 + digits;
        if (1..=MAX_CPU_DIGITS).contains(&digits)
            && line.get(close) == Some(&b']')
            && let Some(record) = around(&line[..open], &line[close + 1..])
        {
            return Some(record);
        }
        from = open + 1;
    }
    None
}

fn around<'a>(task: &'a [u8], rest: &'a [u8]) -> Option<Record<'a>> {
    let (t, rest) = time(rest)?;
    let (name, fields) = event(rest)?;
    let (comm, tid, tgid) = who(task)?;
    Some(Record {
        t,
        tid,
        tgid,
        comm,
        name,
        fields,
    })
}

/// `flags TIMESTAMP:`, the flags optional; the rest after the colon.
fn time(rest: &[u8]) -> Option<(u64, &[u8])> {
    let mut rest = rest;
    // Flags are one word in tracefs, two with perf's -F +flags; more is another kind of line.
    for _ in 0..3 {
        rest = rest.trim_ascii_start();
        let end = rest.iter().position(|b| *b == b' ' || *b == b'\t')?;
        let word = &rest[..end];
        if let Some((b':', number)) = word.split_last().map(|(last, start)| (*last, start))
            && let Some(t) = seconds(number)
        {
            return Some((t, &rest[end..]));
        }
        rest = &rest[end..];
    }
    None
}

/// `34.190884` or `34.190884123` to nanoseconds; without a point (a counter clock) as it is.
pub fn seconds(number: &[u8]) -> Option<u64> {
    let point = number.iter().position(|b| *b == b'.');
    let Some(point) = point else {
        return decimal(number);
    };
    let fraction = &number[point + 1..];
    let mut ns = decimal(fraction)?;
    if fraction.len() > 9 {
        return None;
    }
    for _ in fraction.len()..9 {
        ns *= 10;
    }
    decimal(&number[..point])?
        .checked_mul(1_000_000_000)?
        .checked_add(ns)
}

/// `[group:]name:` or `name(…` (syscall events); the rest after it.
fn event(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = rest.trim_ascii_start();
    let (first, after) = word(rest)?;
    if let [b':', next, ..] = after
        && is_name(*next)
    {
        let (name, after) = word(&after[1..])?;
        return Some((name, after.strip_prefix(b":").unwrap_or(after).trim_ascii_start()));
    }
    match after.first()? {
        b':' => Some((first, after[1..].trim_ascii_start())),
        b'(' => Some((first, after)),
        _ => None,
    }
}

fn is_name(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_'
}

fn word(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = text.iter().position(|b| !is_name(*b))?;
    (end > 0).then(|| text.split_at(end))
}

/// `COMM-TID`, `COMM-TID (TGID)`, `COMM TID` or `COMM PID/TID`.
fn who(task: &[u8]) -> Option<(&[u8], u32, Option<u32>)> {
    let mut task = task.trim_ascii_end();
    let mut tgid = None;
    if let Some(inner) = task.strip_suffix(b")") {
        let open = memchr::memrchr(b'(', inner)?;
        // "(-----)": not known.
        tgid = number(inner[open + 1..].trim_ascii());
        task = inner[..open].trim_ascii_end();
    }
    let (before, tid) = trailing_number(task)?;
    let (separator, comm) = before.split_last().map(|(b, comm)| (*b, comm))?;
    match separator {
        b'/' => match trailing_number(comm) {
            // "kvm-pit/221" is a name; "221/249" is a process and its thread.
            Some((name, pid)) if name.last().is_none_or(|b| *b == b' ') => {
                Some((name.trim_ascii(), tid, Some(pid)))
            }
            _ => None,
        },
        b'-' | b' ' => Some((comm.trim_ascii(), tid, tgid)),
        _ => None,
    }
}

fn trailing_number(text: &[u8]) -> Option<(&[u8], u32)> {
    let digits = text.iter().rev().take_while(|b| b.is_ascii_digit()).count();
    let (before, digits) = text.split_at(text.len() - digits);
    Some((before, number(digits)?))
}

fn number(digits: &[u8]) -> Option<u32> {
    u32::try_from(decimal(digits)?).ok()
}

/// Decimal digits alone.
pub fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |sum, b| {
        let digit = b.is_ascii_digit().then(|| u64::from(b - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(line: &str) -> Option<(u64, u32, Option<u32>, String, String)> {
        let record = parse(line.as_bytes())?;
        assert_eq!(record.name, b"kvm_entry");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Some((
            record.t,
            record.tid,
            record.tgid,
            text(record.comm),
            text(record.fields),
        ))
    }

    #[test]
    fn the_three_dialects_tell_the_same() {
        let t = 34_190_884_000;
        let told = |tgid, comm: &str| Some((t, 249, tgid, comm.to_owned(), "vcpu 0".to_owned()));
        assert_eq!(
            entry("  qemu-249     [001] d..1.    34.190884: kvm_entry: vcpu 0"),
            told(None, "qemu")
        );
        assert_eq!(
            entry("  CPU 0/KVM-249   (    221) [001] d..1.  34.190884: kvm_entry: vcpu 0"),
            told(Some(221), "CPU 0/KVM")
        );
        assert_eq!(
            entry("  qemu-249   (-------) [001] d..1.  34.190884: kvm_entry: vcpu 0"),
            told(None, "qemu")
        );
        assert_eq!(
            entry("   a-b [2]-249   [001]    34.190884000: kvm_entry:       vcpu 0"),
            told(None, "a-b [2]")
        );
        assert_eq!(
            entry("CPU 0/KVM   249 [001]    34.190884: kvm:kvm_entry: vcpu 0"),
            told(None, "CPU 0/KVM")
        );
        assert_eq!(
            entry("CPU 0/KVM   221/249   [001]    34.190884: kvm:kvm_entry: vcpu 0"),
            told(Some(221), "CPU 0/KVM")
        );
    }

    #[test]
    fn what_has_another_shape_is_no_record() {
        for line in [
            "",
            "# tracer: nop",
            "CPU:1 [LOST 4711 EVENTS]",
            "[   34.150533] Injecting memory failure at pfn 0xf7eb",
            "[001]",
            "-[001] 1.2: a:",
            "x-99999999999 [001] 1.2: a: b",
            "x-1 [001] .. .. .. 1.2: a: b",
            "x-1 [001] 1.2345678901: a: b",
        ] {
            assert_eq!(parse(line.as_bytes()), None, "{line}");
        }
    }
}
