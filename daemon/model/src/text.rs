//! Text from outside (process names, command lines, kernel words) on its way to a terminal or a log.

use alloc::{borrow::ToOwned as _, format, string::String};
/// Replaces control characters, invisible ones, and those that turn the direction of writing, so that a process cannot
/// write terminal escapes, new lines or reversed words through us; cuts at `max` characters.
pub fn sanitise(text: &str, max: usize) -> String {
    // What nearly all names are: this is called for every event.
    if text.len() <= max && text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return text.to_owned();
    }
    let mut out: String = text
        .chars()
        .take(max)
        .map(|c| {
            if c.is_control() || turns_direction(c) || is_invisible(c) || is_blank(c) {
                char::REPLACEMENT_CHARACTER
            } else {
                c
            }
        })
        .collect();
    if text.chars().nth(max).is_some() {
        out.push('…');
    }
    out
}

/// Unicode's Bidi_Control characters.
fn turns_direction(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Spaces other than the usual one, and glyphs that look like one.
fn is_blank(c: char) -> bool {
    c != ' ' && c.is_whitespace() || matches!(c, '\u{2800}' | '\u{1d159}')
}

/// Characters without a glyph, by which two names look alike (Unicode's Default_Ignorable_Code_Point, and the marks of
/// annotations), and separators that start a new line.
fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}'
            | '\u{34f}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200d}'
            | '\u{2028}'..='\u{2029}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}

/// A NUL-terminated C string, as `task_struct.comm` is.
pub fn from_c(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    sanitise(&String::from_utf8_lossy(&bytes[..end]), 64)
}

/// A number and what it is of: `counted(1, "line", "lines")` is "1 line".
#[must_use]
pub fn counted(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::{from_c, sanitise};

    #[test]
    fn a_process_cannot_smuggle_terminal_escapes_into_a_report() {
        assert_eq!(sanitise("evil\x1b[2Jname\n", 64), "evil\u{fffd}[2Jname\u{fffd}");
        assert_eq!(sanitise("web\u{202e}live", 64), "web\u{fffd}live");
        for hidden in [
            '\u{7f}',
            '\u{85}',
            '\u{ad}',
            '\u{34f}',
            '\u{115f}',
            '\u{200b}',
            '\u{200d}',
            '\u{2028}',
            '\u{2062}',
            '\u{206a}',
            '\u{3164}',
            '\u{fe0f}',
            '\u{feff}',
            '\u{ffa0}',
            '\u{fff9}',
            '\u{e0041}',
            '\u{a0}',
            '\u{2003}',
            '\u{205f}',
            '\u{3000}',
            '\u{2800}',
            '\u{1d159}',
        ] {
            assert_eq!(sanitise(&format!("we{hidden}b"), 64), "we\u{fffd}b");
        }
        assert_eq!(sanitise("abcdef", 3), "abc…");
        assert_eq!(from_c(b"qemu\0junk"), "qemu");
    }
}
