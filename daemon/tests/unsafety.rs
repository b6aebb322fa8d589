//! Counts `unsafe`: each use has its reason (SAFETY) beside it, and no folder exceeds its budget.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking; its helper functions too"
)]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Budget of `unsafe` by folder; a change that raises one states the reason here. The BPF programs read the kernel's memory,
/// the lab's programs use KVM's ioctls, and its attackers send signals of their own making and mark memory (userfaultfd).
const MOST: [(&str, usize); 7] = [
    ("daemon/src", 1),
    ("daemon/sources/src", 16),
    ("ebpf-probes/src", 43),
    ("xtask/src", 0),
    ("xtask/support", 0),
    ("xtask/lab", 62),
    ("xtask/bench/src", 12),
];
/// Parsers of input from the kernel and from files.
const NONE: [&str; 10] = [
    "daemon/import/src",
    "daemon/kernel-facts/src",
    "daemon/model/src",
    "daemon/recording/src",
    "daemon/report/src",
    "daemon/src/cli",
    "daemon/sources/src/inputs/vm_registry",
    "daemon/src/outputs",
    "daemon/http/src",
    "daemon/src/config",
];
/// A reason begins at most this many lines before its use.
const NEAR: usize = 8;

fn sources(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// A line without its comment.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

/// Uses in the folder, and those without a reason.
fn uses(folder: &Path) -> (usize, Vec<String>) {
    let mut files = Vec::new();
    sources(folder, &mut files);
    let (mut count, mut bare) = (0, Vec::new());
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for (n, line) in lines.iter().enumerate() {
            let used = ["unsafe {", "unsafe impl ", "unsafe fn ", "unsafe extern "]
                .iter()
                .any(|word| code(line).contains(word));
            // An attribute (`#[unsafe(no_mangle)]`) has no body to reason about.
            if !used {
                continue;
            }
            count += 1;
            let near = &lines[n.saturating_sub(NEAR)..=n];
            if !near.iter().any(|line| line.contains("SAFETY:")) {
                bare.push(format!("{}:{}", file.display(), n + 1));
            }
        }
    }
    (count, bare)
}

#[test]
fn every_unsafe_is_counted_and_has_its_reason() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for (folder, most) in MOST {
        let (count, bare) = uses(&root.join(folder));
        println!("{folder}: {count}");
        assert!(bare.is_empty(), "without a reason: {bare:#?}");
        assert!(
            count <= most,
            "{folder}: {count} uses of unsafe, at most {most} are accounted for"
        );
    }
}

#[test]
fn parsers_of_outside_input_have_none() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for folder in NONE {
        let (count, _) = uses(&root.join(folder));
        assert_eq!(count, 0, "{folder}");
    }
}
