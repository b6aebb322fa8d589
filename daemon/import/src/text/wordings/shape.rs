//! Shapes of log lines: a message is recognised by all of its text, from its first byte to its last.
//!
//! `{name}` is text up to the literal that follows, `{name:dec}` and `{name:hex}` are numbers (`0x` optional),
//! `{name:word}` is text without blanks; all else stands for itself. A field at the end takes the rest.

/// Fields of one shape.
const MAX_FIELDS: usize = 12;
/// Longest text of a field, bytes.
const MAX_TEXT: usize = 512;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Word,
    Dec,
    Hex,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(&'static [u8]),
    Field(&'static str, Kind),
}

/// A compiled shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape(Vec<Part>);

/// The fields of a line.
#[derive(Debug, Default)]
pub struct Fields<'a> {
    found: Vec<(&'static str, &'a [u8])>,
}

impl<'a> Fields<'a> {
    /// The bytes of a field.
    pub fn bytes(&self, name: &str) -> Option<&'a [u8]> {
        let mut all = self.found.iter();
        all.find(|(known, _)| *known == name).map(|(_, value)| *value)
    }

    /// As text that can be shown, of at most `max` characters.
    pub fn text(&self, name: &str, max: usize) -> Option<String> {
        let value = String::from_utf8_lossy(self.bytes(name)?);
        Some(poisontrace_model::text::sanitise(value.trim(), max))
    }

    /// A decimal number.
    pub fn dec(&self, name: &str) -> Option<u64> {
        crate::trace::record::decimal(self.bytes(name)?)
    }

    /// A decimal number of 32 bits.
    pub fn u32(&self, name: &str) -> Option<u32> {
        u32::try_from(self.dec(name)?).ok()
    }

    /// A hexadecimal number.
    pub fn hex(&self, name: &str) -> Option<poisontrace_model::hex::Hex> {
        crate::trace::hex(self.bytes(name)?).map(poisontrace_model::hex::Hex)
    }
}

impl Shape {
    /// Compiles a shape of a table.
    pub fn new(text: &'static str) -> Self {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(open) = rest.find('{') {
            let (literal, field) = rest.split_at(open);
            let Some(close) = field.find('}') else { break };
            if !literal.is_empty() {
                parts.push(Part::Literal(literal.as_bytes()));
            }
            let (name, kind) = match field[1..close].split_once(':') {
                Some((name, "dec")) => (name, Kind::Dec),
                Some((name, "hex")) => (name, Kind::Hex),
                Some((name, "word")) => (name, Kind::Word),
                _ => (&field[1..close], Kind::Text),
            };
            parts.push(Part::Field(name, kind));
            rest = &field[close + 1..];
        }
        if !rest.is_empty() {
            parts.push(Part::Literal(rest.as_bytes()));
        }
        Self(parts)
    }

    /// The text with which every line of this shape begins; empty where that is a field.
    pub fn stem(&self) -> &'static [u8] {
        match self.0.first() {
            Some(Part::Literal(stem)) => stem,
            _ => b"",
        }
    }

    /// The longest literal: what a line without a fixed beginning is looked for by.
    pub fn anchor(&self) -> &'static [u8] {
        let literals = self.0.iter().filter_map(|part| match part {
            Part::Literal(text) => Some(*text),
            Part::Field(..) => None,
        });
        literals.max_by_key(|text| text.len()).unwrap_or_default()
    }

    /// The fields of `line`, if all of it has this shape.
    pub fn read<'a>(&self, line: &'a [u8]) -> Option<Fields<'a>> {
        let mut fields = Fields::default();
        read(&self.0, line.trim_ascii_end(), &mut fields).then_some(fields)
    }
}

fn read<'a>(parts: &[Part], line: &'a [u8], fields: &mut Fields<'a>) -> bool {
    let Some((part, rest)) = parts.split_first() else {
        return line.is_empty();
    };
    match part {
        Part::Literal(text) => {
            // Blanks at a line's end are cut, those of a shape too.
            if rest.is_empty() {
                return line == text.trim_ascii_end();
            }
            line.strip_prefix(*text)
                .is_some_and(|line| read(rest, line, fields))
        }
        Part::Field(name, kind) => field(name, *kind, rest, line, fields),
    }
}

fn field<'a>(name: &'static str, kind: Kind, rest: &[Part], line: &'a [u8], fields: &mut Fields<'a>) -> bool {
    if fields.found.len() >= MAX_FIELDS {
        return false;
    }
    let mut take = |end: usize| {
        let before = fields.found.len();
        fields.found.push((name, &line[..end]));
        let whole = read(rest, &line[end..], fields);
        if !whole {
            fields.found.truncate(before);
        }
        whole
    };
    let run = |of: &dyn Fn(u8) -> bool| line.iter().position(|b| !of(*b)).unwrap_or(line.len());
    match kind {
        Kind::Dec => {
            let end = run(&|b| b.is_ascii_digit());
            end > 0 && take(end)
        }
        Kind::Hex => {
            let prefix = if line.starts_with(b"0x") || line.starts_with(b"0X") {
                2
            } else {
                0
            };
            let digits = line[prefix..].iter().position(|b| !b.is_ascii_hexdigit());
            let end = digits.map_or(line.len(), |end| prefix + end);
            end > prefix && take(end)
        }
        Kind::Word if rest.is_empty() => {
            let end = run(&|b| !b.is_ascii_whitespace());
            end > 0 && end == line.len() && take(end)
        }
        Kind::Text if rest.is_empty() => !line.is_empty() && line.len() <= MAX_TEXT && take(line.len()),
        Kind::Word | Kind::Text => {
            let Some(Part::Literal(next)) = rest.first() else {
                let end = run(&|b| !b.is_ascii_whitespace());
                return end > 0 && take(end);
            };
            let within = &line[..line.len().min(MAX_TEXT + next.len())];
            memchr::memmem::find_iter(within, next.trim_ascii_end())
                .filter(|end| *end > 0)
                .take_while(|end| kind == Kind::Text || !line[..*end].iter().any(u8::is_ascii_whitespace))
                .any(&mut take)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_a_line_has_the_shape_or_it_is_none() {
        let shape = Shape::new("Memory failure: {pfn:hex}: Sending SIGBUS to {comm}:{pid:dec} due to it");
        let line = b"Memory failure: 0xf7eb: Sending SIGBUS to a:b: c:7 due to it \r";
        let fields = shape.read(line).unwrap();
        assert_eq!(fields.text("comm", 64).as_deref(), Some("a:b: c"));
        assert_eq!(
            (fields.u32("pid"), fields.hex("pfn").map(|h| h.0)),
            (Some(7), Some(0xf7eb))
        );
        for other in [
            "see Memory failure: 0xf7eb: Sending SIGBUS to a:7 due to it",
            "Memory failure: 0xf7eb: Sending SIGBUS to a:7 due to it, they say",
            "Memory failure: 0xf7eb: Sending SIGBUS to a:7 due",
            "Memory failure: 0x: Sending SIGBUS to a:7 due to it",
            "Memory failure: 0xf7eb: Sending SIGBUS to :7 due to it",
            "",
        ] {
            assert!(shape.read(other.as_bytes()).is_none(), "{other}");
        }
        assert_eq!(shape.stem(), b"Memory failure: ");
        assert_eq!(Shape::new("{unit:word}: ended, {how}").anchor(), b": ended, ");
    }

    #[test]
    fn words_have_no_blanks_and_a_last_field_takes_the_rest() {
        let shape = Shape::new("{unit:word}: ended, {how}");
        let fields = shape.read(b"a.service: ended, killed by 7").unwrap();
        assert_eq!(fields.text("how", 64).as_deref(), Some("killed by 7"));
        assert!(shape.read(b"my a.service: ended, killed").is_none());
        let long = [b"a.service: ended, ".as_slice(), &vec![b'x'; MAX_TEXT + 1]].concat();
        assert!(shape.read(&long).is_none());
    }
}
