//! The shape of a wording: fixed words and fields in their order, matched against text that may end too early.

/// A part of a shape.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Words(&'static [u8]),
    /// Hexadecimal digits.
    Hex,
    /// As many hexadecimal digits as stand here, as of `%016llx`.
    HexOf(usize),
    Decimal,
    /// Up to a blank, a comma or a quotation mark.
    Word,
    /// Anything, as short as the rest of the shape allows.
    Any,
    OneOf(Vec<&'static [u8]>),
    /// May be missing.
    Optional(Vec<Self>),
    /// The line's end, blanks aside.
    End,
}

/// Longest text of an [`Part::Any`].
const MAX_ANY: usize = 160;

/// How far a text follows a shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// To the shape's end. `open`: the text ends there too, and the last field could go on.
    Whole {
        end: usize,
        open: bool,
    },
    /// The text ends inside the shape.
    Cut,
    No,
}

/// A shape, ready to be matched.
#[derive(Debug)]
pub struct Shape {
    parts: Vec<Part>,
}

impl Shape {
    /// Reads the notation of the tables: `{x}` hexadecimal, `{x16}` with so many digits, `{d}` decimal, `{w}` a word,
    /// `{*}` anything, `{a|b}` one of these, `{open}` and `{close}` braces, `{end}` the line's end, `[[…]]` may be missing.
    pub fn new(notation: &'static str) -> Self {
        Self {
            parts: parse(notation),
        }
    }

    pub fn fit(&self, text: &[u8]) -> Fit {
        fit(&self.parts, text, 0)
    }
}

fn parse(mut notation: &'static str) -> Vec<Part> {
    let mut parts = Vec::new();
    while !notation.is_empty() {
        let (part, rest) = if let Some(rest) = notation.strip_prefix("[[") {
            let (inner, rest) = rest.split_once("]]").unwrap_or((rest, ""));
            (Part::Optional(parse(inner)), rest)
        } else if let Some(rest) = notation.strip_prefix('{') {
            let (name, rest) = rest.split_once('}').unwrap_or((rest, ""));
            (field(name), rest)
        } else {
            let end = notation
                .char_indices()
                .find(|(at, c)| *c == '{' || notation[*at..].starts_with("[["))
                .map_or(notation.len(), |(at, _)| at);
            (Part::Words(&notation.as_bytes()[..end]), &notation[end..])
        };
        parts.push(part);
        notation = rest;
    }
    parts
}

fn field(name: &'static str) -> Part {
    match name {
        "end" => Part::End,
        "open" => Part::Words(b"{"),
        "close" => Part::Words(b"}"),
        "x" => Part::Hex,
        "d" => Part::Decimal,
        "w" => Part::Word,
        "*" => Part::Any,
        _ => match name.strip_prefix('x').and_then(|digits| digits.parse().ok()) {
            Some(digits) => Part::HexOf(digits),
            None => Part::OneOf(name.split('|').map(str::as_bytes).collect()),
        },
    }
}

fn fit(parts: &[Part], text: &[u8], at: usize) -> Fit {
    let Some((part, rest)) = parts.split_first() else {
        return Fit::Whole { end: at, open: false };
    };
    let here = &text[at..];
    let after = |length: usize, could_go_on: bool| {
        let next = fit(rest, text, at + length);
        match next {
            Fit::Whole { end, .. } if could_go_on && end == at + length && end == text.len() => {
                Fit::Whole { end, open: true }
            }
            other => other,
        }
    };
    let run = |digit: fn(&u8) -> bool| {
        let length = here.iter().position(|b| !digit(b)).unwrap_or(here.len());
        match length {
            0 if here.is_empty() => Fit::Cut,
            0 => Fit::No,
            _ => after(length, true),
        }
    };
    match part {
        Part::Words(words) => match here.strip_prefix(*words) {
            Some(_) => after(words.len(), false),
            None if words.starts_with(here) => Fit::Cut,
            None => Fit::No,
        },
        Part::End if here.trim_ascii().is_empty() => Fit::Whole {
            end: text.len(),
            open: false,
        },
        Part::End => Fit::No,
        Part::Hex => run(u8::is_ascii_hexdigit),
        Part::Decimal => run(u8::is_ascii_digit),
        Part::Word => run(|b| !(b.is_ascii_whitespace() || matches!(b, b',' | b'"' | b'\''))),
        Part::HexOf(digits) => {
            let length = here.iter().take_while(|b| b.is_ascii_hexdigit()).count();
            match length {
                _ if length == *digits => after(length, false),
                _ if length < *digits && length == here.len() => Fit::Cut,
                _ => Fit::No,
            }
        }
        Part::OneOf(words) => {
            let ends_inside = words
                .iter()
                .any(|word| word.len() > here.len() && word.starts_with(here));
            let mut whole: Vec<usize> = words
                .iter()
                .filter(|word| here.starts_with(word))
                .map(|word| word.len())
                .collect();
            whole.sort_unstable_by_key(|length| std::cmp::Reverse(*length));
            match whole.first() {
                // A longer one of them may be meant.
                None if ends_inside => Fit::Cut,
                Some(longest) if ends_inside && *longest < here.len() => Fit::Cut,
                _ => whole
                    .into_iter()
                    .map(|length| after(length, ends_inside))
                    .fold(Fit::No, better),
            }
        }
        Part::Any if rest.is_empty() && here.is_empty() => Fit::Cut,
        Part::Any if rest.is_empty() => Fit::Whole {
            end: text.len(),
            open: true,
        },
        Part::Any => {
            let limit = here.len().min(MAX_ANY);
            let begun = if here.len() <= MAX_ANY { Fit::Cut } else { Fit::No };
            // The shortest that lets the rest follow; fixed words are looked for.
            let mut whole = match rest.first() {
                Some(Part::Words(words)) => memchr::memmem::find_iter(&here[..limit], *words)
                    .filter(|length| *length > 0)
                    .map(|length| after(length, false))
                    .find(|fit| matches!(fit, Fit::Whole { .. })),
                _ => (1..=limit)
                    .map(|length| after(length, false))
                    .find(|fit| matches!(fit, Fit::Whole { .. })),
            };
            whole.take().unwrap_or(begun)
        }
        Part::Optional(inner) => match fit(inner, text, at) {
            Fit::Whole { end, open } => match fit(rest, text, end) {
                Fit::Whole {
                    end: last,
                    open: later,
                } => Fit::Whole {
                    end: last,
                    open: later || (open && last == end),
                },
                other => better(other, after(0, false)),
            },
            Fit::Cut if here.is_empty() => match after(0, true) {
                Fit::No => Fit::Cut,
                other => other,
            },
            // Where the part is not there as a whole, a text that ends in it is cut.
            Fit::Cut => match after(0, false) {
                Fit::Whole { end, open } if end > at => Fit::Whole { end, open },
                _ => Fit::Cut,
            },
            Fit::No => after(0, false),
        },
    }
}

fn better(a: Fit, b: Fit) -> Fit {
    match (a, b) {
        (Fit::Whole { .. }, _) => a,
        (_, Fit::Whole { .. }) => b,
        (Fit::Cut, _) => a,
        _ => b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(shape: &'static str, text: &str) -> Fit {
        Shape::new(shape).fit(text.as_bytes())
    }

    fn whole(end: usize) -> Fit {
        Fit::Whole { end, open: false }
    }

    #[test]
    fn a_text_fits_ends_inside_or_is_another() {
        const SIGNAL: &str = "failure: 0x{x}: Sending SIGBUS to {*}:{d} due to hardware memory corruption";
        let line = "failure: 0x8aa9a1: Sending SIGBUS to CPU 0/KVM:4711 due to hardware memory corruption";
        assert_eq!(of(SIGNAL, line), whole(line.len()));
        for end in 0..line.len() {
            assert_eq!(of(SIGNAL, &line[..end]), Fit::Cut, "{}", &line[..end]);
        }
        assert_eq!(
            of(SIGNAL, "failure: 0x8aa9a1: already hardware poisoned"),
            Fit::No
        );
        assert_eq!(of(SIGNAL, &format!("{line} and more")), whole(line.len()));
    }

    #[test]
    fn a_last_field_that_could_go_on_is_open() {
        let open = |end| Fit::Whole { end, open: true };
        assert_eq!(of("at {x}", "at 118c"), open(7));
        assert_eq!(of("at {x}", "at 118c "), whole(7));
        assert_eq!(of("Bank {d}: {x16}", "Bank 9: bd80000000000134"), whole(24));
        assert_eq!(of("Bank {d}: {x16}", "Bank 9: bd800000"), Fit::Cut);
        assert_eq!(of("Bank {d}: {x16}", "Bank 9: bd8000000000013477"), Fit::No);
    }

    #[test]
    fn a_part_that_may_be_missing() {
        const TSC: &str = "TSC {x}[[ ADDR {x}]][[ MISC {x}]]";
        let open = |end| Fit::Whole { end, open: true };
        assert_eq!(of(TSC, "TSC 8c"), open(6));
        assert_eq!(of(TSC, "TSC 8c AD"), Fit::Cut);
        assert_eq!(of(TSC, "TSC 8c ADDR 11 MISC 8c"), open(22));
        assert_eq!(of(TSC, "TSC 8c MISC 8c"), open(14));
        assert_eq!(of(TSC, "TSC 8c PPIN 1"), whole(6));
    }

    #[test]
    fn one_of_some_words() {
        const RESULT: &str = "for {*}: {Recovered|Failed}";
        assert_eq!(of(RESULT, "for dirty LRU page: Recovered"), whole(29));
        assert_eq!(of(RESULT, "for dirty LRU page: Reco"), Fit::Cut);
        assert_eq!(of(RESULT, "for dirty LRU page: Lost"), Fit::Cut);
        const REASON: &str = "check: {Overflowed|Overflowed error without recovery}";
        assert_eq!(
            of(REASON, "check: Overflowed"),
            Fit::Whole { end: 17, open: true }
        );
        assert_eq!(of(REASON, "check: Overflowed err"), Fit::Cut);
        assert_eq!(of(REASON, "check: Overflowed, or so"), whole(17));
    }
}
