//! The binary on what others kept: traces, logs and consoles, alone and together.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking; its helper functions too"
)]

#[path = "../common/mod.rs"]
mod common;
mod dialects;
mod files;
mod guests;
mod known;
mod unseen;
mod wordings;

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

/// The incidents, held against the contract.
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

/// The answer to one text, as a file.
fn told(text: &str) -> Vec<Value> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("text");
    fs::write(&file, text).unwrap();
    incidents(&[file])
}

fn verdict(i: &Value) -> (&str, &str, &str) {
    let word = |key: &str| i[key].as_str().unwrap();
    (word("outcome"), word("cause"), word("confidence"))
}

fn misses(i: &Value, words: &str) -> bool {
    let missing = i["missing"].as_array().unwrap();
    missing.iter().any(|m| m.as_str().unwrap().contains(words))
}
