//! `poisontrace incidents` on a store, as a user runs it.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking; its helper functions too"
)]

mod common;

use std::{fs, path::Path, process::Output};

use common::poisontrace;
use serde_json::Value;

/// A store of layout 1, with two incidents of the lab.
fn store() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stores/layout-1.db");
    fs::copy(file, dir.path().join("incidents.db")).unwrap();
    dir
}

fn incidents(dir: &Path, more: &[&str]) -> Output {
    let mut arguments = vec!["incidents", "--state-dir", dir.to_str().unwrap()];
    arguments.extend(more);
    poisontrace(arguments)
}

/// The store that poisontrace 0.1.0 wrote of four recordings of the lab: layout 2, schema version 1.
#[test]
fn a_store_of_0_1_0_is_opened_and_its_incidents_shown() {
    let dir = tempfile::tempdir().unwrap();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stores/0.1.0.db");
    fs::copy(file, dir.path().join("incidents.db")).unwrap();
    let list = String::from_utf8(incidents(dir.path(), &[]).stdout).unwrap();
    assert_eq!(list.lines().count(), 1 + 5, "{list}");

    let state = dir.path().to_str().unwrap();
    let shown = poisontrace([
        "explain",
        "--state-dir",
        state,
        "20261122T152731Z-140-7ffa751d3000",
    ]);
    let text = String::from_utf8(shown.stdout).unwrap();
    // Its text is what 0.1.0 wrote.
    assert!(
        text.contains("guest_panicked, cause mce_overflow (certain)"),
        "{text}"
    );
    assert!(text.contains("still held an earlier one"), "{text}");
    assert!(text.contains("the VMM tells vCPU 0"), "{text}");
    let why = poisontrace([
        "explain",
        "--state-dir",
        state,
        "--why",
        "20261122T152731Z-140-7ffa751d3000",
    ]);
    let why = String::from_utf8(why.stdout).unwrap();
    assert!(
        why.len() > text.len() && why.contains("total: 1 exit on this page"),
        "{why}"
    );

    let export = incidents(dir.path(), &["export"]);
    for line in String::from_utf8(export.stdout).unwrap().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let answer = serde_json::json!({
            "schema_version": line["schema_version"], "host": line["host"], "incidents": [line["incident"]], "host_events": []
        });
        assert_eq!(common::schema_errors(&answer), Vec::<String>::new());
        assert!(line["verdicts"][0]["summary"].is_string(), "{line}");
    }
}

#[test]
fn an_export_is_one_incident_a_line() {
    let dir = store();
    let output = incidents(dir.path(), &["export"]);
    assert!(output.status.success(), "{output:?}");
    let lines: Vec<Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["schema_version"], 2);
    assert_eq!(lines[0]["incident"]["cause"], "mce_overflow");
    assert!(lines[0]["host"]["kernel"].is_string());

    let id = lines[1]["incident"]["id"].as_str().unwrap();
    let file = dir.path().join("one.jsonl");
    let to = ["export", id, "--output", file.to_str().unwrap()];
    assert!(incidents(dir.path(), &to).status.success());
    assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), 1);
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(
        incidents(dir.path(), &to).status.code(),
        Some(2),
        "not overwritten"
    );
    assert_eq!(incidents(dir.path(), &["export", "none"]).status.code(), Some(1));
}

#[test]
fn pruning_deletes_by_age_and_by_size() {
    let dir = store();
    let stdout = |arguments: &[&str]| String::from_utf8(incidents(dir.path(), arguments).stdout).unwrap();
    assert_eq!(stdout(&["prune", "--older-than", "90d"]), "0 incidents deleted\n");
    assert_eq!(stdout(&["prune", "--max-size", "10G"]), "0 incidents deleted\n");
    assert_eq!(stdout(&["prune", "--max-size", "1K"]), "2 incidents deleted\n");
    assert_eq!(stdout(&[]), "no incident has been recorded\n");
    for wrong in [&["prune"][..], &["prune", "--older-than", "soon"]] {
        assert_eq!(incidents(dir.path(), wrong).status.code(), Some(2), "{wrong:?}");
    }
    let absent = incidents(&dir.path().join("nothing"), &["prune", "--max-size", "1K"]);
    assert_eq!(absent.status.code(), Some(2));
    assert!(!dir.path().join("nothing").exists());
}
