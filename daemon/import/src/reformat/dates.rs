//! Dates as other places and tools write them, as one of those that all loggers share: `Okt 22`, `22/11/2026`, `11月 22`.

/// Where a date ends at the latest.
const WITHIN: usize = 48;

/// Months as `strftime(%b)` has them in other languages, without a point at their end, in lower case.
const MONTHS: [&[&str]; 12] = [
    &[
        "jan", "janv", "ene", "gen", "sty", "янв", "led", "oca", "tam", "ocak", "ian",
    ],
    &["feb", "févr", "fév", "fev", "lut", "фев", "úno", "şub", "helmi"],
    &[
        "mar", "mär", "märz", "mars", "mrt", "мар", "bře", "maalis", "márc", "már",
    ],
    &[
        "apr", "avril", "avr", "abr", "kwi", "апр", "dub", "nis", "huhti", "ápr",
    ],
    &[
        "may", "mai", "mag", "mei", "maj", "мая", "май", "kvě", "touko", "máj",
    ],
    &[
        "jun", "juin", "giu", "cze", "июн", "čen", "haz", "kesä", "jún", "iun",
    ],
    &[
        "jul", "juil", "lug", "lip", "июл", "čec", "tem", "heinä", "júl", "iul",
    ],
    &["aug", "août", "ago", "sie", "авг", "srp", "ağu", "elo"],
    &["sep", "sept", "set", "wrz", "сен", "zář", "eyl", "syys", "szept"],
    &["oct", "okt", "ott", "out", "paź", "окт", "říj", "eki", "loka"],
    &["nov", "lis", "ноя", "kas", "marras", "noi"],
    &[
        "dec", "dez", "déc", "dic", "gru", "дек", "pro", "ara", "joulu", "des",
    ],
];
const ENGLISH: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// Rewrites the date at the begin of a line that is of no logger's shape; whether it did.
pub fn plain(line: &mut Vec<u8>) -> bool {
    let bracketed = line.first() == Some(&b'[');
    let from = usize::from(bracketed);
    let head = &line[from..line.len().min(from + WITHIN)];
    let clock = head.windows(3).any(|w| {
        let [a, b, c] = w else { return false };
        *b == b':' && a.is_ascii_digit() && c.is_ascii_digit()
    });
    let begins = head
        .first()
        .is_some_and(|b| b.is_ascii_alphanumeric() || !b.is_ascii());
    if !clock || !begins {
        return false;
    }
    // A character may be cut at the end.
    let head = String::from_utf8_lossy(head).into_owned();
    let Some((date, length)) = read(&head, bracketed) else {
        return false;
    };
    line.splice(from..from + length, date.into_bytes());
    true
}

/// The date that text begins with, and how long it is there.
fn read(text: &str, bracketed: bool) -> Option<(String, usize)> {
    let mut date = Date::default();
    let mut end = 0;
    while !date.whole(bracketed) {
        let rest = &text[end..];
        let blanks = rest.len() - rest.trim_start_matches([' ', '@', ',']).len();
        let rest = &rest[blanks..];
        let length = rest.find([' ', ',', '\t', ']']).unwrap_or(rest.len());
        let word = &rest[..length];
        // What ends with the text may be cut.
        if word.is_empty() || length == rest.len() {
            break;
        }
        if !date.word(word) {
            break;
        }
        end += blanks + length;
    }
    date.afternoon(&text[end..], &mut end);
    let of_bracket = !bracketed || text[end..].starts_with(']');
    let text = date.text(bracketed).filter(|_| of_bracket)?;
    Some((text, end))
}

#[derive(Default)]
struct Date<'a> {
    weekday: bool,
    year: Option<u16>,
    month: Option<usize>,
    day: Option<u8>,
    /// Hours, and what stands behind them.
    time: Option<(u8, &'a str)>,
    /// Day and month in numbers, of which nothing shows which is which.
    unclear: bool,
    /// Words that were read.
    words: u8,
}

impl<'a> Date<'a> {
    /// A year may stand at the end of a bracket, behind a zone.
    fn whole(&self, bracketed: bool) -> bool {
        let dated = self.month.is_some() && self.day.is_some() || self.unclear;
        self.time.is_some() && dated && (!bracketed || self.year.is_some())
    }

    fn word(&mut self, word: &'a str) -> bool {
        self.words += 1;
        const MAX_WORDS: u8 = 6;
        if self.words > MAX_WORDS {
            return false;
        }
        if word.contains(':') {
            return self.time.is_none() && self.clock(word);
        }
        if let Some(month) = month(word).filter(|_| self.month.is_none()) {
            self.month = Some(month);
            return true;
        }
        if let Some(parts) = parts(word) {
            return self.month.is_none() && self.numbers(parts);
        }
        let number: Option<u16> = word.parse().ok();
        match number {
            Some(year @ 1990..2100) if word.len() == 4 && self.year.is_none() => self.year = Some(year),
            Some(day @ 1..=31) if word.len() <= 2 && self.day.is_none() => {
                self.day = u8::try_from(day).ok();
            }
            Some(_) => return false,
            // A weekday stands first; a zone behind the time, in a bracket.
            None if self.words == 1 && word.chars().count() <= 4 => self.weekday = true,
            None => return self.time.is_some() && word.bytes().all(|b| b.is_ascii_uppercase()),
        }
        true
    }

    fn clock(&mut self, word: &'a str) -> bool {
        let Some((hours, rest)) = word.split_once(':') else {
            return false;
        };
        let of_clock = rest
            .bytes()
            .all(|b| b.is_ascii_digit() || matches!(b, b':' | b'.'));
        let seconds = rest.split(':').count() == 2 && rest.as_bytes().get(2) == Some(&b':');
        let Ok(hours) = hours.parse() else { return false };
        self.time = Some((hours, rest));
        of_clock && seconds && hours < 24
    }

    /// `22/11/2026`, `2026/11/22`, `22.11.2026`, `22-Nov-2026`.
    fn numbers(&mut self, [a, b, c]: [&str; 3]) -> bool {
        let number = |text: &str| text.parse::<u16>().ok().filter(|_| text.len() <= 4);
        if let Some(named) = month(b) {
            self.month = Some(named);
            self.day = a.parse().ok();
            self.year = number(c);
            return self.day.is_some() && self.year.is_some();
        }
        let (Some(a), Some(b), Some(c)) = (number(a), number(b), number(c)) else {
            return false;
        };
        let (year, month, day) = match (a, b, c) {
            (1990..2100, 1..=12, 1..=31) => (a, b, c),
            (13..=31, 1..=12, 1990..2100) => (c, b, a),
            (1..=12, 13..=31, 1990..2100) => (c, a, b),
            (1..=12, 1..=12, 1990..2100) if a == b => (c, a, b),
            (1..=12, 1..=12, 1990..2100) => {
                self.unclear = true;
                return true;
            }
            _ => return false,
        };
        self.year = Some(year);
        self.month = Some(usize::from(month) - 1);
        self.day = u8::try_from(day).ok();
        true
    }

    /// ` PM` behind the time.
    fn afternoon(&mut self, rest: &str, end: &mut usize) {
        let Some((hours, _)) = &mut self.time else { return };
        let rest = rest.strip_prefix(' ').unwrap_or_default();
        let of_day = [("AM", 0), ("PM", 12)];
        let word = rest.split([' ', ',', '\t', ']']).next().unwrap_or_default();
        if let Some((_, add)) = of_day
            .iter()
            .find(|(name, _)| *name == word)
            .filter(|_| *hours <= 12)
        {
            *hours = *hours % 12 + add;
            *end += 3;
        }
    }

    fn text(&self, bracketed: bool) -> Option<String> {
        let (hours, rest) = self.time?;
        if self.unclear {
            return (!bracketed).then(String::new);
        }
        let (month, day) = (self.month?, self.day?);
        let name = ENGLISH[month];
        match (self.year, bracketed) {
            (Some(year), true) => Some(format!("Sun {name} {day:>2} {hours:02}:{rest} {year}")),
            // The zone stands behind it.
            (Some(year), false) if self.weekday => {
                Some(format!("Sun {year}-{:02}-{day:02} {hours:02}:{rest}", month + 1))
            }
            (Some(year), false) => Some(format!("{year}-{:02}-{day:02}T{hours:02}:{rest}", month + 1)),
            (None, false) => Some(format!("{name} {day:>2} {hours:02}:{rest}")),
            (None, true) => None,
        }
    }
}

fn parts(word: &str) -> Option<[&str; 3]> {
    let mark = ['/', '.', '-'].into_iter().find(|mark| word.contains(*mark))?;
    let mut parts = word.split(mark);
    let all = [parts.next()?, parts.next()?, parts.next()?];
    (parts.next().is_none() && all.iter().all(|part| !part.is_empty())).then_some(all)
}

/// The month of this name, from 0.
fn month(word: &str) -> Option<usize> {
    const LONGEST: usize = 12;
    if word.len() > LONGEST {
        return None;
    }
    let name = word.trim_end_matches('.');
    // Of East Asia: a number and the word for month.
    if let Some(number) = name.strip_suffix('月').or_else(|| name.strip_suffix('월')) {
        return number
            .parse::<usize>()
            .ok()?
            .checked_sub(1)
            .filter(|month| *month < 12);
    }
    let name = name.to_lowercase();
    MONTHS.iter().position(|names| names.contains(&name.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Option<String> {
        let mut text = line.as_bytes().to_vec();
        plain(&mut text).then(|| String::from_utf8(text).unwrap())
    }

    #[test]
    fn dates_of_other_places_and_tools() {
        for (line, wanted) in [
            ("Okt 22 15:45:34 h x: y", "Oct 22 15:45:34 h x: y"),
            ("Mär  2 15:45:34 h x: y", "Mar  2 15:45:34 h x: y"),
            ("déc. 22 15:45:34 h x: y", "Dec 22 15:45:34 h x: y"),
            ("22 août 15:45:34 h x: y", "Aug 22 15:45:34 h x: y"),
            ("11月 22 15:45:34 h x: y", "Nov 22 15:45:34 h x: y"),
            ("[So Okt 22 15:45:34 2026] y", "[Sun Oct 22 15:45:34 2026] y"),
            ("[Sun Nov 22 15:45:34 UTC 2026] y", "[Sun Nov 22 15:45:34 2026] y"),
            (
                "So 2026-11-22 15:45:34 CET h x: y",
                "Sun 2026-11-22 15:45:34 CET h x: y",
            ),
            ("2026 Nov 22 15:45:34 h x: y", "2026-11-22T15:45:34 h x: y"),
            ("22/11/2026 15:45:34 h x: y", "2026-11-22T15:45:34 h x: y"),
            ("11/22/2026, 3:45:34 PM h x: y", "2026-11-22T15:45:34 h x: y"),
            (
                "22-Nov-2026 15:45:34.123 h x: y",
                "2026-11-22T15:45:34.123 h x: y",
            ),
            (
                "Nov 22, 2026 @ 15:45:34.000 h x: y",
                "2026-11-22T15:45:34.000 h x: y",
            ),
            // Which is the month nothing shows: of such a date nothing is kept.
            ("02/03/2026 15:45:34 h x: y", " h x: y"),
        ] {
            assert_eq!(of(line).as_deref(), Some(wanted), "{line}");
        }
    }

    #[test]
    fn words_are_no_dates() {
        for line in [
            "at 15:45:34 it died",
            "we saw 22 of 15:45:34 x",
            "10:00:00 hv-a [  157.1] x",
            "10.0.0.5:6665 [ 900.1] x",
            "Pro 12 of 12:30",
            "[   34.1] x 12:30:00 y",
            "[hv 12:30:00] x",
            "node1 22 15:45:34 x",
            "",
        ] {
            assert_eq!(of(line), None, "{line}");
        }
    }
}
