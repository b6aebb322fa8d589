//! What loggers and relays put before a message: priority, times, host, `tag[pid]:`, a container's or a console's
//! name. Cut off layer by layer, so that a message is recognised from its first byte.

use super::{
    prefix::{self, Bracket, Dater, bracket, date, is_boot, kmsg, priority, run},
    sender::Sender,
};

/// Layers that are cut off one line.
const MAX_LAYERS: usize = 6;
/// Longest host, tag and relay's name.
const MAX_NAME: usize = 128;

/// A line without what was put before its message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// Name of the host.
    pub host: Option<&'a [u8]>,
    /// Tag of syslog, or the program's name.
    pub tag: Option<&'a [u8]>,
    /// The process.
    pub pid: Option<u32>,
    /// Name that QEMU puts before its messages (`-msg guest-name=on`).
    pub guest: Option<&'a [u8]>,
    /// The name of a relayed console: `vm1 | …`, `[pod/…] …`, `vmconsole="…"`, `conserver[900]: [vm1] …`.
    pub relay: Option<&'a [u8]>,
    /// A name before the line of which nothing more is known: a machine's or a console's.
    pub label: Option<&'a [u8]>,
    /// Where the line begins behind that name.
    pub from: usize,
    /// Dated as libvirt dates the log of a domain.
    pub libvirt: bool,
    /// A time since boot stands directly before the message.
    pub printk: bool,
    /// systemd's, in the kernel's own buffer.
    pub in_buffer: bool,
    /// Where the message begins in the line.
    pub at: usize,
    /// In words.
    pub message: &'a [u8],
}

impl Envelope<'_> {
    /// The kernel of the machine that logged the line, by the logger's tag.
    pub fn of_kernel(&self) -> bool {
        self.tag == Some(b"kernel") && self.relay.is_none()
    }

    /// Whether it can be a line of a console that nobody logged: no name and no date stand before it.
    pub fn of_console(&self) -> bool {
        let named = self.host.is_some() || self.tag.is_some() || self.relay.is_some() || self.label.is_some();
        !named && (self.printk || self.at == 0) && !super::program::is_vmm_prefix(self.message)
    }

    /// Who sent the line.
    pub fn sender(&self) -> Sender {
        let text = |bytes: Option<&[u8]>| {
            bytes.map(|bytes| poisontrace_model::text::sanitise(&String::from_utf8_lossy(bytes), MAX_NAME))
        };
        Sender {
            host: text(self.host),
            tag: text(self.relay.or(self.tag)),
            pid: self.pid,
            domain: text(self.guest),
            relay: self.relay.is_some(),
            label: text(self.label),
            ..Sender::default()
        }
    }
}

/// Cuts off what stands before the message.
pub fn open(line: &[u8]) -> Envelope<'_> {
    let mut e = Envelope::default();
    let mut rest = line.trim_ascii_start();
    let (mut dated, mut dates) = (false, 0);
    for _ in 0..MAX_LAYERS {
        // Cut out of a longer line, or syslogd's message to all terminals.
        if e.tag.is_none()
            && !dated
            && let Some(next) = rest.strip_prefix(b"kernel:")
        {
            e.tag = Some(b"kernel");
            rest = next.trim_ascii_start();
            continue;
        }
        if super::kubevirt::begins(rest) {
            break;
        }
        let next = priority(rest).or_else(|| kmsg(rest)).or_else(|| facility(rest));
        if let Some(next) = next {
            rest = next;
            continue;
        }
        if let Some((kind, next)) = bracket(rest) {
            e.printk = kind == Bracket::Boot || e.printk && kind == Bracket::Thread;
            rest = next;
            if kind == Bracket::Boot && e.tag.is_none() && !dated {
                // journalctl -o short-monotonic.
                rest = header(rest, &mut e, true).unwrap_or(rest);
            }
            if e.tag.is_none() && !dated {
                rest = of_systemd(rest, &mut e).unwrap_or(rest);
            }
            continue;
        }
        // A container's time may stand before the line's own.
        if e.tag.is_none()
            && dates < 2
            && let Some((by, next)) = date(rest)
        {
            dated = true;
            dates += 1;
            e.libvirt = by == Dater::Libvirt;
            rest = match guest_name(next, by) {
                Some((name, next)) => {
                    e.guest = Some(name);
                    next
                }
                None => header(next, &mut e, false)
                    .or_else(|| without_host(next, &mut e))
                    .unwrap_or(next),
            };
            continue;
        }
        // A VMM's own date in the message of a unit that relays its output.
        if e.tag.is_some()
            && dates < 2
            && let Some((by, next)) = date(rest)
            && (by != Dater::Another
                && (super::program::is_vmm_prefix(next) || super::wordings::is_stem(next))
                || super::wordings::read(next).is_some())
        {
            dates = 2;
            rest = next;
            continue;
        }
        if let Some((name, next)) = relay(rest, &e) {
            e.relay = Some(name);
            e.printk = false;
            rest = next;
            dated = true;
            continue;
        }
        if e.label.is_none()
            && e.host.is_none()
            && e.relay.is_none()
            && !e.printk
            && let Some((name, next)) = super::label::cut(rest, dated)
        {
            match super::label::is_console(name) && prefix::begins_with_boot(next) {
                true => e.relay = Some(name),
                false => e.label = Some(name),
            }
            if !dated {
                e.from = line.len() - next.len();
            }
            rest = next;
            continue;
        }
        if let Some(next) = list_number(rest) {
            rest = next;
            continue;
        }
        // A logger's line without its date.
        if e.tag.is_none()
            && !dated
            && !e.printk
            && let Some(next) = header(rest, &mut e, true)
        {
            dated = true;
            rest = next;
            continue;
        }
        break;
    }
    e.at = line.len() - rest.len();
    e.message = machine_checks(rest);
    e
}

/// `systemd[1]: `, where systemd logs to the kernel's ring buffer (`log_dispatch_internal()`, src/basic/log.c).
fn of_systemd<'a>(rest: &'a [u8], e: &mut Envelope<'a>) -> Option<&'a [u8]> {
    let open = memchr::memchr(b'[', &rest[..rest.len().min(32)])?;
    let (name, inner) = (&rest[..open], &rest[open + 1..]);
    if !matches!(name, b"systemd" | b"systemd-coredump") {
        return None;
    }
    let digits = run(inner, |b| b.is_ascii_digit());
    let pid = u32::try_from(crate::trace::record::decimal(&inner[..digits])?).ok();
    let message = inner[digits..].strip_prefix(b"]: ")?;
    (e.tag, e.pid, e.in_buffer) = (Some(name), pid, true);
    Some(message)
}

/// `kernel: `, `systemd[1]: ` behind a date alone (`journalctl --no-hostname`).
fn without_host<'a>(rest: &'a [u8], e: &mut Envelope<'a>) -> Option<&'a [u8]> {
    if let Some(message) = rest.strip_prefix(b"kernel: ") {
        e.tag = Some(b"kernel");
        return Some(message);
    }
    let end = run(rest, |b| {
        b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'@')
    });
    let inner = rest[end..].strip_prefix(b"[")?;
    let digits = run(inner, |b| b.is_ascii_digit());
    let pid = u32::try_from(crate::trace::record::decimal(&inner[..digits])?).ok()?;
    let message = inner[digits..].strip_prefix(b"]: ")?;
    if end == 0 || end > MAX_NAME {
        return None;
    }
    (e.tag, e.pid) = (Some(&rest[..end]), Some(pid));
    Some(message)
}

/// A field of an entry in JSON behind a container's time.
pub fn dated_field(line: &[u8]) -> Option<&[u8]> {
    if !line.first()?.is_ascii_digit() || memchr::memchr2(b'"', b'=', &line[..line.len().min(96)]).is_none() {
        return None;
    }
    let (_, rest) = date(line)?;
    let rest = rest.trim_ascii_start();
    let key = rest.strip_prefix(b"\"").unwrap_or(rest);
    let end = run(key, |b| b.is_ascii_uppercase() || b == b'_' || b.is_ascii_digit());
    (end > 1 && matches!(key.get(end), Some(b'"' | b'='))).then_some(rest)
}

/// The part of a line after the last time since boot in it: a console's output ran into another's line.
pub fn interleaved(line: &[u8]) -> Option<usize> {
    let mut end = line.len();
    while let Some(close) = memchr::memrchr(b']', &line[..end]) {
        let open = memchr::memrchr(b'[', &line[..close])?;
        if is_boot(&line[open + 1..close]) && open > 0 && line.get(close + 1) == Some(&b' ') {
            return Some(open);
        }
        end = open;
    }
    None
}

/// What is left of a logger's tag, where a message begins behind this: `NAME[PID]: `, or the end of it.
pub fn torn_tag(before: &[u8]) -> Option<&[u8]> {
    let tag = before.strip_suffix(b": ")?;
    let begin = memchr::memrchr(b' ', tag).map_or(0, |at| at + 1);
    let (_, pid) = tag.strip_suffix(b"]")?.split_at_checked(begin)?;
    let digits = pid.rsplit(|b| *b == b'[').next().unwrap_or_default();
    (!digits.is_empty() && digits.iter().all(u8::is_ascii_alphanumeric)).then(|| &tag[begin..])
}

/// The kernel's `mce: ` before what it prints of machine checks; a mailer may have broken it.
fn machine_checks(message: &[u8]) -> &[u8] {
    let mut rest = message;
    for letter in b"mce:" {
        rest = match rest.strip_prefix(std::slice::from_ref(letter)) {
            Some(rest) => rest.strip_prefix(b" ").unwrap_or(rest),
            None => return message,
        };
    }
    rest
}

/// The number of a line in a pasted list: `12. `, `12: `, `12) `, `12 | `, or with a tab.
fn list_number(rest: &[u8]) -> Option<&[u8]> {
    const ENDS: [&[u8]; 5] = [b". ", b": ", b") ", b" | ", b"\t"];
    let digits = run(rest, |b| b.is_ascii_digit());
    if !(1..=5).contains(&digits) {
        return None;
    }
    let after = &rest[digits..];
    ENDS.iter().find_map(|end| after.strip_prefix(*end))
}

/// RFC 5424's host where none is known.
const NOBODY: &[u8] = b"-";

const FACILITIES: [&[u8]; 8] = [
    b"kern", b"user", b"daemon", b"syslog", b"auth", b"local", b"cron", b"lpr",
];
const LEVELS: [&[u8]; 8] = [
    b"emerg", b"alert", b"crit", b"err", b"warn", b"notice", b"info", b"debug",
];

/// `kern.err`.
fn facility_and_level(word: &[u8]) -> bool {
    word.len() < 16
        && memchr::memchr(b'.', word)
            .is_some_and(|point| FACILITIES.contains(&&word[..point]) && LEVELS.contains(&&word[point + 1..]))
}

/// `kern  :err   : ` of dmesg --decode.
fn facility(rest: &[u8]) -> Option<&[u8]> {
    let colon = memchr::memchr(b':', &rest[..rest.len().min(10)])?;
    let after = &rest[colon + 1..];
    let end = memchr::memchr(b':', &after[..after.len().min(10)])?;
    let known =
        FACILITIES.contains(&rest[..colon].trim_ascii()) && LEVELS.contains(&after[..end].trim_ascii());
    known.then(|| after[end + 1..].trim_ascii_start())
}

/// `db-7 qemu-kvm: …` after QEMU's own date.
fn guest_name(rest: &[u8], by: Dater) -> Option<(&[u8], &[u8])> {
    if by != Dater::Qemu {
        return None;
    }
    let blank = memchr::memchr(b' ', rest)?;
    let (name, next) = (&rest[..blank], rest[blank + 1..].trim_ascii_start());
    (!name.ends_with(b":") && super::program::is_vmm_prefix(next)).then_some((name, next))
}

/// `host tag[pid]: ` or `host tag: `; RFC 5424's `host app pid msgid - `. `strict`: a bare tag must be the kernel's.
fn header<'a>(rest: &'a [u8], e: &mut Envelope<'a>, strict: bool) -> Option<&'a [u8]> {
    if super::kubevirt::begins(rest) {
        return None;
    }
    let name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let end = run(rest, name);
    let mut host = &rest[..end];
    let mut tagged = rest[end..].strip_prefix(b" ")?;
    // Busybox' syslogd and logread: the facility and the level before the tag.
    if facility_and_level(host) {
        (host, tagged) = (NOBODY, &rest[end + 1..]);
    } else {
        // Their names begin with one of these, and a blank follows.
        let may = matches!(
            tagged.first(),
            Some(b'k' | b'u' | b'd' | b's' | b'a' | b'l' | b'c')
        );
        let end = if may { run(tagged, name) } else { 0 };
        if tagged.get(end) == Some(&b' ') && facility_and_level(&tagged[..end]) {
            tagged = &tagged[end + 1..];
        }
    }
    let host_is = host != NOBODY;
    if host.is_empty() || host.len() > MAX_NAME {
        return None;
    }
    let end = run(tagged, |b| !b.is_ascii_whitespace() && !matches!(b, b'[' | b':'));
    let (tag, after) = tagged.split_at(end.min(MAX_NAME));
    if tag.is_empty() {
        return None;
    }
    let (pid, after) = match after.strip_prefix(b"[") {
        Some(inner) => {
            let digits = run(inner, |b| b.is_ascii_digit());
            let pid = crate::trace::record::decimal(&inner[..digits])?;
            (u32::try_from(pid).ok(), inner[digits..].strip_prefix(b"]")?)
        }
        None => (None, after),
    };
    if let Some(message) = after.strip_prefix(b":") {
        let bare = pid.is_none() && tag != b"kernel";
        let a_message = || {
            super::wordings::read(rest).is_some()
                || super::wordings::is_stem(rest)
                || super::libvirt::quoted(rest).is_some()
        };
        if bare && (strict || a_message()) {
            return None;
        }
        e.host = Some(host).filter(|_| host_is);
        e.tag = Some(tag);
        e.pid = pid;
        return Some(message.trim_ascii_start());
    }
    if strict {
        return None;
    }
    if let Some(message) = rfc5424(host, tag, after, e) {
        e.host = e.host.filter(|_| host_is);
        return Some(message);
    }
    // A relay's own name before the host's: `relay1 hv1 kernel: …`.
    header(tagged, e, true)
}

fn rfc5424<'a>(host: &'a [u8], tag: &'a [u8], after: &'a [u8], e: &mut Envelope<'a>) -> Option<&'a [u8]> {
    let mut rest = after.strip_prefix(b" ")?;
    let mut words = [&b""[..]; 2];
    for word in &mut words {
        let end = memchr::memchr(b' ', rest)?;
        *word = &rest[..end];
        rest = &rest[end + 1..];
    }
    rest = match rest.strip_prefix(b"- ") {
        Some(message) => message,
        None => structured(rest)?,
    };
    // A mark of UTF-8 stands before the message.
    rest = rest.strip_prefix(b"\xef\xbb\xbf").unwrap_or(rest);
    let pid = crate::trace::record::decimal(words[0]);
    if pid.is_none() && words[0] != b"-" {
        return None;
    }
    e.host = Some(host);
    e.tag = Some(tag);
    e.pid = pid.and_then(|pid| u32::try_from(pid).ok());
    Some(rest)
}

/// RFC 5424's structured data, `[timeQuality tzKnown="1"][…] `: what follows it.
fn structured(mut rest: &[u8]) -> Option<&[u8]> {
    const MAX: usize = 1024;
    loop {
        let inner = rest.strip_prefix(b"[")?;
        let (mut quoted, mut escaped) = (false, false);
        let end = inner.iter().take(MAX).position(|b| {
            let ends = *b == b']' && !quoted;
            quoted ^= *b == b'"' && !escaped;
            escaped = *b == b'\\' && !escaped;
            ends
        })?;
        memchr::memmem::find(&inner[..end], b"=\"")?;
        rest = &inner[end + 1..];
        if let Some(message) = rest.strip_prefix(b" ") {
            return Some(message);
        }
    }
}

/// `vm1  | …` (docker compose), `[pod/…/guest-console-log] …` (kubectl logs --prefix), `… vmconsole="…"` (kata).
fn relay<'a>(rest: &'a [u8], e: &Envelope<'a>) -> Option<(&'a [u8], &'a [u8])> {
    if e.relay.is_some() {
        return None;
    }
    if let Some(inner) = rest.strip_prefix(b"[pod/") {
        let close = memchr::memchr(b']', &inner[..inner.len().min(2 * MAX_NAME)])?;
        return Some((&rest[1..close + 5], inner[close + 1..].trim_ascii_start()));
    }
    if (rest.starts_with(b"time=") || e.tag == Some(b"kata"))
        && let Some(at) = memchr::memmem::find(rest, b"vmconsole=\"")
    {
        let inner = &rest[at + 11..];
        let end = memchr::memrchr(b'"', inner).unwrap_or(inner.len());
        let name = memchr::memmem::find(rest, b"sandbox=").map_or(&b"kata"[..], |begin| {
            let name = &rest[begin + 8..];
            &name[..run(name, |b| !b.is_ascii_whitespace()).min(MAX_NAME)]
        });
        return Some((name, &inner[..end]));
    }
    let of_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'@');
    // The console's name behind the tag of a console server: `conserver[900]: [vm1] …`.
    if e.tag.is_some_and(|tag| tag != b"kernel")
        && let Some(inner) = rest.strip_prefix(b"[")
    {
        let end = run(inner, of_name);
        let after = inner[end..].strip_prefix(b"] ")?;
        let is_name = end <= MAX_NAME && inner[..end].iter().any(u8::is_ascii_alphabetic);
        return is_name.then(|| (&inner[..end], after.trim_ascii_start()));
    }
    let end = run(rest, of_name);
    let after = rest[end..].trim_ascii_start().strip_prefix(b"|")?;
    (end > 0 && end <= MAX_NAME && after.starts_with(b" ")).then(|| (&rest[..end], after.trim_ascii_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: &str = "Memory failure: 0x1: words";

    #[test]
    fn each_loggers_layers_are_cut_off() {
        let kernel = (Some("host"), Some("kernel"), None);
        for (line, expected) in [
            ("[   34.181197] W", (None, None, None)),
            ("  <3>[   34.181197][  T211] W", (None, None, None)),
            ("[Sun Nov 22 15:45:34 2026] W", (None, None, None)),
            ("[May19 19:57] W", (None, None, None)),
            ("[  +0.000013] W", (None, None, None)),
            ("kern  :err   : [   34.181197] W", (None, None, None)),
            ("3,1234,34181197,-,caller=T211;W", (None, None, None)),
            ("2026-11-22T15:45:34,000000+00:00 W", (None, None, None)),
            ("2026-11-22 15:45:34.123+0000: W", (None, None, None)),
            ("Nov 22 15:45:34 host kernel: W", kernel),
            ("Nov  2 15:45:34.000123 host kernel: [   34.1] W", kernel),
            ("<3>Nov 22 15:45:34 host kernel: W", kernel),
            ("2026-11-22T16:45:34.000000+01:00 host kernel: W", kernel),
            ("Sun 2026-11-22 15:45:34 UTC host kernel: W", kernel),
            ("1795362334.000000 host kernel: W", kernel),
            ("[   34.181197] host kernel: W", kernel),
            ("<3>1 2026-11-22T15:45:34.000Z host kernel - - - W", kernel),
            ("Nov 22 15:45:34 relay1 host kernel: W", kernel),
            (
                "2026-11-22T15:45:34Z relay1.example.org host microvm@vm1[15894]: W",
                (Some("host"), Some("microvm@vm1"), Some(15894)),
            ),
            (
                "Oct 24 10:52:07 host microvm@vm1[15894]: [  157.39] W",
                (Some("host"), Some("microvm@vm1"), Some(15894)),
            ),
            ("vm1  | [  157.39] W", (None, Some("vm1"), None)),
            (
                "[pod/launcher-a/guest-console-log] [ 1.5] W",
                (None, Some("pod/launcher-a/guest-console-log"), None),
            ),
            (
                "Oct 24 10:52:07 host conserver[900]: [vm1] [  157.39] W",
                (Some("host"), Some("vm1"), Some(900)),
            ),
            (
                "Oct 24 10:52:07 host kata[12]: time=\"x\" sandbox=ab12 vmconsole=\"[ 1.5] W\"",
                (Some("host"), Some("ab12"), Some(12)),
            ),
        ] {
            let line = line.replace('W', WORDS);
            let e = open(line.as_bytes());
            assert_eq!(String::from_utf8_lossy(e.message), WORDS, "{line}");
            let sender = e.sender();
            let found = (sender.host.as_deref(), sender.tag.as_deref(), sender.pid);
            assert_eq!(found, expected, "{line}");
        }
    }

    #[test]
    fn what_is_no_layer_stays() {
        for line in [
            "We saw Memory failure: 0x1: words",
            "[Hardware Error]: words",
            "Mon words",
            "2026-11-22 words: more",
            "",
        ] {
            assert_eq!(open(line.as_bytes()).message, line.as_bytes(), "{line}");
        }
        let qemu = open(b"2026-11-22T15:45:34.000000Z db-7 qemu-kvm: warning: words");
        assert_eq!((qemu.guest, qemu.tag), (Some(&b"db-7"[..]), None));
        assert_eq!(interleaved(b"VMM op=mov [    6.97] Memory"), Some(11));
        assert_eq!(torn_tag(b"ov 12 03:14:07 hv c2[55]: "), Some(&b"c2[55]"[..]));
        assert_eq!(torn_tag(b"0x283c4: re55]: "), Some(&b"re55]"[..]));
        for none in [&b"VMM op=mov "[..], b"c2[55] ", b"[a b]: [x.y]: ", b"]: ", b""] {
            assert_eq!(torn_tag(none), None, "{}", String::from_utf8_lossy(none));
        }
    }
}
