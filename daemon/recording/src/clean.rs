//! Strings of a recording, which others may have made: as harmless to a terminal as those that the daemon reads itself.

use serde::de::DeserializeOwned;
use serde_json::Value;

use poisontrace_model::text::sanitise;

/// Longest string, characters: a kernel's or a log's line.
const MAX: usize = 4096;

/// Whether there is nothing to clean: a control character in a string of JSON is escaped, and those that turn writing are
/// not ASCII.
pub fn is_clean(line: &str) -> bool {
    line.is_ascii() && !line.contains('\\')
}

/// A line of JSON, its strings without control characters.
///
/// # Errors
/// Those of the line.
pub fn from_line<T: DeserializeOwned>(line: &str) -> serde_json::Result<T> {
    let mut value: Value = serde_json::from_str(line)?;
    clean(&mut value);
    from_value(&value)
}

/// Reads a value by way of its text: reading events and sessions from values directly would compile all their readers a
/// second time (0.7 MB), for recordings of version 1 and lines that had to be cleaned alone.
///
/// # Errors
/// Those of the type.
pub fn from_value<T: DeserializeOwned>(value: &Value) -> serde_json::Result<T> {
    serde_json::from_str(&value.to_string())
}

fn clean(value: &mut Value) {
    match value {
        Value::String(text) => *text = sanitise(text, MAX),
        Value::Array(values) => values.iter_mut().for_each(clean),
        Value::Object(fields) => fields.values_mut().for_each(clean),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_and_reversed_writing_are_replaced_and_other_scripts_are_not() {
        let line =
            "{\"name\":\"a\\u001b[2J\\nb\",\"vms\":[\"c\u{202e}d\",\"čas\"],\"n\":18446744073709551615}";
        let value: Value = from_line(line).unwrap();
        assert_eq!(value["name"], "a\u{fffd}[2J\u{fffd}b");
        assert_eq!(value["vms"][0], "c\u{fffd}d");
        assert_eq!(value["vms"][1], "čas");
        assert_eq!(value["n"], u64::MAX);
        assert!(from_line::<Value>("{\"a\":\"\\u00\"}").is_err());
    }
}
