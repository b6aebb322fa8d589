//! Lines that a mailer, a terminal or a form broke: put together again where a known wording goes on in the next line.

use std::cmp::{Ordering, Reverse};

use super::{
    shape::Fit,
    start::{begins_record, date, named_date},
    wordings::{self, Hit, MAX_STEM},
};
use crate::text::boots::is_mark;

/// Widths at which lines are broken in the middle of a word.
const HARD_WIDTHS: [usize; 10] = [70, 72, 74, 76, 78, 79, 80, 100, 120, 132];
/// Longest line that somebody may have broken off.
const MAX_WIDTH: usize = 260;
/// Longest line that is put together again.
const MAX_WHOLE: usize = 4096;
/// How much of the next line is looked at.
const MAX_NEXT: usize = 512;

/// What is known of how this text was broken.
#[derive(Default)]
pub struct Widths {
    /// In the middle of words, at this width.
    hard: Option<usize>,
    /// Between words.
    words: bool,
}

impl Widths {
    fn breaks_words(&self, width: usize) -> bool {
        self.hard == Some(width) || (!self.words && HARD_WIDTHS.contains(&width))
    }
}

/// Two lines as one.
pub struct Joined {
    pub text: Vec<u8>,
    /// The wording is whole, and not only further on.
    pub whole: bool,
}

/// How a wording stands across a break; the more exact its shape, the better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Spans {
    No,
    Further,
    Whole(Reverse<usize>),
}

/// `line` and `next` as one line, where a wording begins in the one and goes on in the other. `width`: how wide the last
/// line of `line` was.
pub fn join(line: &[u8], width: usize, next: &[u8], widths: &mut Widths) -> Option<Joined> {
    // A journal's mark of a reboot is no continuation, and nothing goes on behind it.
    if is_mark(next) || is_mark(line) {
        return None;
    }
    if line.is_empty() || width > MAX_WIDTH || line.len() > MAX_WHOLE {
        return None;
    }
    // The command line that libvirt logs behind its header.
    if next.starts_with(b"/") || next.starts_with(b"LC_ALL=") {
        return None;
    }
    if !goes_on(line, next) {
        if sender_cut(line, next) && (widths.breaks_words(width) || fills(width, next)) {
            let between: &[u8] = if widths.breaks_words(width) { b"" } else { b" " };
            return Some(Joined {
                text: [line, between, next].concat(),
                whole: true,
            });
        }
        return header(line, next).then(|| {
            let blank = line.ends_with(b" ") || next.starts_with(b" ");
            let between: &[u8] = if blank || cut_time(line, next) { b"" } else { b" " };
            Joined {
                text: [line, between, next].concat(),
                whole: true,
            }
        });
    }
    let trimmed = line.trim_ascii_end();
    // Between the parts of a name with a hyphen some break it as between words.
    let hyphen = trimmed.ends_with(b"-") && trimmed.last() == line.last();
    let hard = match hyphen {
        true => [trimmed, next.trim_ascii_start()].concat(),
        false => [line, next].concat(),
    };
    let words = [trimmed, b" ", next.trim_ascii_start()].concat();
    let of_hard = spans(
        &hard,
        line,
        line.len(),
        next.len(),
        hyphen || widths.breaks_words(width),
    );
    let full = fills(width, next);
    let of_words = spans(&words, trimmed, trimmed.len() + 1, next.len(), full);
    let best = of_hard.max(of_words);
    if best == Spans::No {
        return None;
    }
    let take_hard = match of_hard.cmp(&of_words) {
        Ordering::Greater => true,
        Ordering::Less => false,
        Ordering::Equal => hard == words || hyphen || widths.breaks_words(width),
    };
    let is_whole = matches!(best, Spans::Whole(_));
    if is_whole && of_hard != of_words {
        match take_hard {
            true => widths.hard = Some(width),
            false => widths.words = true,
        }
    }
    Some(Joined {
        text: if take_hard { hard } else { words },
        whole: is_whole,
    })
}

/// Widest record of a trace that a mailer breaks.
const TRACE_WIDTH: usize = 100;

/// A record of a trace that was broken: whatever stands behind it, begins no record and is nothing that a tracer or another
/// program prints by itself, goes on with it.
pub fn of_trace(line: &[u8], width: usize, next: &[u8]) -> Option<Joined> {
    const OF_TRACERS: [&[u8]; 6] = [b"#", b"CPU:", b"=>", b"<", b"cpus=", b"version ="];
    let rest = next.trim_ascii_start();
    let by_itself = OF_TRACERS.iter().any(|begin| rest.starts_with(begin)) || wordings::any(next);
    if by_itself || width > TRACE_WIDTH || line.len() > MAX_WHOLE || !fills(width, next) {
        return None;
    }
    let between: &[u8] = if inside_word(line, width, next) { b"" } else { b" " };
    Some(Joined {
        text: [line, between, rest].concat(),
        whole: true,
    })
}

/// Whether a record of a trace was broken at one of the widths at which words are, and inside of one.
fn inside_word(line: &[u8], width: usize, next: &[u8]) -> bool {
    const NAMES: [&[u8]; 12] = [
        b"vcpu",
        b"reason",
        b"rip",
        b"info",
        b"info1",
        b"info2",
        b"address",
        b"error_code",
        b"intr_info",
        b"action",
        b"for",
        b"pfn",
    ];
    let last = line.rsplit(|b| *b == b' ').next().unwrap_or_default();
    let first = next.split(|b| *b == b' ').next().unwrap_or_default();
    let names = |word: &[u8]| NAMES.contains(&word) || memchr::memchr(b'=', word).is_some();
    let inside = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
    HARD_WIDTHS.contains(&width)
        && inside(last.last())
        && inside(first.first())
        && !NAMES.contains(&last)
        && !names(first)
}

/// Whether the next line's first word would have made the line wider than any mailer leaves it.
fn fills(width: usize, next: &[u8]) -> bool {
    let word = next
        .trim_ascii()
        .iter()
        .take_while(|b| !b.is_ascii_whitespace())
        .count();
    width < MAX_WIDTH && width + 1 + word > HARD_WIDTHS[0]
}

/// Whether a wording ends early in `line`, or stands across the break: without this, nothing is put together.
fn goes_on(line: &[u8], next: &[u8]) -> bool {
    wordings::hits(line).any(unfinished) || {
        let end = &line.trim_ascii_end();
        let end = &end[end.len().saturating_sub(MAX_STEM)..];
        let begin = next.trim_ascii_start();
        let begin = &begin[..begin.len().min(MAX_STEM)];
        [&b""[..], b" "].iter().any(|between| {
            let window = [end, between, begin].concat();
            wordings::hits(&window).any(|hit| hit.at < end.len() && hit.stem_end > end.len())
        })
    }
}

fn unfinished(hit: Hit) -> bool {
    hit.maybe_cut || matches!(hit.fit, Fit::Cut | Fit::Whole { open: true, .. })
}

/// How a wording of `whole` stands across `boundary`, where the next line's `length` bytes begin. A field that could be
/// whole as it is goes on only where `breaks_words`, or where more follows that can only belong to it.
fn spans(whole: &[u8], line: &[u8], boundary: usize, length: usize, breaks_words: bool) -> Spans {
    let whole = &whole[..whole.len().min(boundary + MAX_NEXT)];
    let alone: Vec<Hit> = wordings::hits(line).collect();
    let across = wordings::hits(whole)
        .filter(|hit| hit.at < boundary)
        .map(|hit| match hit.fit {
            Fit::Cut => Spans::Further,
            Fit::Whole { end, .. } if end > boundary => {
                let complete = alone.iter().any(|other| {
                    other.at == hit.at && !other.maybe_cut && matches!(other.fit, Fit::Whole { .. })
                });
                let rest = &whole[boundary..];
                let run = rest.iter().take_while(|b| !b.is_ascii_whitespace()).count();
                // An argument or a path begins something of its own.
                let breaks_words = breaks_words && !matches!(rest.first(), Some(b'/' | b'-'));
                let fragment = end > boundary + run || number(rest, run, length);
                if complete && run > 0 && !breaks_words && !fragment {
                    Spans::No
                } else {
                    Spans::Whole(Reverse(hit.rank))
                }
            }
            _ => Spans::No,
        });
    across.max().unwrap_or(Spans::No)
}

/// Whether the next line is nothing but the rest of a number.
fn number(rest: &[u8], run: usize, length: usize) -> bool {
    let word = &rest[..run];
    run + 2 >= length && word.iter().all(u8::is_ascii_hexdigit) && word.iter().any(u8::is_ascii_digit)
}

/// Whether `line` is what a logger puts before a line and nothing else, and `next` the wording that it was put before.
fn header(line: &[u8], next: &[u8]) -> bool {
    if wordings::any(line) || !wordings::any(next) {
        return false;
    }
    if cut_time(line, next) {
        return true;
    }
    before_message(line.trim_ascii())
}

/// Whether all of `text` is what a logger puts before a message; the program's own name may follow.
fn before_message(text: &[u8]) -> bool {
    let words = text.split(|b| *b == b' ').filter(|word| !word.is_empty()).count();
    match text.last() {
        Some(b':') if words <= 5 && (begins_record(text) || words <= 2 && text.starts_with(b"qemu")) => true,
        Some(b':') => {
            let name = memchr::memrchr(b' ', text).unwrap_or_default();
            text[..name].ends_with(b"]") && before_message(&text[..name])
        }
        Some(b']') => {
            // The time since boot ends the line.
            let Some(open) = memchr::memrchr(b'[', text) else {
                return false;
            };
            let time = text[open + 1..text.len() - 1].trim_ascii();
            let of_time = !time.is_empty() && time.iter().all(|b| b.is_ascii_digit() || *b == b'.');
            of_time && words <= 7 && begins_record(text)
        }
        _ => words <= 4 && (date(text) || named_date(text)),
    }
}

/// Whether the break stands inside the name of the program, before its words: `… m` and `ce: [Hardware Error]: …`.
fn sender_cut(line: &[u8], next: &[u8]) -> bool {
    const LONGEST: usize = 32;
    const NAMES: [&[u8]; 6] = [b"mce: ", b"qemu", b"kvm", b"kernel: ", b"audit: ", b"systemd"];
    let Some(hit) = wordings::hits(next).next() else {
        return false;
    };
    let before = &next[..hit.at];
    (1..=LONGEST).contains(&before.len())
        && before.ends_with(b": ")
        && !before[0].is_ascii_whitespace()
        && !NAMES.iter().any(|name| before.starts_with(name))
        && begins_record(line)
        && !wordings::any(line)
        && !line.trim_ascii_end().ends_with(b":")
}

/// Whether the line breaks inside the time since boot: `… kernel: [795` and `66.550690] Memory failure: …`.
fn cut_time(line: &[u8], next: &[u8]) -> bool {
    let in_time = |text: &[u8]| {
        text.iter()
            .all(|b| b.is_ascii_digit() || matches!(b, b'.' | b' '))
    };
    let open = memchr::memrchr(b'[', line);
    let close = memchr::memchr(b']', &next[..next.len().min(20)]);
    match (open, close) {
        (Some(open), Some(close)) => in_time(&line[open + 1..]) && close > 0 && in_time(&next[..close]),
        _ => false,
    }
}

/// Whether `line` only announces what stands in the next line, although that begins a record: the date, host and tag
/// before a console's line with its own time, libvirt's name of an event before its data.
pub fn announces(line: &[u8], next: &[u8]) -> bool {
    let text = line.trim_ascii();
    if text.last() != Some(&b':') {
        return false;
    }
    match next.trim_ascii_start().first() {
        Some(b'{') => {
            let find = |words: &[u8]| memchr::memmem::find(text, words);
            return matches!((find(b"event "), find(b" for domain ")), (Some(event), Some(domain)) if event < domain);
        }
        Some(b'[') => {}
        _ => return false,
    }
    let words = text.split(|b| *b == b' ').filter(|word| !word.is_empty()).count();
    (named_date(text) && words == 5) || (date(text) && words == 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two(line: &str, next: &str) -> Option<(String, bool)> {
        let joined = join(
            line.as_bytes(),
            line.len(),
            next.as_bytes(),
            &mut Widths::default(),
        )?;
        Some((String::from_utf8(joined.text).unwrap(), joined.whole))
    }

    #[track_caller]
    fn one(line: &str, next: &str, whole: &str) {
        assert_eq!(two(line, next), Some((whole.to_owned(), true)));
    }

    #[test]
    fn a_wording_that_was_broken_between_words() {
        one(
            "[79566.550690] Memory failure: 0x8aa9a1: Sending SIGBUS to qemu-system-x86:4711",
            "due to hardware memory corruption",
            "[79566.550690] Memory failure: 0x8aa9a1: Sending SIGBUS to qemu-system-x86:4711 due to hardware memory corruption",
        );
        one(
            "[79566.550776] Memory failure: 0x8aa9a1: recovery action for dirty LRU",
            "page: Recovered",
            "[79566.550776] Memory failure: 0x8aa9a1: recovery action for dirty LRU page: Recovered",
        );
        one(
            "Oct 24 10:52:05 host1 kernel: Memory",
            "failure: 0x8aa9a1: recovery action for huge page: Delayed",
            "Oct 24 10:52:05 host1 kernel: Memory failure: 0x8aa9a1: recovery action for huge page: Delayed",
        );
        one(
            "Kernel panic - not syncing: Fatal local",
            "machine check",
            "Kernel panic - not syncing: Fatal local machine check",
        );
    }

    #[test]
    fn a_wording_that_was_broken_inside_a_word() {
        let line = "Oct 24 10:52:07 host1 microvm@vm1[15894]: [  157.392905] mce: [Hardware Error]: CPU 0: Machine Check Exception: 5 Bank 9: bd80000000000134";
        for at in 90..line.len() {
            one(&line[..at], &line[at..], line);
        }
        let line = "[  250.852928] mce: Uncorrected hardware memory error in user-access at 118cb9000";
        for at in 20..line.len() - 1 {
            one(&line[..at], &line[at..], line);
        }
    }

    #[test]
    fn a_bracket_alone_is_no_time() {
        assert_eq!(two("]", "type=1701 audit("), None);
        assert!(!before_message(b"]") && !before_message(b"x]"));
    }

    #[test]
    fn a_break_across_three_lines_goes_further_first() {
        let (text, whole) = two(
            "qemu-kvm: Guest MCE Memory Error at QEMU addr",
            "0x7f0000001000 and GUEST addr",
        )
        .unwrap();
        assert!(!whole);
        one(
            &text,
            "0x5000000 of type BUS_MCEERR_AR injected",
            "qemu-kvm: Guest MCE Memory Error at QEMU addr 0x7f0000001000 and GUEST addr 0x5000000 of type BUS_MCEERR_AR injected",
        );
    }

    #[test]
    fn a_sender_is_put_before_its_words() {
        one(
            "2026-11-22T15:45:34+0000 host-with-a-long-name kernel:",
            "Memory failure: 0x1: recovery action for dax page: Failed",
            "2026-11-22T15:45:34+0000 host-with-a-long-name kernel: Memory failure: 0x1: recovery action for dax page: Failed",
        );
        one(
            "Oct 24 10:52:05 host1 kernel: [795",
            "66.550690] Memory failure: 0x1: recovery action for dax page: Failed",
            "Oct 24 10:52:05 host1 kernel: [79566.550690] Memory failure: 0x1: recovery action for dax page: Failed",
        );
        assert!(announces(
            b"Oct 24 10:52:05 host1 microvm@vm1[15894]:",
            b"[  157.3] mce: x"
        ));
        assert!(!announces(
            b"Oct 24 10:52:05 host1 kernel: Call Trace:",
            b"[  157.3] mce: x"
        ));
    }

    #[test]
    fn a_record_of_a_trace_that_was_broken() {
        let of = |line: &str, next: &str| {
            let joined = of_trace(line.as_bytes(), line.len(), next.as_bytes())?;
            Some(String::from_utf8(joined.text).unwrap())
        };
        let record = "   <...>-35787 [038] ....  2825.959082: kvm_exit: vcpu 1 reason npf rip";
        let whole = format!("{record} 0xfd11d info 100000014 fd000");
        assert_eq!(of(record, "0xfd11d info 100000014 fd000"), Some(whole));
        let record = "  qemu-kvm-35787 [038] d..1.  2825.959082: kvm_page_fault: vcpu 1 rip 0xff";
        assert_eq!(record.len(), 74);
        assert_eq!(
            of(record, "ffffff address 0x5000000"),
            Some(format!("{record}ffffff address 0x5000000"))
        );
        for next in [
            " => kvm_vcpu_ioctl",
            "# tracer: nop",
            "CPU:1 [LOST 4711 EVENTS]",
            "Memory failure: 0x1: already hardware poisoned",
        ] {
            assert_eq!(of(record, next), None, "{next}");
        }
        assert_eq!(of("a-1 [000] ..... 1.5: kvm_entry: vcpu 0", "prose"), None);
    }

    #[test]
    fn other_lines_are_left_alone() {
        for (line, next) in [
            (
                "[ 1.0] Memory failure: 0x1: already hardware poisoned",
                "and prose",
            ),
            (
                "[ 1.0] Memory failure: 0x1: Sending SIGBUS to a:1 due to hardware memory corruption",
                "due to that",
            ),
            (
                "[ 1.0] mce: Uncorrected hardware memory error in user-access at 118cb9000",
                "dead",
            ),
            (
                "[ 1.0] mce: Uncorrected hardware memory error in user-access at 118cb9000",
                "add more",
            ),
            ("prose about memory", "failure: 0x1"),
            ("[ 1.0] Kernel panic - not syncing: something", "else"),
            ("some text:", "Memory failure: 0x1: already hardware poisoned"),
            ("", "Memory failure: 0x1"),
            (
                "2026-11-20 10:00:00.000+0000: starting up libvirt version: 10.0.0, qemu version: 8.2.2, kernel: 6.8.0-31-generic, hostname: host1",
                "/usr/bin/qemu-system-x86_64 -name guest=db-7",
            ),
            ("-name guest=db-7", "-uuid 5e1f1e55-0000-4000-8000-00000000feed"),
        ] {
            assert_eq!(two(line, next), None, "{line}");
        }
    }
}
