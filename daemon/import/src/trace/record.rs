//! One line of a kernel trace as text, in its dialects:
//!
//! ```text
//! tracefs           qemu-249   (  221) [001] d..1.    34.190884: kvm_entry: vcpu 0, rip 0xffffffff81ce5fff
//! trace-cmd report  qemu-249   [001]    34.190884: kvm_entry:            vcpu 0, rip 0xffffffff81ce5fff
//! perf script       CPU 0/KVM   221/249   [001]    34.190884: kvm:kvm_entry: vcpu 0, rip 0xffffffff81ce5fff
//! latency-format    qemu-249       1d..1.  4106us+: kvm_entry: vcpu 0, rip 0xffffffff81ce5fff
//! trace-cmd -l      qemu-249     1d..1    34.190884: kvm_entry:            vcpu 0, rip 0xffffffff81ce5fff
//! perf -F without cpu  CPU 0/KVM   249    34.190884: kvm:kvm_entry: vcpu 0, rip 0xffffffff81ce5fff
//! ```
//!
//! (`trace_print_context` and `trace_print_lat_context` in kernel/trace/trace_output.c.) The anchor of the first
//! three is `[CPU]`: names of tasks may hold anything, brackets and colons too. The others are looked for where
//! there is none.

/// A trace line, borrowed from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Nanoseconds of the trace's clock; its own unit where `unit` is false.
    pub t: u64,
    /// Whether the clock counts seconds: `counter` and `x86-tsc` do not.
    pub unit: bool,
    /// The thread.
    pub tid: u32,
    /// Its process, where the dialect shows.
    pub tgid: Option<u32>,
    /// Name of the thread, as the kernel has it (15 bytes at most).
    pub comm: &'a [u8],
    /// The event's name, without its group.
    pub name: &'a [u8],
    /// The rest of the line.
    pub fields: &'a [u8],
}

/// Digits of a CPU number; longer brackets are something else.
const MAX_CPU_DIGITS: usize = 5;
/// Where a line's event begins at the latest: a name of 16 bytes, pid, tgid, CPU, flags and a time stand before it.
const MAX_HEAD: usize = 192;
/// Longest flags or time.
const MAX_WORD: usize = 48;

/// The line as a trace record, or `None` where it has another shape.
pub fn parse(line: &[u8]) -> Option<Record<'_>> {
    // Of a line of junk only so much is looked at.
    let head = &line[..line.len().min(MAX_HEAD)];
    let mut from = 0;
    while let Some(at) = memchr::memchr(b'[', &head[from..]) {
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
    without_cpu(line, head)
}

fn around<'a>(task: &'a [u8], rest: &'a [u8]) -> Option<Record<'a>> {
    let (t, unit, rest) = time(rest)?;
    let (name, fields, _) = event(rest)?;
    let (comm, tid, tgid) = who(task)?;
    Some(Record {
        t,
        unit,
        tid,
        tgid,
        comm,
        name,
        fields,
    })
}

/// `flags TIMESTAMP:`, the flags optional; the rest after the colon.
fn time(rest: &[u8]) -> Option<(u64, bool, &[u8])> {
    let mut rest = rest;
    // Flags are one word in tracefs, two with perf's -F +flags; more is another kind of line.
    for _ in 0..3 {
        rest = rest.trim_ascii_start();
        let end = rest
            .iter()
            .take(MAX_WORD)
            .position(|b| *b == b' ' || *b == b'\t')?;
        let word = &rest[..end];
        if let Some((b':', number)) = word.split_last().map(|(last, start)| (*last, start))
            && let Some(t) = seconds(number)
        {
            return Some((t, number.contains(&b'.'), &rest[end..]));
        }
        rest = &rest[end..];
    }
    None
}

/// The dialects without `[CPU]`: the time is the word before the first `: `, before it stand the CPU with the
/// latency flags, or, where the event names its group as perf does, nothing but the task.
fn without_cpu<'a>(line: &'a [u8], head: &'a [u8]) -> Option<Record<'a>> {
    let colon = memchr::memmem::find(head, b": ")?;
    let (before, rest) = (&line[..colon], &line[colon + 2..]);
    let (t, before) = time_before(before)?;
    let (name, fields, grouped) = event(rest)?;
    let (task, flags) = before.split_at(before.len() - last_word(before).len());
    let task = match latency_flags(flags) {
        true => task,
        false if grouped => before,
        false => return None,
    };
    let (comm, tid, tgid) = who(task)?;
    Some(Record {
        t,
        unit: true,
        tid,
        tgid,
        comm,
        name,
        fields,
    })
}

/// `… 34.190884` or `… 4106us+` (a mark of the delay, a blank for none) at the end, and what stands before it.
fn time_before(text: &[u8]) -> Option<(u64, &[u8])> {
    let trimmed = text.trim_ascii_end();
    let word = last_word(trimmed);
    let before = trimmed[..trimmed.len() - word.len()].trim_ascii_end();
    let number = word.strip_suffix(b"us").or_else(|| {
        let (mark, start) = word.split_last()?;
        b"+!#*@$".contains(mark).then_some(start)?.strip_suffix(b"us")
    });
    let t = match number {
        Some(number) => decimal(number)?.checked_mul(1000)?,
        None if word.contains(&b'.') => seconds(word)?,
        None => return None,
    };
    Some((t, before))
}

fn last_word(text: &[u8]) -> &[u8] {
    let length = text
        .iter()
        .rev()
        .take_while(|b| !matches!(**b, b' ' | b'\t'))
        .count();
    &text[text.len() - length..]
}

/// `1d..1.`: the CPU, and the flags of `trace_print_lat_fmt`, four of them in older kernels.
fn latency_flags(word: &[u8]) -> bool {
    let digits = word.iter().take_while(|b| b.is_ascii_digit()).count();
    let flags = &word[digits..];
    (1..=MAX_CPU_DIGITS).contains(&digits)
        && (3..=6).contains(&flags.len())
        && flags.iter().all(|b| *b == b'.' || b.is_ascii_alphanumeric())
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

/// `[group:]name:` or `name(…` (syscall events); the rest after it, and whether there is a group.
fn event(rest: &[u8]) -> Option<(&[u8], &[u8], bool)> {
    let rest = rest.trim_ascii_start();
    let (first, after) = word(rest)?;
    if let [b':', next, ..] = after
        && is_name(*next)
    {
        let (name, after) = word(&after[1..])?;
        let fields = after.strip_prefix(b":").unwrap_or(after).trim_ascii_start();
        return Some((name, fields, true));
    }
    match after.first()? {
        b':' => Some((first, after[1..].trim_ascii_start(), false)),
        b'(' => Some((first, after, false)),
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
    fn the_dialects_tell_the_same() {
        let t = 34_190_884_000;
        let injected = |tgid, comm: &str| Some((t, 249, tgid, comm.to_owned(), "vcpu 0".to_owned()));
        assert_eq!(
            entry("  qemu-249     [001] d..1.    34.190884: kvm_entry: vcpu 0"),
            injected(None, "qemu")
        );
        assert_eq!(
            entry("  CPU 0/KVM-249   (    221) [001] d..1.  34.190884: kvm_entry: vcpu 0"),
            injected(Some(221), "CPU 0/KVM")
        );
        assert_eq!(
            entry("  qemu-249   (-------) [001] d..1.  34.190884: kvm_entry: vcpu 0"),
            injected(None, "qemu")
        );
        assert_eq!(
            entry("   a-b [2]-249   [001]    34.190884000: kvm_entry:       vcpu 0"),
            injected(None, "a-b [2]")
        );
        assert_eq!(
            entry("CPU 0/KVM   249 [001]    34.190884: kvm:kvm_entry: vcpu 0"),
            injected(None, "CPU 0/KVM")
        );
        assert_eq!(
            entry("CPU 0/KVM   221/249   [001]    34.190884: kvm:kvm_entry: vcpu 0"),
            injected(Some(221), "CPU 0/KVM")
        );
        for line in [
            "    qemu-249       1d..1. 34190884us : kvm_entry: vcpu 0",
            "    qemu-249       1dNh2 34190884us!: kvm_entry: vcpu 0",
            "    qemu-249     1d..1    34.190884: kvm_entry:            vcpu 0",
            "    qemu   249    34.190884: kvm:kvm_entry: vcpu 0",
            "    qemu-249     [001] dN.1. 34.190884: kvm_entry: vcpu 0",
        ] {
            assert_eq!(entry(line), injected(None, "qemu"), "{line}");
        }
    }

    #[test]
    fn clocks_that_count_no_seconds_are_known_for_it() {
        let unit = |line: &str| parse(line.as_bytes()).map(|record| (record.t, record.unit));
        assert_eq!(
            unit("a-1 [000] ..... 34.190884: kvm_entry: "),
            Some((34_190_884_000, true))
        );
        assert_eq!(unit("a-1 [000] ..... 4711: kvm_entry: "), Some((4711, false)));
        assert_eq!(
            unit("a-1 [000] ..... 92113457690012: kvm_entry: "),
            Some((92_113_457_690_012, false))
        );
    }

    #[test]
    fn a_line_of_brackets_costs_no_more_than_its_beginning() {
        let line = b"[1]".repeat(1 << 20);
        let begun = std::time::Instant::now();
        for _ in 0..1000 {
            assert_eq!(parse(&line), None);
        }
        assert!(begun.elapsed().as_secs() < 5);
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
            "Memory failure: 0xf7eb: recovery action for x: y",
            "host 12.5: something: else",
            "x-1 12 12.500000: something: else",
        ] {
            assert_eq!(parse(line.as_bytes()), None, "{line}");
        }
    }
}
