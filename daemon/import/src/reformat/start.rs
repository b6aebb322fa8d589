//! Whether a line begins a record of its own. No mailer's continuation does: it begins in the middle of one.

/// What begins with a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begins {
    /// None: it may go on what the line before began.
    Nothing,
    Record,
    /// A record of a trace.
    Traced,
}

/// Whether a time, a priority, an object of JSON or a task of a trace stands at the line's begin.
pub fn begins(line: &[u8]) -> Begins {
    let line = line.trim_ascii_start();
    let Some(first) = line.first() else {
        return Begins::Nothing;
    };
    let record = match first {
        b'[' => bracket(&line[1..]),
        b'<' => priority(&line[1..]),
        b'{' => apei(line) || matches!(line.get(1), None | Some(b'"' | b'\'' | b'\n')),
        b'0'..=b'9' => date(line) || seconds_since_1970(line) || kmsg(line),
        b'A'..=b'Z' => named_date(line),
        b'k' => line.starts_with(b"kern  :"),
        _ => false,
    };
    if record {
        Begins::Record
    } else if task(line) {
        Begins::Traced
    } else {
        Begins::Nothing
    }
}

pub fn begins_record(line: &[u8]) -> bool {
    begins(line) != Begins::Nothing
}

/// Whether a line of a logger, or an object of JSON, begins here: both have their own time.
pub fn dated_itself(line: &[u8]) -> bool {
    if field(line.trim_ascii_start()) {
        return true;
    }
    match line.first() {
        Some(b'{') => matches!(line.get(1), None | Some(b'"')),
        Some(b'<') => priority(&line[1..]),
        Some(b'A'..=b'Z') => named_date(line),
        Some(b'0'..=b'9') => date(line) || seconds_since_1970(line) || kmsg(line),
        _ => false,
    }
}

/// A field of a journal's entry on a line of its own: `_PID=…`.
fn field(line: &[u8]) -> bool {
    let name = line
        .iter()
        .take(64)
        .take_while(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || **b == b'_')
        .count();
    name > 1 && line.get(name) == Some(&b'=')
}

/// `[   34.150533]`, `[Sun Nov 22 …]`, `[Nov22 15:45]`, `[  +0.000123]`.
fn bracket(rest: &[u8]) -> bool {
    let inner = rest.trim_ascii_start();
    let digits = inner.strip_prefix(b"+").unwrap_or(inner);
    let whole = digits.iter().take_while(|b| b.is_ascii_digit()).count();
    if whole > 0 {
        return digits.get(whole) == Some(&b'.') || date(digits);
    }
    month(inner) || (weekday(inner) && inner.get(3) == Some(&b' '))
}

/// Syslog's `<3>`.
fn priority(rest: &[u8]) -> bool {
    let digits = rest.iter().take(4).take_while(|b| b.is_ascii_digit()).count();
    (1..=3).contains(&digits) && rest.get(digits) == Some(&b'>')
}

/// `{35}[Hardware Error]`: a sequence number of APEI.
fn apei(line: &[u8]) -> bool {
    let digits = line[1..]
        .iter()
        .take(12)
        .take_while(|b| b.is_ascii_digit())
        .count();
    digits > 0 && line[1 + digits..].starts_with(b"}[")
}

/// `2026-11-22T15:45` or with a blank.
pub fn date(line: &[u8]) -> bool {
    line.len() >= 16
        && line[..4].iter().all(u8::is_ascii_digit)
        && matches!(line[4], b'-' | b'/')
        && matches!(line[10], b'T' | b' ' | b'\t' | b',')
        && line[13] == b':'
}

fn seconds_since_1970(line: &[u8]) -> bool {
    line.len() > 11 && line[..10].iter().all(u8::is_ascii_digit) && line[10] == b'.'
}

/// `3,1234,34181197,-;`
fn kmsg(line: &[u8]) -> bool {
    let head = &line[..line.len().min(48)];
    memchr::memchr(b';', head).is_some_and(|end| {
        let fields: Vec<&[u8]> = head[..end].split(|b| *b == b',').collect();
        fields.len() >= 4
            && fields[..3]
                .iter()
                .all(|f| !f.is_empty() && f.iter().all(u8::is_ascii_digit))
    })
}

/// `Nov 22 15:45:34`, `Sun 2026-11-22 15:45:34`, `Sun Nov 22 15:45:34`.
pub fn named_date(line: &[u8]) -> bool {
    if weekday(line) && line.get(3) == Some(&b' ') {
        return date(&line[4..]) || named_date(&line[4..]);
    }
    month(line)
        && matches!(line.get(3), Some(b' ' | b'\t'))
        && line.len() >= 12
        && memchr::memchr(b':', &line[6..line.len().min(12)]).is_some()
}

fn month(line: &[u8]) -> bool {
    const MONTHS: [&[u8]; 12] = [
        b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec",
    ];
    line.get(..3).is_some_and(|name| MONTHS.contains(&name))
}

fn weekday(line: &[u8]) -> bool {
    const DAYS: [&[u8]; 7] = [b"Mon", b"Tue", b"Wed", b"Thu", b"Fri", b"Sat", b"Sun"];
    line.get(..3).is_some_and(|name| DAYS.contains(&name))
}

/// `qemu-4711 [003]`: a record of a trace.
fn task(line: &[u8]) -> bool {
    let head = &line[..line.len().min(64)];
    memchr::memchr_iter(b'[', head).any(|open| {
        line.get(open + 1..open + 5)
            .is_some_and(|cpu| cpu[..3].iter().all(u8::is_ascii_digit) && cpu[3] == b']')
    })
}

#[cfg(test)]
mod tests {
    use super::begins_record;

    #[test]
    fn records_of_each_logger_begin_one() {
        for line in [
            "[   34.150533] Memory failure",
            "[  +0.000123] Memory failure",
            "[Nov22 15:45] Memory failure",
            "[Sun Nov 22 15:45:34 2026] Memory failure",
            "<3>Nov 22 15:45:34 host kernel: x",
            "<3>[   34.1] x",
            "kern  :err   : [   34.1] x",
            "3,1234,34181197,-,caller=T211;x",
            "Nov 22 15:45:34 host kernel: x",
            "Sun 2026-11-22 15:45:34 UTC host kernel: x",
            "2026-11-22T15:45:34+0000 host kernel: x",
            "2026-11-22 15:45:34.000+0000: shutting down",
            "1795362334.000000 host kernel: x",
            "{35}[Hardware Error]: x",
            "{\"MESSAGE\":\"x\"}",
            "    qemu-35787 [038] ....  2825.959082: kvm_exit: x",
        ] {
            assert!(begins_record(line.as_bytes()), "{line}");
        }
    }

    #[test]
    fn the_rest_of_a_record_begins_none() {
        for line in [
            "",
            "due to hardware memory corruption",
            "118cb9000",
            "Bank 9: bc00000000000000",
            "Recovered",
            "0xfd11d info 100000014 fd000",
            "Mon pays",
            "<ffffffff81e8f6ff> {memcpy_erms+0x6/0x10}",
            "[Hardware Error]: RIP",
            "2026",
        ] {
            assert!(!begins_record(line.as_bytes()), "{line}");
        }
    }
}
