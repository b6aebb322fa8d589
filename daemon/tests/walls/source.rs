//! Rust sources as the tests of this folder read them: without comments and unit tests, their literals apart.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// One file.
pub struct Source {
    /// From the workspace's root.
    pub path: String,
    /// The code, without comments and without its unit tests; each string literal is `""`.
    pub code: String,
    pub literals: Vec<Literal>,
}

/// A string literal.
pub struct Literal {
    pub text: String,
    /// Its place in [`Source::code`]: of the opening quote.
    pub at: usize,
}

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All files of a folder but those of unit tests.
pub fn sources(folder: &str) -> Vec<Source> {
    let mut paths = Vec::new();
    files(&root().join(folder), &mut paths);
    paths.sort();
    assert!(!paths.is_empty(), "{folder}");
    paths.iter().map(|path| Source::read(path)).collect()
}

fn files(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && path.file_stem().is_some_and(|name| name != "tests")
        {
            into.push(path);
        }
    }
}

impl Source {
    fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let path = path.strip_prefix(root()).unwrap().to_str().unwrap();
        let mut source = Self::of(code);
        path.clone_into(&mut source.path);
        source
    }

    /// Reads code.
    pub fn of(text: &str) -> Self {
        let mut source = Self {
            path: String::new(),
            code: String::new(),
            literals: Vec::new(),
        };
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let taken = source.take(rest, c);
            rest = &rest[taken..];
        }
        source
    }

    /// Takes what begins `rest`. Returns its bytes.
    fn take(&mut self, rest: &str, c: char) -> usize {
        if rest.starts_with("//") {
            return rest.find('\n').unwrap_or(rest.len());
        }
        if rest.starts_with("/*") {
            return rest.find("*/").map_or(rest.len(), |end| end + 2);
        }
        // A character's quote begins no string.
        if c == '\''
            && let Some(character) = ["'\"'", "'\\\"'"].iter().find(|quoted| rest.starts_with(*quoted))
        {
            return character.len();
        }
        let hashes = rest
            .strip_prefix('r')
            .map_or(0, |raw| raw.bytes().take_while(|b| *b == b'#').count());
        if hashes > 0 && rest[1 + hashes..].starts_with('"') {
            let begin = hashes + 2;
            let close = format!("\"{}", "#".repeat(hashes));
            let end = rest[begin..].find(&close).map_or(rest.len(), |end| begin + end);
            self.literal(&rest[begin..end]);
            return (end + close.len()).min(rest.len());
        }
        if c == '"' {
            let end = end_of_string(&rest[1..]);
            self.literal(&rest[1..1 + end]);
            return (end + 2).min(rest.len());
        }
        self.code.push(c);
        c.len_utf8()
    }

    fn literal(&mut self, text: &str) {
        self.literals.push(Literal {
            text: text.to_owned(),
            at: self.code.len(),
        });
        self.code.push_str("\"\"");
    }

    /// The code before a literal, and after it.
    pub fn around(&self, literal: &Literal) -> (&str, &str) {
        (&self.code[..literal.at], &self.code[literal.at + 2..])
    }
}

/// Bytes until the quote that ends it.
fn end_of_string(text: &str) -> usize {
    let mut escaped = false;
    for (at, b) in text.bytes().enumerate() {
        match b {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at,
            _ => {}
        }
    }
    text.len()
}

#[test]
fn literals_code_and_comments_are_kept_apart() {
    let source = Source::of("a(\"b \\\" c\"); // \"no\"\nlet q = '\"'; r#\"d\"e\"#;");
    let texts: Vec<&str> = source
        .literals
        .iter()
        .map(|literal| literal.text.as_str())
        .collect();
    assert_eq!(texts, ["b \\\" c", "d\"e"]);
    assert_eq!(source.code, "a(\"\"); \nlet q = ; \"\";");
    assert_eq!(source.around(&source.literals[0]).0, "a(");
}
