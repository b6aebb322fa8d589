//! Times and priorities before a line, by their shape alone: what they mean is read by `clock`.

/// Whether a time since boot, alone or of `/dev/kmsg`, begins here.
pub fn begins_with_boot(text: &[u8]) -> bool {
    kmsg(text).is_some() || matches!(bracket(text), Some((Bracket::Boot, _)))
}

/// Whether a date begins here.
pub fn begins_with_date(text: &[u8]) -> bool {
    date(text).is_some() || matches!(bracket(text), Some((Bracket::Date, _)))
}

/// Whether the priority of a kernel's or a logger's line begins here.
pub fn begins_with_priority(text: &[u8]) -> bool {
    priority(text).is_some_and(|rest| begins_with_boot(rest) || begins_with_date(rest))
}

pub fn priority(rest: &[u8]) -> Option<&[u8]> {
    let inner = rest.strip_prefix(b"<")?;
    let end = memchr::memchr(b'>', &inner[..inner.len().min(4)])?;
    let digits = end > 0 && inner[..end].iter().all(u8::is_ascii_digit);
    digits
        .then(|| &inner[end + 1..])
        .map(|rest| rest.strip_prefix(b"1 ").unwrap_or(rest))
}

/// `3,1234,34181197,-,caller=T211;words`.
pub fn kmsg(rest: &[u8]) -> Option<&[u8]> {
    if !rest.first()?.is_ascii_digit() {
        return None;
    }
    let end = memchr::memchr(b';', &rest[..rest.len().min(96)])?;
    let mut fields = rest[..end].split(|b| *b == b',');
    let numbers = fields
        .by_ref()
        .take(3)
        .filter(|field| !field.is_empty() && field.iter().all(u8::is_ascii_digit));
    (numbers.count() == 3).then(|| &rest[end + 1..])
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Bracket {
    Boot,
    Thread,
    Date,
}

/// `[   34.181197]`, `[  +0.000013]`, `[  T211]`, `[Sun Nov 22 15:45:34 2026]`, `[May19 19:57]`.
pub fn bracket(rest: &[u8]) -> Option<(Bracket, &[u8])> {
    let inner = rest.strip_prefix(b"[")?;
    let close = memchr::memchr(b']', &inner[..inner.len().min(40)])?;
    let after = &inner[close + 1..];
    let text = inner[..close].trim_ascii();
    let kind = if is_boot(text) {
        Bracket::Boot
    } else if matches!(text.first(), Some(b'T' | b'C'))
        && text.len() > 1
        && text[1..].iter().all(u8::is_ascii_digit)
    {
        Bracket::Thread
    } else if memchr::memchr(b':', text).is_some() && (month(text).is_some() || iso(text).is_some()) {
        Bracket::Date
    } else {
        return None;
    };
    Some((kind, after.trim_ascii_start()))
}

pub fn is_boot(text: &[u8]) -> bool {
    let text = text.trim_ascii();
    let text = text.strip_prefix(b"+").unwrap_or(text);
    let text = without_delta(text);
    let Some(point) = memchr::memchr(b'.', text) else {
        return false;
    };
    let digits = |part: &[u8]| !part.is_empty() && part.iter().all(u8::is_ascii_digit);
    digits(&text[..point]) && digits(&text[point + 1..])
}

/// The time of `journalctl -o short-delta`, `900.200000 <    0.100000 >`.
pub fn without_delta(text: &[u8]) -> &[u8] {
    match memchr::memmem::find(text, b" <") {
        Some(at) if text.ends_with(b">") => text[..at].trim_ascii_end(),
        _ => text,
    }
}

/// Where a month's name begins, at the start or after a weekday's.
fn month(text: &[u8]) -> Option<usize> {
    let is = |at: usize| {
        let name: &[u8; 3] = text.get(at..at + 3)?.try_into().ok()?;
        let known = matches!(
            name,
            b"Jan"
                | b"Feb"
                | b"Mar"
                | b"Apr"
                | b"May"
                | b"Jun"
                | b"Jul"
                | b"Aug"
                | b"Sep"
                | b"Oct"
                | b"Nov"
                | b"Dec"
        );
        known.then_some(at)
    };
    is(0).or_else(|| is(4).filter(|_| weekday(text)))
}

fn weekday(text: &[u8]) -> bool {
    const DAYS: &[u8] = b"MonTueWedThuFriSatSun";
    text.len() > 4 && text[3] == b' ' && DAYS.chunks(3).any(|day| text.starts_with(day))
}

/// Whose way of writing a date it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Dater {
    Qemu,
    Libvirt,
    Another,
}

/// A date before a line, and what follows it.
pub fn date(rest: &[u8]) -> Option<(Dater, &[u8])> {
    let text = if weekday(rest) { &rest[4..] } else { rest };
    let first = *text.first()?;
    if first.is_ascii_digit() {
        let dated = iso(text).or_else(|| epoch(text).map(|rest| (Dater::Another, rest)));
        return match weekday(rest) {
            // journalctl -o short-full.
            true => dated.map(|(by, after)| (by, without_zone(&rest[..rest.len() - after.len()], after))),
            false => dated,
        };
    }
    // Nov 22 15:45:34, with a fraction or none.
    (month(text) == Some(0)).then_some(())?;
    let day = text.get(3..7)?;
    let day_is =
        day[0] == b' ' && day[1..3].iter().all(|b| b.is_ascii_digit() || *b == b' ') && day[3] == b' ';
    let after = &text[7..];
    let end = run(after, |b| b.is_ascii_digit() || matches!(b, b':' | b'.'));
    (day_is && end >= 8).then(|| (Dater::Another, without_year(after[end..].trim_ascii_start())))
}

/// `CET `, `+03 `: the zone behind a date, where it is not UTC, which was cut off with it.
fn without_zone<'a>(date: &[u8], rest: &'a [u8]) -> &'a [u8] {
    let letters = run(rest, |b| b.is_ascii_uppercase());
    let hours = match rest.first() {
        Some(b'+' | b'-') => 1 + run(&rest[1..], |b| b.is_ascii_digit()),
        _ => 0,
    };
    let end = letters.max(hours);
    match rest.get(end) {
        Some(b' ') if (3..=5).contains(&end) && !date.trim_ascii_end().ends_with(b"UTC") => {
            rest[end..].trim_ascii_start()
        }
        _ => rest,
    }
}

/// The year behind a time, as ctime(3) has it.
fn without_year(rest: &[u8]) -> &[u8] {
    match rest {
        [b'1' | b'2', b'9' | b'0', a, b, b' ', after @ ..] if a.is_ascii_digit() && b.is_ascii_digit() => {
            after
        }
        _ => rest,
    }
}

pub fn run(text: &[u8], of: impl Fn(u8) -> bool) -> usize {
    text.iter().position(|b| !of(*b)).unwrap_or(text.len())
}

/// `2026-11-22T15:45:34.123456Z`, `2026-11-22 15:45:34.123+0000:`, `2026-11-22 15:45:34 UTC`.
fn iso(text: &[u8]) -> Option<(Dater, &[u8])> {
    let shape = |at: usize| match at {
        4 | 7 => text.get(at) == Some(&b'-'),
        10 => matches!(text.get(at), Some(b'T' | b' ')),
        13 | 16 => text.get(at) == Some(&b':'),
        _ => text.get(at).is_some_and(u8::is_ascii_digit),
    };
    if !(0..19).all(shape) {
        return None;
    }
    let rest = &text[19..];
    let fraction = run(rest, |b| b.is_ascii_digit() || matches!(b, b'.' | b','));
    let mut after = &rest[fraction..];
    let qemu = fraction == 7 && after.starts_with(b"Z ");
    if let Some(zone) = after
        .strip_prefix(b" ")
        .filter(|zone| matches!(zone.first(), Some(b'+' | b'-')))
    {
        after = zone;
    }
    let zone = match after.first() {
        Some(b'Z') => 1,
        Some(b'+' | b'-') => zone(&after[1..]),
        _ => 0,
    };
    after = &after[zone..];
    let after = after.strip_prefix(b" UTC").unwrap_or(after);
    let (by, after) = match after.strip_prefix(b":") {
        Some(after) => (Dater::Libvirt, after),
        None if qemu => (Dater::Qemu, after),
        None => (Dater::Another, after),
    };
    Some((by, after.trim_ascii_start()))
}

/// Length of `+0000` or `+00:00`.
fn zone(digits: &[u8]) -> usize {
    let hours = run(digits, |b| b.is_ascii_digit());
    let minutes = digits
        .get(hours + 1..)
        .map_or(0, |rest| run(rest, |b| b.is_ascii_digit()));
    match (hours, digits.get(2), minutes) {
        (2, Some(b':'), 2) => 6,
        (2 | 4, ..) => 1 + hours,
        _ => 0,
    }
}

/// `1795362334.000000 `.
fn epoch(text: &[u8]) -> Option<&[u8]> {
    let whole = run(text, |b| b.is_ascii_digit());
    let rest = text[whole..].strip_prefix(b".").filter(|_| whole == 10)?;
    let end = run(rest, |b| b.is_ascii_digit());
    rest[end..].strip_prefix(b" ").filter(|_| end > 0)
}
