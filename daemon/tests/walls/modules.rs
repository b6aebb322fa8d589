//! Which module knows which.

use std::collections::{BTreeMap, BTreeSet};

use super::source::{Source, root, sources};

/// A part, with those that it may know.
type Part = (&'static str, &'static [&'static str]);

/// Parts of a tree, each with those that it may know; only those above it, so that there is no circle.
const PARTS: [(&str, &[Part]); 2] = [
    (
        "daemon/sources/src",
        &[("host", &[]), ("probes", &["host"]), ("inputs", &["host"])],
    ),
    (
        "daemon/src",
        &[
            ("failure", &[]),
            ("config", &[]),
            ("fair", &[]),
            ("private_file", &["failure"]),
            ("terminal", &["failure"]),
            ("service", &["config"]),
            (
                "outputs",
                &["config", "failure", "fair", "private_file", "service"],
            ),
            (
                "engine",
                &["config", "failure", "fair", "outputs", "service", "terminal"],
            ),
            (
                "cli",
                &[
                    "config",
                    "engine",
                    "failure",
                    "outputs",
                    "private_file",
                    "service",
                    "terminal",
                ],
            ),
        ],
    ),
];

/// Crates and programs, each a tree of modules: all members of the workspace.
const TREES: [&str; 19] = [
    "daemon/model/src",
    "daemon/recording/src",
    "daemon/kernel-facts/src",
    "daemon/import/src",
    "daemon/report/src",
    "daemon/sqlite/src",
    "daemon/sources/src",
    "daemon/http/src",
    "daemon/src",
    "ebpf-probes/src",
    "xtask/src",
    "xtask/bench/src",
    "xtask/support/src",
    "xtask/lab/guest-init/src",
    "xtask/lab/harness/src",
    "xtask/lab/host-init/src",
    "xtask/lab/protocol/src",
    "xtask/lab/scenario-vmm/src",
    "xtask/lab/storm-vmm/src",
];

/// `a::{b, c::d}` as paths.
fn expand(prefix: &str, tree: &str, into: &mut Vec<String>) {
    let tree = tree.trim();
    let join = |end: &str| match (prefix, end) {
        ("", end) => end.to_owned(),
        (prefix, "") => prefix.to_owned(),
        (prefix, end) => format!("{prefix}::{end}"),
    };
    let Some((path, list)) = tree.split_once('{') else {
        return into.push(join(tree.split_whitespace().next().unwrap_or_default()));
    };
    let prefix = join(path.trim_end().trim_end_matches("::"));
    let (mut depth, mut item) = (0, String::new());
    for c in list.chars() {
        match c {
            '}' if depth == 0 => break,
            ',' if depth == 0 => expand(&prefix, &std::mem::take(&mut item), into),
            _ => {
                depth += i32::from(c == '{') - i32::from(c == '}');
                item.push(c);
            }
        }
    }
    if !item.trim().is_empty() {
        expand(&prefix, &item, into);
    }
}

/// Paths that a file names: of its `use`s, and those in its code that begin with `crate` or `super`.
pub fn paths(source: &Source) -> Vec<String> {
    let mut all = Vec::new();
    let mut rest = String::new();
    for statement in source.code.split_inclusive(';') {
        let begin = statement.rfind("use ").filter(|at| {
            let before = statement[..*at].trim_end();
            before.is_empty() || before.ends_with(['}', ']', ')']) || before.ends_with("pub")
        });
        match begin.filter(|_| statement.ends_with(';')) {
            Some(at) => {
                expand("", statement[at + 4..].trim_end_matches(';'), &mut all);
                rest.push_str(&statement[..at]);
            }
            None => rest.push_str(statement),
        }
    }
    let words = rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
    all.extend(words.filter(|word| word.contains("::")).map(str::to_owned));
    all
}

/// `daemon/src/engine/pipeline/mod.rs` in `daemon/src` is `engine::pipeline`; the root is "".
fn module(path: &str, tree: &str) -> String {
    let path = path.strip_prefix(tree).unwrap().trim_start_matches('/');
    let path = path.trim_end_matches(".rs");
    let path = path.strip_suffix("/mod").unwrap_or(path);
    match path {
        "lib" | "main" => String::new(),
        path => path.replace('/', "::"),
    }
}

/// The module of the tree that a path names, as seen from another.
fn named(path: &str, from: &str, known: &BTreeSet<String>) -> Option<String> {
    let mut at: Vec<&str> = from.split("::").filter(|part| !part.is_empty()).collect();
    let mut parts = path.split("::").peekable();
    match *parts.peek()? {
        "crate" => at.clear(),
        "super" => {
            at.pop();
        }
        "self" => {}
        _ => return None,
    }
    parts.next();
    for part in parts {
        match part {
            "super" => {
                at.pop();
            }
            part => at.push(part),
        }
    }
    while !at.is_empty() {
        let module = at.join("::");
        if known.contains(&module) {
            return Some(module);
        }
        at.pop();
    }
    None
}

/// Each module of a tree with those that it names. A parent and its children are one purpose.
fn arrows(tree: &str) -> BTreeMap<String, BTreeSet<String>> {
    let sources = sources(tree);
    let known: BTreeSet<String> = sources.iter().map(|source| module(&source.path, tree)).collect();
    let is_below = |a: &str, b: &str| a == b || b.is_empty() || a.starts_with(&format!("{b}::"));
    let of = |source: &Source| {
        let from = module(&source.path, tree);
        let named = paths(source)
            .into_iter()
            .filter_map(|path| named(&path, &from, &known));
        let others: BTreeSet<String> = named
            .filter(|to| !is_below(to, &from) && !is_below(&from, to))
            .collect();
        (from, others)
    };
    sources.iter().map(of).collect()
}

/// A way from a module back to itself.
fn circle(arrows: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    // Modules that lead to none of those left are in no circle.
    let mut left: BTreeSet<&String> = arrows.keys().collect();
    loop {
        let leaves: Vec<&String> = left
            .iter()
            .filter(|from| !arrows[**from].iter().any(|to| left.contains(to)))
            .copied()
            .collect();
        if leaves.is_empty() {
            break;
        }
        leaves.iter().for_each(|leaf| {
            left.remove(*leaf);
        });
    }
    let mut way = vec![(*left.first()?).clone()];
    loop {
        let next = arrows[way.last()?].iter().find(|to| left.contains(to))?;
        if let Some(begin) = way.iter().position(|known| known == next) {
            return Some(way.split_off(begin));
        }
        way.push(next.clone());
    }
}

#[test]
fn no_modules_know_each_other_in_a_circle() {
    for tree in TREES {
        assert_eq!(circle(&arrows(tree)), None, "{tree}");
    }
}

#[test]
fn each_part_of_the_daemon_knows_only_parts_below_it() {
    for (tree, parts) in PARTS {
        let mut below = BTreeSet::new();
        for (part, may_know) in parts {
            for known in *may_know {
                assert!(
                    below.contains(known),
                    "{part} may not know {known}: it is not below"
                );
            }
            below.insert(part);
        }
        let top = |module: &str| module.split("::").next().unwrap_or_default().to_owned();
        for (from, to) in arrows(tree) {
            let (from, part) = (&from, top(&from));
            // lib.rs and main.rs.
            if part.is_empty() {
                continue;
            }
            let may_know = parts.iter().find(|(name, _)| *name == part);
            let may_know = may_know.unwrap_or_else(|| panic!("{part} is no known part")).1;
            for to in to {
                let other = top(&to);
                assert!(
                    other == part || may_know.contains(&other.as_str()),
                    "{from} knows {to}: {part} may know {may_know:?}"
                );
            }
        }
    }
}

#[test]
fn each_member_of_the_workspace_is_a_tree() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let members = manifest.split("members = [").nth(1).unwrap();
    let members = members.split(']').next().unwrap();
    let mut trees = BTreeSet::new();
    for member in members.split(',').map(|member| member.trim().trim_matches('"')) {
        match member.strip_suffix("/*") {
            Some(folder) => trees.extend(std::fs::read_dir(root().join(folder)).unwrap().map(|entry| {
                let name = entry.unwrap().file_name().into_string().unwrap();
                format!("{folder}/{name}/src")
            })),
            None => _ = trees.insert(format!("{member}/src")),
        }
    }
    assert_eq!(trees, TREES.map(str::to_owned).into());
}

#[test]
fn uses_are_read_in_every_shape() {
    let source = Source::of(
        "use super::{a::{B, c}, d};\nfn f() -> crate::e::F { super::super::g::h() }\npub use crate::i::J;",
    );
    let mut all = paths(&source);
    all.sort();
    let expected = [
        "crate::e::F",
        "crate::i::J",
        "super::a::B",
        "super::a::c",
        "super::d",
        "super::super::g::h",
    ];
    assert_eq!(all, expected);
    let known = ["m", "m::a", "m::d", "g"].map(str::to_owned).into();
    assert_eq!(named("super::a::B", "m::x", &known), Some("m::a".to_owned()));
    assert_eq!(named("super::super::g::h", "m::x", &known), Some("g".to_owned()));
    assert_eq!(named("std::fs", "m::x", &known), None);
}
