//! The documents: every link and every path in them leads to a file, and the README stays short.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking; its helper functions too"
)]

use std::{
    fs,
    path::{Path, PathBuf},
};

const README_LINES: usize = 150;
/// Folders that contain documents.
const FOLDERS: [&str; 7] = [
    "",
    ".github",
    "daemon/docs",
    "daemon/tests/traces",
    "dashboards",
    "dashboards/runbooks",
    "xtask/lab",
];
/// A code span that begins so is a path of this repository.
const ROOTS: [&str; 6] = [
    "daemon/",
    "ebpf-probes/",
    "xtask/",
    "dashboards/",
    ".ci/",
    ".github/",
];

struct Document {
    path: PathBuf,
    text: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn documents() -> Vec<Document> {
    let mut all = Vec::new();
    for folder in FOLDERS {
        let Ok(entries) = fs::read_dir(root().join(folder)) else {
            continue;
        };
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.extension().is_some_and(|extension| extension == "md") {
                let text = fs::read_to_string(&path).unwrap();
                all.push(Document { path, text });
            }
        }
    }
    assert!(all.len() > 20, "only {} documents", all.len());
    all
}

/// The parts of `text` between `open` and `close`, which are on one line.
fn between<'a>(text: &'a str, open: &str, close: char) -> Vec<&'a str> {
    let parts = text
        .lines()
        .flat_map(|line| line.split(open).skip(1).map(|rest| rest.split_once(close)));
    parts.flatten().map(|(part, _)| part).collect()
}

/// The anchor that a heading gets on the forge.
fn anchor(heading: &str) -> String {
    heading
        .trim()
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

fn has_anchor(file: &Path, wanted: &str) -> bool {
    fs::read_to_string(file).is_ok_and(|text| {
        text.lines()
            .filter_map(|line| line.strip_prefix('#'))
            .any(|heading| anchor(heading.trim_start_matches('#')) == wanted)
    })
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    let mut checked = 0;
    for document in documents() {
        for link in between(&document.text, "](", ')') {
            if link.contains("://") {
                continue;
            }
            let (path, heading) = link.split_once('#').map_or((link, None), |(p, h)| (p, Some(h)));
            let file = match path {
                "" => document.path.clone(),
                _ => document.path.parent().unwrap().join(path),
            };
            assert!(file.exists(), "{}: {link}", document.path.display());
            if let Some(heading) = heading {
                assert!(has_anchor(&file, heading), "{}: {link}", document.path.display());
            }
            checked += 1;
        }
    }
    assert!(checked > 50, "only {checked} links");
}

#[test]
fn every_path_in_a_code_span_exists() {
    let mut checked = 0;
    for document in documents() {
        for line in document.text.lines() {
            // Odd parts are inside of backticks.
            for span in line.split('`').skip(1).step_by(2) {
                let of_ours = ROOTS.iter().any(|root| span.starts_with(root));
                if of_ours && !span.contains([' ', '*', '{']) {
                    assert!(
                        root().join(span).exists(),
                        "{}: `{span}`",
                        document.path.display()
                    );
                    checked += 1;
                }
            }
        }
    }
    assert!(checked > 20, "only {checked} paths");
}

#[test]
fn the_readme_is_an_introduction() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    assert!(readme.lines().count() <= README_LINES);
}
