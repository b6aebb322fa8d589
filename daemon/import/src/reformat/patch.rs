//! A patch of git's: what a hunk of it adds, takes away or shows around that is a file's text, and no evidence.

/// Follows the patches of one source.
#[derive(Default)]
pub struct Patch {
    /// A file's head was the last line: a hunk's may follow.
    file: bool,
    /// Lines of the hunk that are still to come, of the file before and after.
    left: (u64, u64),
}

impl Patch {
    /// Whether the next line stands in a hunk.
    pub fn line(&mut self, line: &[u8]) -> bool {
        if self.left == (0, 0) || !self.goes_on(line) {
            self.left = (0, 0);
            let of_file = self.file || line.starts_with(b"+++ b/");
            let begins = hunk(line).filter(|_| of_file);
            self.left = begins.unwrap_or_default();
            // Hunks of one file follow one another.
            self.file = of_file && (begins.is_some() || line.starts_with(b"+++ b/"));
            return begins.is_some();
        }
        true
    }

    fn goes_on(&mut self, line: &[u8]) -> bool {
        let (before, after) = match line.trim_ascii_end().first() {
            Some(b'-') => (1, 0),
            Some(b'+') => (0, 1),
            Some(b'\\') => (0, 0),
            // A mailer may have cut off blanks at an end.
            Some(b' ' | b'\t') | None => (1, 1),
            Some(_) => return false,
        };
        let left = self.left;
        match (left.0.checked_sub(before), left.1.checked_sub(after)) {
            (Some(before), Some(after)) => self.left = (before, after),
            _ => return false,
        }
        true
    }
}

/// The numbers of lines in `@@ -10,3 +10,8 @@`.
fn hunk(line: &[u8]) -> Option<(u64, u64)> {
    let text = std::str::from_utf8(line.strip_prefix(b"@@ -")?).ok()?;
    let (ranges, _) = text.split_once(" @@")?;
    let (before, after) = ranges.split_once(" +")?;
    let length = |range: &str| match range.split_once(',') {
        Some((_, length)) => length.parse().ok(),
        None => range.parse::<u64>().ok().map(|_| 1),
    };
    Some((length(before)?, length(after)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inside(text: &str) -> Vec<usize> {
        let mut patch = Patch::default();
        let lines = text.lines().zip(1..);
        lines
            .filter_map(|(line, number)| patch.line(line.as_bytes()).then_some(number))
            .collect()
    }

    #[test]
    fn the_lines_of_hunks_are_a_files() {
        let one = "+++ b/x.rst\n@@ -1,2 +1,3 @@ Example\n a\n+b\n c\nafter\n";
        assert_eq!(inside(one), [2, 3, 4, 5]);
        let two = "+++ b/x\n@@ -1 +1 @@\n-a\n+b\n@@ -9 +9 @@\n-c\n+d\n-- \n2.43.0\n";
        assert_eq!(inside(two), [2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn what_a_log_was_compared_to_is_evidence() {
        assert!(inside("--- good.log\n+++ bad.log\n@@ -1 +1 @@\n-a\n+b\n").is_empty());
        assert!(inside("+a\n@@ -1 +1 @@\n-b\n").is_empty());
        assert_eq!(
            inside("+++ b/x\n@@ -1,9 +1,9 @@\n a\nOn Monday B wrote:\n b\n"),
            [2, 3]
        );
    }
}
