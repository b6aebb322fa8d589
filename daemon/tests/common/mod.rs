//! Helpers for the tests of the binary.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking; its helper functions too"
)]

use std::{
    ffi::OsStr,
    process::{Command, Output},
};

use serde_json::Value;

/// Runs the binary.
pub fn poisontrace<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Output {
    Command::new(env!("CARGO_BIN_EXE_poisontrace"))
        .args(arguments)
        .output()
        .unwrap()
}

#[allow(dead_code, reason = "each file of tests uses its part")]
/// The JSON answer, checked against the schema.
pub fn answer(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let errors = schema_errors(&json);
    assert!(errors.is_empty(), "{errors:#?}");
    json
}

#[allow(dead_code, reason = "each file of tests uses its part")]
/// What the schema rejects of an answer.
pub fn schema_errors(json: &Value) -> Vec<String> {
    let schema = serde_json::from_str(include_str!("../../report/explain.schema.json")).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    validator
        .iter_errors(json)
        .map(|e| format!("{e} at {}", e.instance_path))
        .collect()
}
