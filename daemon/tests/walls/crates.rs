//! Which part knows which crate: ours by a list for every part, others where they bring something in.

use super::{
    modules::paths,
    source::{Source, sources},
};

/// Parts, each with all crates of ours that it names. A file beside the parts of the daemon is a part too.
const KNOWN: [(&str, &[&str]); 28] = [
    ("daemon/model/src", &["poisontrace_probes"]),
    (
        "daemon/kernel-facts/src",
        &["poisontrace_model", "poisontrace_probes"],
    ),
    ("daemon/recording/src", &["poisontrace_model"]),
    ("daemon/sqlite/src", &[]),
    (
        "daemon/import/src",
        &["poisontrace_model", "poisontrace_recording", "poisontrace_sqlite"],
    ),
    ("daemon/report/src", &["poisontrace_model", "poisontrace_probes"]),
    ("daemon/http/src", &["poisontrace_model"]),
    ("daemon/sources/src/host", &["poisontrace_model"]),
    (
        "daemon/sources/src/probes",
        &[
            "poisontrace_kernel_facts",
            "poisontrace_model",
            "poisontrace_probes",
        ],
    ),
    // The log of a VMM is read as one that was kept.
    (
        "daemon/sources/src/inputs",
        &["poisontrace_import", "poisontrace_model", "poisontrace_probes"],
    ),
    ("daemon/src/failure", &[]),
    ("daemon/src/fair", &[]),
    ("daemon/src/terminal", &["poisontrace_report"]),
    ("daemon/src/private_file", &[]),
    ("daemon/src/config", &["poisontrace_sources"]),
    ("daemon/src/service", &[]),
    (
        "daemon/src/outputs",
        &[
            "poisontrace_model",
            "poisontrace_probes",
            "poisontrace_recording",
            "poisontrace_report",
            "poisontrace_sources",
            "poisontrace_sqlite",
        ],
    ),
    (
        "daemon/src/engine",
        &[
            "poisontrace_http",
            "poisontrace_kernel_facts",
            "poisontrace_model",
            "poisontrace_probes",
            "poisontrace_recording",
            "poisontrace_report",
            "poisontrace_sources",
        ],
    ),
    (
        "daemon/src/cli",
        &[
            "poisontrace_import",
            "poisontrace_kernel_facts",
            "poisontrace_model",
            "poisontrace_report",
            "poisontrace_sources",
        ],
    ),
    ("xtask/support/src", &[]),
    ("xtask/lab/protocol/src", &[]),
    ("xtask/lab/guest-init/src", &["lab_protocol"]),
    ("xtask/lab/host-init/src", &["lab_protocol"]),
    ("xtask/lab/storm-vmm/src", &["lab_protocol", "storm_vmm"]),
    ("xtask/lab/scenario-vmm/src", &["lab_protocol", "storm_vmm"]),
    ("xtask/lab/harness/src", &["lab_protocol", "xtask_support"]),
    (
        "xtask/bench/src",
        &[
            "lab_protocol",
            "poisontrace_kernel_facts",
            "poisontrace_model",
            "poisontrace_probes",
            "poisontrace_recording",
            "poisontrace_report",
            "poisontrace_sources",
        ],
    ),
    ("xtask/src", &["lab_harness", "lab_protocol", "xtask_support"]),
];

/// Names of our crates begin so.
const OURS: [&str; 4] = ["poisontrace", "lab_", "xtask_", "storm_vmm"];

/// Crates of others, and the standard library's input and output, with the parts that may name them.
const ONLY_IN: [(&str, &[&str]); 14] = [
    ("aya", &["daemon/sources/src/probes", "xtask/bench/src"]),
    ("aya_obj", &["daemon/sources/src/probes", "xtask/bench/src"]),
    (
        "rusqlite",
        &["daemon/import/src", "daemon/sqlite/src", "daemon/src/outputs"],
    ),
    ("hyper", &["daemon/http/src"]),
    ("tokio_rustls", &["daemon/http/src"]),
    // xtask has a module of that name.
    ("prometheus", &["daemon/src/outputs", "xtask/src"]),
    ("ratatui", &["daemon/src/cli"]),
    (
        "clap",
        &[
            "daemon/src/cli",
            "daemon/src/config",
            "xtask/bench/src",
            "xtask/lab/harness/src",
            "xtask/src",
        ],
    ),
    (
        "tokio",
        &[
            "daemon/src/engine",
            "daemon/http/src",
            "daemon/sources/src/inputs",
            "daemon/src/outputs",
            "daemon/sources/src/probes",
        ],
    ),
    ("maud", &["daemon/report/src"]),
    (
        "kvm_ioctls",
        &["xtask/lab/scenario-vmm/src", "xtask/lab/storm-vmm/src"],
    ),
    ("libfuzzer_sys", &[]),
    ("proptest", &[]),
    ("insta", &[]),
];

/// What words an incident reads no file, clock or environment.
const PURE: [&str; 2] = ["daemon/model/src", "daemon/report/src"];
const IMPURE: [&str; 8] = [
    "console::Term",
    "console::colors_enabled",
    "std::env",
    "std::fs",
    "std::net",
    "std::process",
    "std::thread",
    "std::time",
];

/// The part of a file.
fn part(source: &Source) -> &'static str {
    let beside = source.path.trim_end_matches(".rs");
    KNOWN
        .iter()
        .map(|(part, _)| *part)
        .find(|part| beside == *part || beside.starts_with(&format!("{part}/")))
        .unwrap_or_else(|| panic!("{} is in no known part", source.path))
}

/// Trees of several parts, and their files that only name their modules.
const OF_PARTS: [&str; 2] = ["daemon/sources/src", "daemon/src"];
const ROOTS: [&str; 3] = [
    "daemon/sources/src/lib.rs",
    "daemon/src/lib.rs",
    "daemon/src/main.rs",
];

/// All sources but those that only name their modules.
fn all() -> Vec<Source> {
    let mut trees: Vec<&str> = KNOWN.iter().map(|(part, _)| *part).collect();
    trees.retain(|part| !OF_PARTS.iter().any(|tree| part.starts_with(&format!("{tree}/"))));
    trees.extend(OF_PARTS);
    let all = trees.into_iter().flat_map(sources);
    all.filter(|source| !ROOTS.contains(&source.path.as_str()))
        .collect()
}

/// The crates that a file names.
fn crates(source: &Source) -> impl Iterator<Item = String> {
    paths(source)
        .into_iter()
        .map(|path| path.split("::").next().unwrap_or_default().to_owned())
}

#[test]
fn each_part_names_only_its_crates_of_ours() {
    let mut needed = Vec::new();
    for source in all() {
        let part = part(&source);
        let known = KNOWN.iter().find(|(name, _)| *name == part).unwrap().1;
        for name in crates(&source).filter(|name| OURS.iter().any(|ours| name.starts_with(ours))) {
            assert!(known.contains(&name.as_str()), "{} names {name}", source.path);
            needed.push((part, name));
        }
    }
    for (part, known) in KNOWN {
        for name in known {
            let is_needed = needed.iter().any(|(by, needed)| *by == part && needed == name);
            assert!(is_needed, "{part} does not name {name} any more");
        }
    }
}

#[test]
fn crates_of_others_stay_in_the_parts_that_wrap_them() {
    for source in all() {
        let part = part(&source);
        for name in crates(&source) {
            let only = ONLY_IN.iter().find(|(wrapped, _)| *wrapped == name);
            let allowed = only.is_none_or(|(_, parts)| parts.contains(&part));
            assert!(allowed, "{} names {name}", source.path);
        }
    }
}

#[test]
fn the_model_and_the_words_have_no_input_and_output() {
    for source in PURE.into_iter().flat_map(sources) {
        for path in paths(&source) {
            let impure = IMPURE
                .iter()
                .find(|name| path == **name || path.starts_with(&format!("{name}::")));
            assert_eq!(impure, None, "{}: {path}", source.path);
        }
    }
}
