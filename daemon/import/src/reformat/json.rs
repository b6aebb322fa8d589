//! An object of JSON, or of Python as qmp-shell prints it, that stands on several lines: printed so, or wrapped.

use super::wordings;

/// Bytes of one object that are gathered.
const MAX_OBJECT: usize = 64 * 1024;
/// Lines of one object.
const MAX_LINES: usize = 1024;

/// How deep the text is in objects and lists, and whether inside a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Depth {
    depth: u32,
    /// The mark that ends the text.
    quoted: Option<u8>,
    escaped: bool,
}

impl Depth {
    /// Goes over `text`: where in it the object ends.
    fn over(&mut self, text: &[u8]) -> Option<usize> {
        for (at, b) in text.iter().enumerate() {
            if self.escaped {
                self.escaped = false;
            } else if let Some(mark) = self.quoted {
                match b {
                    b'\\' => self.escaped = true,
                    b if *b == mark => self.quoted = None,
                    _ => {}
                }
            } else {
                match b {
                    b'"' | b'\'' => self.quoted = Some(*b),
                    b'{' | b'[' => self.depth = self.depth.saturating_add(1),
                    b'}' | b']' => {
                        self.depth = self.depth.saturating_sub(1);
                        if self.depth == 0 {
                            return Some(at + 1);
                        }
                    }
                    _ => {}
                }
            }
        }
        None
    }
}

/// Lines that are one object together.
#[derive(Default)]
pub struct Object {
    pub lines: Vec<Vec<u8>>,
    bytes: usize,
    depth: Depth,
}

/// What a further line makes of an object.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    Whole,
    Open,
    /// It is none, or too long.
    No,
}

impl Object {
    /// The object that begins in `line` and does not end in it. It may stand after other words: `event X for domain 'a': {`.
    pub fn open(line: &[u8]) -> Option<Self> {
        let trimmed = line.trim_ascii();
        let begin = memchr::memchr(b'{', trimmed)?;
        if begin > 0 && memchr::memmem::find(&trimmed[..begin], b"event ").is_none() {
            return None;
        }
        // An object's key, or nothing more on this line.
        let inner = trimmed[begin + 1..].trim_ascii_start();
        if !matches!(inner.first(), None | Some(b'"' | b'\'')) {
            return None;
        }
        let mut depth = Depth::default();
        if depth.over(&trimmed[begin..]).is_some() {
            return None;
        }
        Some(Self {
            lines: vec![line.to_vec()],
            bytes: line.len(),
            depth,
        })
    }

    pub fn add(&mut self, line: &[u8]) -> Next {
        self.bytes += line.len();
        // A record in one line begins here, and is no value of this object: this one was cut.
        let expected = self.lines.last().and_then(|line| line.trim_ascii_end().last());
        let value = self.depth.quoted.is_none() && matches!(expected, Some(b':' | b'['));
        let another = !value && line.starts_with(b"{\"") && Depth::default().over(line) == Some(line.len());
        if another || self.bytes > MAX_OBJECT || self.lines.len() >= MAX_LINES {
            return Next::No;
        }
        let whole = self.depth.over(line);
        self.lines.push(line.to_vec());
        if whole.is_some() { Next::Whole } else { Next::Open }
    }

    /// The object on one line. Where lines were broken, a blank may have stood or not: what is valid is taken, and of
    /// two that are, the one that holds more known wordings.
    pub fn join(&self) -> Option<Vec<u8>> {
        let valid = |separator: &[u8]| {
            let text = self.lines.join(separator);
            let begin = memchr::memchr(b'{', &text)?;
            let object = text[begin..].trim_ascii_end();
            // One of a list.
            let object = object.strip_suffix(b",").unwrap_or(object);
            let python = object[1..].trim_ascii_start().starts_with(b"'");
            let whole = Depth::default().over(object) == Some(object.len());
            let valid = || serde_json::from_slice::<serde::de::IgnoredAny>(object).is_ok();
            (whole && (python || valid())).then(|| text[..begin + object.len()].to_vec())
        };
        let (_, before) = self.lines.split_last()?;
        let width = before.first()?.len();
        let equal = before.iter().all(|line| line.len() == width);
        match (valid(b""), valid(b" ")) {
            (Some(hard), Some(words)) => {
                let [of_hard, of_words] = [&hard, &words].map(|text| wordings::whole(text));
                Some(if of_hard > of_words || (of_hard == of_words && equal) {
                    hard
                } else {
                    words
                })
            }
            (hard, words) => hard.or(words),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(text: &str) -> Option<String> {
        let mut lines = text.lines();
        let mut object = Object::open(lines.next()?.as_bytes())?;
        for line in lines {
            match object.add(line.as_bytes()) {
                Next::Whole => return String::from_utf8(object.join()?).ok(),
                Next::Open => {}
                Next::No => return None,
            }
        }
        None
    }

    #[test]
    fn printed_and_wrapped_objects_are_one() {
        let event = r#"{"event": "MEMORY_FAILURE", "data": {"action": "inject }"}}"#;
        let value: serde_json::Value = serde_json::from_str(event).unwrap();
        let pretty = serde_json::to_string_pretty(&value).unwrap();
        let same =
            |text: &str| serde_json::from_str::<serde_json::Value>(&joined(text).unwrap()).unwrap() == value;
        assert!(same(&pretty));
        for width in [10, 13, 24, 31] {
            let hard: Vec<&str> = event
                .as_bytes()
                .chunks(width)
                .map(|c| std::str::from_utf8(c).unwrap())
                .collect();
            assert!(same(&hard.join("\n")), "{width}");
        }
        assert!(same(&event.replace("\"data\": ", "\"data\":\n")));
        let shell = "{'event': 'MEMO\nRY_FAILURE', 'd\nata': {}}";
        assert_eq!(joined(shell).unwrap(), "{'event': 'MEMORY_FAILURE', 'data': {}}");
        let virsh = "event MEMORY_FAILURE at 1.2 for domain 'db-7': {\n  \"recipient\": \"guest\"\n}";
        assert!(joined(virsh).unwrap().ends_with("{   \"recipient\": \"guest\" }"));
    }

    #[test]
    fn an_object_that_does_not_end_is_none() {
        assert_eq!(joined("{\"a\": 1,\n{\"b\": 2}\n"), None);
        assert_eq!(joined("{\"a\": 1,\n\"b\": 2\n"), None);
        assert_eq!(joined("struct x {\n int a;\n}"), None);
        assert!(Object::open(b"{\"a\": {}}").is_none());
        assert!(Object::open(b"{ int a; ").is_none());
        let mut object = Object::open(b"{").unwrap();
        let long = vec![b'x'; MAX_OBJECT];
        assert_eq!(object.add(&long), Next::No);
    }
}
