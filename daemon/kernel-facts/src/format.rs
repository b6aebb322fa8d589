//! tracefs `events/*/*/format`: the fields of a tracepoint, and the texts of its enums.

use std::collections::BTreeMap;

use poisontrace_probes::layout::Shape;

/// One field, as the running kernel lays it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Bytes from the beginning of the event.
    pub offset: u32,
    /// Bytes.
    pub size: u32,
    pub signed: bool,
    pub array: bool,
    /// `__data_loc`: the field itself is only the place of a text.
    pub dynamic: bool,
}

/// A tracepoint's layout.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Format {
    pub fields: BTreeMap<String, Field>,
    pub print: String,
}

impl Format {
    /// Parses a `format` file; what is not understood is left out, so that a reader misses a field instead of
    /// reading another one.
    pub fn parse(text: &str) -> Self {
        let mut format = Self::default();
        for line in text.lines() {
            let line = line.trim();
            if let Some(print) = line.strip_prefix("print fmt:") {
                format.print = print.trim().to_owned();
            } else if let Some((name, field)) = field(line) {
                format.fields.insert(name, field);
            }
        }
        format
    }

    /// The offset of `name`, if it has this shape.
    pub fn offset(&self, name: &str, shape: Shape) -> Option<u32> {
        self.fields
            .get(name)
            .filter(|field| field.has(shape))
            .map(|field| field.offset)
    }

    /// The `{ number, "text" }` pairs of the `__print_symbolic` of field `name` in the print format.
    pub fn symbols(&self, name: &str) -> BTreeMap<i64, String> {
        let mut symbols = BTreeMap::new();
        let start = format!("__print_symbolic(REC->{name},");
        let Some(at) = self.print.find(&start) else {
            return symbols;
        };
        let mut rest = self.print[at + start.len()..].trim_start();
        while let Some(pair) = rest.strip_prefix('{') {
            let Some((number, after)) = pair.split_once(',') else {
                break;
            };
            let Some((text, after)) = after
                .trim_start()
                .strip_prefix('"')
                .and_then(|t| t.split_once('"'))
            else {
                break;
            };
            if let Some(number) = integer(number.trim()) {
                symbols.insert(number, text.to_owned());
            }
            let Some(after) = after.trim_start().strip_prefix('}') else {
                break;
            };
            rest = after.trim_start().trim_start_matches(',').trim_start();
        }
        symbols
    }
}

impl Field {
    fn has(&self, shape: Shape) -> bool {
        match shape {
            Shape::Unsigned(size) => !self.array && !self.signed && self.size == size,
            Shape::Signed(size) => !self.array && self.signed && self.size == size,
            // Whether a char is signed has changed between kernels, and matters nothing here.
            Shape::Bytes(size) => self.array && self.size == size,
            // A format does not distinguish a pointer or a structure from a number.
            Shape::Pointer | Shape::Struct(_) | Shape::Array(_) => false,
            // Whether it is signed is that of its characters.
            Shape::DynamicText => self.dynamic && !self.array && self.size == 4,
            Shape::Any => true,
        }
    }
}

fn integer(text: &str) -> Option<i64> {
    match text.strip_prefix("0x") {
        Some(hex) => i64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// `field:unsigned int vcpu_id;  offset:8;  size:4;  signed:0;`
fn field(line: &str) -> Option<(String, Field)> {
    let mut parts = line.split(';').map(str::trim);
    let declaration = parts.next()?.strip_prefix("field:")?;
    let name = declaration.split_whitespace().next_back()?;
    let array = name.contains('[');
    let name = name.trim_start_matches('*').split('[').next()?;
    let (mut offset, mut size, mut signed) = (None, None, None);
    for part in parts {
        match part.split_once(':') {
            Some(("offset", value)) => offset = value.parse().ok(),
            Some(("size", value)) => size = value.parse().ok(),
            Some(("signed", value)) => signed = Some(value == "1"),
            _ => {}
        }
    }
    Some((
        name.to_owned(),
        Field {
            offset: offset?,
            size: size?,
            signed: signed?,
            array,
            dynamic: declaration.starts_with("__data_loc "),
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY_FAILURE: &str = r#"name: memory_failure_event
ID: 77
format:
	field:unsigned short common_type;	offset:0;	size:2;	signed:0;

	field:unsigned long pfn;	offset:8;	size:8;	signed:0;
	field:int type;	offset:16;	size:4;	signed:1;
	field:int result;	offset:20;	size:4;	signed:1;

print fmt: "pfn %#lx: recovery action for %s: %s", REC->pfn, __print_symbolic(REC->type, { 0, "reserved kernel page" }, { 1, "high-order kernel page" }, { 0x3, "huge page" } ), __print_symbolic(REC->result, { 0, "Ignored" }, { 3, "Recovered" } )
"#;

    #[test]
    fn enum_texts_come_from_the_print_format() {
        let format = Format::parse(MEMORY_FAILURE);
        let types = format.symbols("type");
        assert_eq!(types.get(&3).map(String::as_str), Some("huge page"));
        assert_eq!(types.len(), 3);
        assert_eq!(
            format.symbols("result").get(&3).map(String::as_str),
            Some("Recovered")
        );
        assert!(format.symbols("nothing").is_empty());
    }

    #[test]
    fn a_field_of_another_size_or_sign_is_no_field() {
        let format = Format::parse(MEMORY_FAILURE);
        assert_eq!(format.offset("pfn", Shape::Unsigned(8)), Some(8));
        assert_eq!(format.offset("pfn", Shape::Unsigned(4)), None);
        assert_eq!(format.offset("type", Shape::Signed(4)), Some(16));
        assert_eq!(format.offset("type", Shape::Unsigned(4)), None);
        assert_eq!(format.offset("gone", Shape::Unsigned(8)), None);
    }

    #[test]
    fn arrays_and_pointers_have_their_bare_name() {
        let format = Format::parse(
            "\tfield:char comm[16];	offset:8;	size:16;	signed:0;\n\tfield:const void *p;	offset:24;	size:8;	signed:0;",
        );
        assert_eq!(format.offset("comm", Shape::Bytes(16)), Some(8));
        assert_eq!(format.offset("comm", Shape::Bytes(8)), None);
        assert_eq!(format.offset("p", Shape::Unsigned(8)), Some(24));
    }
}
