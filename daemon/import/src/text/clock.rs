//! Times that stand before log lines.

use jiff::{civil, tz::TimeZone};

use crate::trace::record::{decimal, seconds};

/// Dates without a year are counted in this one: a leap year, as one may be of 29 February.
pub const OF_NO_YEAR: i16 = 1972;

/// When a line was logged, on the clocks that it shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Stamp {
    /// Since boot (printk), nanoseconds.
    pub boot: Option<u64>,
    /// Since the epoch, nanoseconds.
    pub wall: Option<i64>,
    /// The wall clock's date has no year.
    pub no_year: bool,
    /// The wall clock's zone is not shown: it is some place's own.
    pub local: bool,
}

impl Stamp {
    /// The wall clock's time with what the log shows of it: neither a year nor a zone that it omits.
    pub fn shown(&self) -> Option<String> {
        let at = jiff::Timestamp::from_nanosecond(i128::from(self.wall?)).ok()?;
        let civil = at.to_zoned(TimeZone::UTC).datetime();
        Some(match (self.no_year, self.local) {
            (true, _) => civil.strftime("%b %e %H:%M:%S%.f").to_string(),
            (false, true) => civil.to_string(),
            (false, false) => at.to_string(),
        })
    }
}

/// The clock of `dmesg -H`: a date to the minute where one begins, then the time since the line before.
#[derive(Clone, Copy, Debug, Default)]
pub struct Human {
    /// In the year of [`Stamp::no_year`], nanoseconds.
    now: Option<i64>,
}

impl Human {
    /// The time of a line, to the minute; `None` for lines of another clock.
    pub fn line(&mut self, line: &[u8]) -> Option<i64> {
        let inner = line.strip_prefix(b"[")?;
        match inner.trim_ascii_start().first()? {
            b'+' => {
                let close = memchr::memchr(b']', &inner[..inner.len().min(32)])?;
                let since = seconds(inner[..close].trim_ascii().strip_prefix(b"+")?)?;
                self.now = self.now?.checked_add(i64::try_from(since).ok()?);
            }
            b'A'..=b'Z' => self.now = Some(to_the_minute(inner)?),
            _ => return None,
        }
        self.now
    }
}

/// `Nov30 04:41]`.
fn to_the_minute(inner: &[u8]) -> Option<i64> {
    let close = memchr::memchr(b']', &inner[..inner.len().min(16)])?;
    let text = std::str::from_utf8(&inner[..close]).ok()?;
    let (date, time) = text.split_once(' ')?;
    let time = format!("{}:00", time.trim());
    parts(
        Some(OF_NO_YEAR),
        date.get(..3),
        date.get(3..).map(str::trim),
        Some(&time),
    )
}

/// How far into a line a date can begin and end.
const DATE_WITHIN: usize = 64;

/// The times that `line` shows for what stands at `at`.
pub fn stamp(line: &[u8], at: usize) -> Stamp {
    let before = &line[..at.min(line.len())];
    if let Some(boot) = kmsg(before) {
        return Stamp {
            boot: Some(boot),
            ..Stamp::default()
        };
    }
    if let Some(date) = rasdaemon(line, at) {
        return date;
    }
    Stamp {
        boot: printk(before),
        ..wall(&line[..line.len().min(DATE_WITHIN)])
    }
}

/// `3,1234,34150533,-;`: /dev/kmsg and netconsole, microseconds since boot.
fn kmsg(before: &[u8]) -> Option<u64> {
    let head = &before[..memchr::memchr(b';', before)?];
    let mut fields = head.split(|b| *b == b',');
    decimal(fields.next()?)?;
    decimal(fields.next()?)?;
    decimal(fields.next()?)?.checked_mul(1000)
}

/// rasdaemon's own date stands after the event's name; before it stands a time since nothing in particular.
fn rasdaemon(line: &[u8], at: usize) -> Option<Stamp> {
    let rest = line.get(at..)?.strip_prefix(b"memory_failure_event")?;
    let rest = &rest[..rest.len().min(2 * DATE_WITHIN)];
    let text = String::from_utf8_lossy(rest);
    let begin = text.find(|c: char| c.is_ascii_digit())?;
    iso(text.get(begin..)?)
}

/// The last `[ SECONDS.MICROS]` of `before`; `[ SECONDS.MICROS][ T123]` too. Consoles interleave: the nearest
/// one is the line's.
pub fn printk(before: &[u8]) -> Option<u64> {
    let mut end = before.len();
    while let Some(close) = memchr::memrchr(b']', &before[..end]) {
        let open = memchr::memrchr(b'[', &before[..close])?;
        let inner = super::prefix::without_delta(before[open + 1..close].trim_ascii());
        if inner.contains(&b'.')
            && let Some(t) = seconds(inner)
        {
            return Some(t);
        }
        end = open;
    }
    None
}

fn wall(line: &[u8]) -> Stamp {
    let text: String = line
        .iter()
        .map(|b| if b.is_ascii() { char::from(*b) } else { '?' })
        .collect();
    let text = text.trim_start();
    // Syslog's priority, and RFC 5424's version.
    let text = match text.strip_prefix('<').and_then(|rest| rest.split_once('>')) {
        Some((priority, rest)) if priority.bytes().all(|b| b.is_ascii_digit()) => {
            rest.strip_prefix("1 ").unwrap_or(rest)
        }
        _ => text,
    };
    // journalctl's short-full: the weekday first.
    let text = match text.split_once(' ') {
        Some(("Mon" | "Tue" | "Wed" | "Thu" | "Fri" | "Sat" | "Sun", rest)) => rest,
        _ => text,
    };
    if let Some(stamp) = iso(text).or_else(|| unix(text)) {
        return stamp;
    }
    if let Some(inner) = text.strip_prefix('[') {
        // dmesg -T: [Sun Nov 22 15:45:34 2026]
        let inner = inner.split(']').next().unwrap_or_default();
        let mut words = inner.split_whitespace();
        let (_, month, day, time, year) = (
            words.next(),
            words.next(),
            words.next(),
            words.next(),
            words.next(),
        );
        return Stamp {
            wall: parts(year.and_then(|y| y.parse().ok()), month, day, time),
            local: true,
            ..Stamp::default()
        };
    }
    let mut words = text.split_whitespace();
    let (month, day, time) = (words.next(), words.next(), words.next());
    let year: Option<i16> = words
        .next()
        .filter(|word| word.len() == 4)
        .and_then(|year| year.parse().ok());
    let year = year.filter(|year| (1990..2100).contains(year));
    Stamp {
        wall: parts(year.or(Some(OF_NO_YEAR)), month, day, time),
        no_year: year.is_none(),
        local: true,
        ..Stamp::default()
    }
}

/// `1795362334.123456`: seconds since the epoch (journalctl's short-unix), of this century.
fn unix(text: &str) -> Option<Stamp> {
    let word = text.split_whitespace().next()?;
    word.split_once('.').filter(|(whole, _)| whole.len() == 10)?;
    Some(Stamp {
        wall: Some(i64::try_from(seconds(word.as_bytes())?).ok()?),
        ..Stamp::default()
    })
}

fn parts(year: Option<i16>, month: Option<&str>, day: Option<&str>, time: Option<&str>) -> Option<i64> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let month = MONTHS.iter().position(|name| Some(*name) == month)? as i8 + 1;
    let date = civil::Date::new(year?, month, day?.parse().ok()?).ok()?;
    nanoseconds(date, clock(time?)?, 0)
}

/// `15:45:34` with an optional fraction to nanoseconds of the day.
fn clock(time: &str) -> Option<i64> {
    let mut parts = time.split(':');
    let hours: i64 = parts.next()?.parse().ok()?;
    let minutes: i64 = parts.next()?.parse().ok()?;
    let rest = seconds(parts.next()?.replace(',', ".").as_bytes())?;
    let whole = time.contains(['.', ',']);
    let rest = if whole {
        rest
    } else {
        rest.checked_mul(1_000_000_000)?
    };
    let rest = i64::try_from(rest).ok()?;
    ((0..24).contains(&hours) && (0..60).contains(&minutes) && rest < 61_000_000_000)
        .then(|| (hours * 60 + minutes) * 60_000_000_000 + rest)
}

fn nanoseconds(date: civil::Date, of_day: i64, east_seconds: i64) -> Option<i64> {
    let midnight = date.to_zoned(TimeZone::UTC).ok()?.timestamp().as_nanosecond();
    i64::try_from(midnight)
        .ok()?
        .checked_add(of_day)?
        .checked_sub(east_seconds * 1_000_000_000)
}

/// `2026-11-22T15:45:34.123456Z`, with a blank for the T, a comma for the point, `+0000` or `+00:00`, a blank
/// before that. Without a zone, and with one that has only a name, it is taken for UTC.
fn iso(text: &str) -> Option<Stamp> {
    let date: civil::Date = text.get(..10)?.parse().ok()?;
    let rest = text.get(11..)?;
    if !matches!(text.as_bytes().get(10), Some(b'T' | b' ')) {
        return None;
    }
    let end = rest
        .find(|c: char| !(c.is_ascii_digit() || matches!(c, ':' | '.' | ',')))
        .unwrap_or(rest.len());
    let of_day = clock(rest[..end].trim_end_matches(':'))?;
    let zone = &rest[end..];
    let zone = zone.strip_prefix(' ').filter(|zone| offset(zone)).unwrap_or(zone);
    let local = !(zone.starts_with(['+', '-', 'Z']) || zone.starts_with(" UTC"));
    let east = match zone.as_bytes().first() {
        Some(sign @ (b'+' | b'-')) => {
            let digits: String = zone[1..].chars().filter(|c| *c != ':').take(4).collect();
            let hours: i64 = digits.get(..2)?.parse().ok()?;
            let minutes: i64 = digits.get(2..4).and_then(|m| m.parse().ok()).unwrap_or(0);
            let east = hours * 3600 + minutes * 60;
            if *sign == b'-' { -east } else { east }
        }
        _ => 0,
    };
    Some(Stamp {
        wall: Some(nanoseconds(date, of_day, east)?),
        local,
        ..Stamp::default()
    })
}

/// Whether the text begins with `+0100` or the like.
fn offset(text: &str) -> bool {
    let mut bytes = text.bytes();
    matches!(bytes.next(), Some(b'+' | b'-'))
        && bytes.by_ref().take(2).filter(u8::is_ascii_digit).count() == 2
}

#[cfg(test)]
mod tests {
    use super::*;

    const WALL: i64 = 1_795_362_334_000_000_000;

    fn of(line: &str) -> Stamp {
        stamp(line.as_bytes(), line.find("Memory").unwrap())
    }

    #[test]
    fn dmesg_counts_on_from_the_line_before() {
        const MINUTE: i64 = 60_000_000_000;
        let mut human = Human::default();
        assert_eq!(
            human.line(b"[  +0.000013] x"),
            None,
            "since nothing that is known"
        );
        let begin = human.line(b"[May19 19:57] x").unwrap();
        assert_eq!(human.line(b"[  +0.000013] x"), Some(begin + 13_000));
        assert_eq!(human.line(b"[   34.181197] x"), None);
        assert_eq!(human.line(b"[ +62.000000] x"), Some(begin + 62_000_013_000));
        assert_eq!(human.line(b"[May19 19:58] x"), Some(begin + MINUTE));
        for other in ["[", "[+", "[Sun Nov 22 15:45:34 2026] x", "[  T211] x", "[+1"] {
            assert_eq!(human.line(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn the_ways_in_which_logs_tell_the_time() {
        let boot = Some(34_150_533_000);
        assert_eq!(of("[   34.150533] Memory failure").boot, boot);
        assert_eq!(of("<6>[   34.150533][  T211] Memory failure").boot, boot);
        assert_eq!(of("VMM op=mov mode=[   34.150533] Memory failure").boot, boot);
        for line in [
            "2026-11-22T15:45:34+0000 host kernel: Memory failure",
            "2026-11-22T16:45:34+01:00 host kernel: Memory failure",
            "2026-11-22T15:45:34Z qemu-system-x86_64: Memory",
            "2026-11-22 15:45:34.000+0000: Memory",
            "2026-11-22T15:45:34,000000+00:00 Memory failure",
            "[Sun Nov 22 15:45:34 2026] Memory failure",
            "Sun 2026-11-22 15:45:34 UTC host kernel: Memory failure",
            "1795362334.000000 host kernel: Memory failure",
            "<3>1 2026-11-22T15:45:34.000Z host kernel - - - Memory failure",
            "2026-11-22 16:45:34 +0100 Memory failure",
        ] {
            assert_eq!((of(line).wall, of(line).no_year), (Some(WALL), false), "{line}");
        }
        let short = of("Nov 22 15:45:34 host kernel: [   34.150533] Memory failure");
        assert_eq!((short.boot, short.no_year), (boot, true));
        let syslog = of("<3>Nov 22 15:45:34 host kernel: Memory failure");
        assert!(syslog.no_year && syslog.wall.is_some());
        assert_eq!(of("3,1234,34150533,-;Memory failure").boot, boot);
        assert_eq!(of("kern  :err   : [   34.150533] Memory failure").boot, boot);
        let of_rasdaemon =
            "kworker/0:1-71 [000] 0.003300: memory_failure_event: 2026-11-22 16:45:34 +0100 pfn=0x1";
        let at = of_rasdaemon.find("memory").unwrap();
        assert_eq!(stamp(of_rasdaemon.as_bytes(), at).wall, Some(WALL));
        assert_eq!(of("Memory failure").wall, None);
        for (line, shown) in [
            ("Dec  1 07:00:01 host kernel: Memory failure", "Dec  1 07:00:01"),
            ("Feb 29 07:00:01 host kernel: Memory failure", "Feb 29 07:00:01"),
            (
                "Dec  1 07:00:01.250 host kernel: Memory failure",
                "Dec  1 07:00:01.25",
            ),
            ("[Sun Nov 22 15:45:34 2026] Memory failure", "2026-11-22T15:45:34"),
            ("2026-11-22T16:45:34+01:00 Memory failure", "2026-11-22T15:45:34Z"),
        ] {
            assert_eq!(of(line).shown().as_deref(), Some(shown), "{line}");
        }
        assert_eq!(of("2026-99-22T15:45:34Z Memory").wall, None);
    }
}
