//! `explain --from` on traces, logs and consoles that other tools recorded, alone and together.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking; its helper functions too"
)]

#[path = "../common/mod.rs"]
mod common;
mod dialects;
mod field;
mod field_cases;
mod files;
mod golden;
mod guests;
mod reformatted;
mod silent_cases;
mod synthetic_traces;
mod walks;
mod wordings;
mod yearless;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use common::poisontrace;
use serde_json::Value;

fn trace(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/traces")
        .join(name)
}

fn amd(name: &str) -> PathBuf {
    trace("amd-linux-guest-panic").join(name)
}

fn explain(files: &[PathBuf]) -> Output {
    let options = ["explain", "--format", "json", "--from"].map(PathBuf::from);
    poisontrace(options.iter().chain(files))
}

/// The incidents of an answer that follows the JSON schema.
fn incidents_of(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{output:?}");
    if output.stdout.is_empty() {
        return Vec::new();
    }
    common::answer(output)["incidents"].as_array().unwrap().clone()
}

fn incidents(files: &[PathBuf]) -> Vec<Value> {
    let output = explain(files);
    assert!(output.stderr.is_empty(), "{output:?}");
    incidents_of(&output)
}

fn only(files: &[PathBuf]) -> Value {
    let mut all = incidents(files);
    assert_eq!(all.len(), 1, "{all:#?}");
    all.remove(0)
}

/// The incidents of one text, read as a file.
fn explain_text(text: &str) -> Vec<Value> {
    reformatted::hold(text);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("text");
    fs::write(&file, text).unwrap();
    incidents(&[file])
}

fn verdict(i: &Value) -> (&str, &str, &str) {
    let value = |key: &str| i[key].as_str().unwrap();
    (value("outcome"), value("cause"), value("confidence"))
}

fn misses(i: &Value, text: &str) -> bool {
    let missing = i["missing"].as_array().unwrap();
    missing
        .iter()
        .any(|m| m["message"].as_str().unwrap().contains(text))
}
