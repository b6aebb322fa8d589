//! English of ours is written in the report crate, in errors and in log messages, and is for people: no code branches on
//! it, cuts it or looks for it. The import crate is left out, as it reads what others wrote.

use super::source::{Literal, Source, sources};

/// Crates that contain messages, but may not compare them.
const MESSAGES: [&str; 16] = [
    "daemon/http/src",
    "daemon/sources/src",
    "daemon/src",
    "daemon/kernel-facts/src",
    "daemon/recording/src",
    "daemon/report/src",
    "daemon/sqlite/src",
    "xtask/bench/src",
    "xtask/lab/guest-init/src",
    "xtask/lab/harness/src",
    "xtask/lab/host-init/src",
    "xtask/lab/protocol/src",
    "xtask/lab/scenario-vmm/src",
    "xtask/lab/storm-vmm/src",
    "xtask/src",
    "xtask/support/src",
];
/// Crates without messages: no words at all.
const NO_WORDS: [&str; 1] = ["daemon/model/src"];

/// What looks like English of ours and is somebody else's.
const FOREIGN: [(&str, &str); 23] = [
    ("daemon/model/src/hex.rs", "serde's errors about a number"),
    (
        "daemon/model/src/event/decode.rs",
        "stands in the event where the kernel has no name for a type of page or a result",
    ),
    (
        "daemon/model/src/event/totals.rs",
        "names of exits, as JSON has them",
    ),
    (
        "daemon/model/src/event/log_statement.rs",
        "vendors and products of DMI",
    ),
    (
        "daemon/kernel-facts/src/format.rs",
        "a heading of tracefs' format files",
    ),
    (
        "daemon/recording/src/compat/probe_texts.rs",
        "texts of recordings that are kept: released versions wrote them",
    ),
    (
        "daemon/model/src/correlate/memory_failures.rs",
        "names that the kernel gives to types of pages (mm/memory-failure.c)",
    ),
    (
        "daemon/model/src/correlate/by_process.rs",
        "names that the kernel gives to types of pages (mm/memory-failure.c)",
    ),
    (
        "daemon/model/src/incident/log_evidence.rs",
        "what the guest's kernel writes when it panics (arch/x86/kernel/cpu/mce/core.c)",
    ),
    (
        "daemon/model/src/incident/verdict/log_evidence.rs",
        "reasons that kernels give for a machine check (arch/x86/kernel/cpu/mce/severity.c)",
    ),
    ("daemon/sources/src/host/machine.rs", "the vendor of a BIOS"),
    (
        "daemon/sources/src/inputs/vm_registry/cmdline.rs",
        "options of VMMs",
    ),
    ("xtask/bench/src/machine/mod.rs", "a key of /proc/cpuinfo"),
    (
        "xtask/lab/harness/src/storms/flush_check.rs",
        "what a kernel writes when it panics",
    ),
    (
        "xtask/lab/harness/src/storms/lab.rs",
        "how Rust's `main` reports an error",
    ),
    (
        "xtask/lab/host-init/src/machine.rs",
        "lines of /proc/meminfo and of the kernel's log",
    ),
    ("xtask/lab/host-init/src/vmm.rs", "QEMU's monitor"),
    ("xtask/src/fuzz.rs", "libFuzzer's errors and Rust's panics"),
    ("xtask/src/test/miri.rs", "what cargo test prints"),
    ("xtask/src/test/report.rs", "what a kernel writes when it panics"),
    ("xtask/src/test/storm.rs", "a mnemonic of the disassembler"),
    ("xtask/src/toolchain/debian.rs", "what rustc prints"),
    ("xtask/support/src/debian.rs", "what apt prints"),
];

/// Parts that hand what there is to report to the report crate; what they word themselves are errors and log messages.
const NO_ANSWERS: [&str; 2] = ["daemon/src/cli", "daemon/src/engine"];
/// Of these, files with errors that are no [`is_message`] by their shape, or with lines about the program itself.
const STATUS: [(&str, &str); 13] = [
    ("daemon/src/cli/config.rs", "which configuration is read"),
    ("daemon/src/cli/explain.rs", "errors about the files"),
    (
        "daemon/src/cli/incidents.rs",
        "errors about the store and the arguments",
    ),
    ("daemon/src/cli/output.rs", "errors about the output file"),
    ("daemon/src/cli/progress.rs", "a bar's layout"),
    ("daemon/src/cli/renamed.rs", "errors about the arguments"),
    ("daemon/src/cli/watch/scrape.rs", "errors about the daemon"),
    ("daemon/src/cli/watch/state.rs", "errors about the daemon"),
    ("daemon/src/engine/attach.rs", "a line for the service manager"),
    ("daemon/src/engine/event_loop.rs", "a line for the health check"),
    ("daemon/src/engine/kvm_module.rs", "that the daemon waits for KVM"),
    ("daemon/src/engine/replay.rs", "what is being replayed"),
    ("daemon/src/engine/run.rs", "a line for the service manager"),
];

/// Functions that compare or cut a text.
const COMPARE: [&str; 18] = [
    "starts_with",
    "ends_with",
    "contains",
    "strip_prefix",
    "strip_suffix",
    "find",
    "rfind",
    "split",
    "rsplit",
    "split_once",
    "rsplit_once",
    "splitn",
    "split_terminator",
    "matches",
    "trim_start_matches",
    "trim_end_matches",
    "eq_ignore_ascii_case",
    "replace",
];

/// Two words, or one with a space at its end.
fn is_english(text: &str) -> bool {
    let is_word = |word: &&str| word.len() > 1 && word.bytes().all(|b| b.is_ascii_alphabetic());
    let words = text
        .split([' ', ',', ';', ':', '.', '!', '?'])
        .filter(is_word)
        .count();
    text.contains(' ') && (words > 1 || words == 1 && text.trim() != text && text.len() > 3)
}

/// Two words or more, or what names a flag or a command.
fn is_ours(text: &str) -> bool {
    is_english(text) || text.contains('`') || text.len() > 2 && text.starts_with("--")
}

/// Whether a literal is of an error or a log message.
fn is_message(source: &Source, literal: &Literal) -> bool {
    let before = source.around(literal).0;
    let statement = before.rsplit(';').next().unwrap_or_default();
    ["tracing::", "Failure::new(", "#[error("]
        .iter()
        .any(|begin| statement.contains(begin))
}

/// Whether the code compares something with this literal: by a function, an operator or as a pattern.
fn is_compared(source: &Source, literal: &Literal) -> bool {
    let (before, after) = source.around(literal);
    let before = before.trim_end().trim_end_matches('&').trim_end();
    if before.ends_with("==") || before.ends_with("!=") {
        return true;
    }
    let after = after.trim_start();
    if after.starts_with("==") || after.starts_with("!=") || is_pattern(after) {
        return true;
    }
    // `contains("")`, and a list of patterns: `contains(["", ""])`.
    let open = before.trim_end_matches(|c: char| c == '"' || c == ',' || c == '[' || c.is_whitespace());
    let function = open.strip_suffix('(').unwrap_or_default();
    let name = function
        .rsplit(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .next();
    name.is_some_and(|name| COMPARE.contains(&name)) && function.ends_with(name.unwrap_or_default())
}

/// `"" | "" if … =>`.
fn is_pattern(after: &str) -> bool {
    let mut rest = after;
    while let Some(next) = rest.strip_prefix('|').map(str::trim_start) {
        let Some(next) = next.strip_prefix("\"\"") else {
            return false;
        };
        rest = next.trim_start();
    }
    rest.starts_with("=>") || rest.starts_with("if ")
}

fn is_foreign(source: &Source) -> bool {
    FOREIGN.iter().any(|(path, _)| source.path == *path)
}

#[test]
fn no_code_branches_on_english_of_ours() {
    for folder in MESSAGES {
        for source in sources(folder).iter().filter(|source| !is_foreign(source)) {
            for literal in &source.literals {
                assert!(
                    !(is_ours(&literal.text) && is_compared(source, literal)),
                    "{}: {:?}: make it a type",
                    source.path,
                    literal.text
                );
            }
        }
    }
}

#[test]
fn no_code_looks_for_the_marks_of_a_command() {
    for source in MESSAGES.into_iter().flat_map(sources) {
        assert!(!source.code.contains("'`'"), "{}", source.path);
    }
}

#[test]
fn what_the_engine_shows_is_worded_by_the_report() {
    let mut wrong = Vec::new();
    for source in NO_ANSWERS.into_iter().flat_map(sources) {
        let is_status = STATUS.iter().any(|(path, _)| *path == source.path);
        let own: Vec<&str> = source
            .literals
            .iter()
            .filter(|literal| is_english(&literal.text) && !is_message(&source, literal))
            .map(|literal| literal.text.as_str())
            .collect();
        match own.is_empty() {
            false if !is_status => wrong.push(format!("{}: {own:?}", source.path)),
            true if is_status => wrong.push(format!("{} has no words of its own any more", source.path)),
            _ => {}
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_model_has_no_words() {
    for folder in NO_WORDS {
        for source in sources(folder).iter().filter(|source| !is_foreign(source)) {
            for literal in &source.literals {
                // An error is worded where it arises; documentation is for readers of the code.
                let before = source.around(literal).0;
                let line = before.rsplit('\n').next().unwrap_or_default().trim_start();
                let is_error = before.ends_with("#[error(") || line.starts_with("#[doc");
                assert!(
                    is_error || !is_english(&literal.text),
                    "{}: {:?}: the report crate words it",
                    source.path,
                    literal.text
                );
            }
        }
    }
}

#[test]
fn every_exception_is_needed() {
    for (path, reason) in FOREIGN {
        let folder = path.rsplit_once('/').unwrap().0;
        let source = sources(folder).into_iter().find(|source| source.path == path);
        let source = source.unwrap_or_else(|| panic!("{path} is gone ({reason})"));
        let wordless = NO_WORDS.iter().any(|folder| path.starts_with(folder));
        let needed = source
            .literals
            .iter()
            .any(|literal| is_ours(&literal.text) && (wordless || is_compared(&source, literal)));
        assert!(needed, "{path} has no words any more ({reason})");
    }
}

#[test]
fn comparisons_are_found_in_every_shape() {
    for code in [
        "if text.starts_with(\"the guest\") {}",
        "text.split_once(&\" as \")",
        "text.contains([\"no kprobes here\", \"x\"])",
        "if kind == \"lost records\" {}",
        "problem.contains(\"--allow-truncated\")",
        "problem.ends_with(\"`\")",
        "match text { \"a b\" | \"the end\" => {} }",
        "match text { \"the end\" if late => {} }",
        "text.strip_prefix(r#\"no \"x\" as \"#)",
    ] {
        let source = Source::of(code);
        let found = source
            .literals
            .iter()
            .any(|l| is_ours(&l.text) && is_compared(&source, l));
        assert!(found, "{code}");
    }
    for code in [
        "format!(\"the guest {x}\")",
        "tracing::warn!(\"cannot read\")",
        "text.starts_with(\"kvm_exit\")",
        "text.strip_prefix(\"Tgid:\")",
        "push((\"a word\", contains))",
    ] {
        let source = Source::of(code);
        let found = source
            .literals
            .iter()
            .any(|l| is_ours(&l.text) && is_compared(&source, l));
        assert!(!found, "{code}");
    }
}
