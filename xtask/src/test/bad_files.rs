//! Files that are no recording, or not a whole one, or not of this version: one line on standard error, exit
//! status 2, nothing printed.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::replay::Bench;
use crate::tally::Tally;
use lab_harness::run_files::Files;

const NAME: &str = "recording";

pub fn examine(files: &Files, daemon: &Path, tally: &mut Tally) {
    let refused = |make: fn(&[u8]) -> Result<Vec<u8>>| -> Result<()> {
        let recording = fs::read(files.path("recording.ptrace")).context("the lab left no recording")?;
        is_refused(&Bench::new(daemon)?, &make(&recording)?)
    };
    tally.check(NAME, "truncated_is_refused", refused(truncated));
    tally.check(NAME, "plain_text_is_refused", refused(plain_text));
    tally.check(NAME, "empty_is_refused", refused(|_| Ok(Vec::new())));
    tally.check(NAME, "other_version_is_refused", refused(other_version));
}

fn truncated(recording: &[u8]) -> Result<Vec<u8>> {
    Ok(recording[..recording.len() * 2 / 3].to_vec())
}

fn plain_text(_: &[u8]) -> Result<Vec<u8>> {
    Ok(b"Dear diary,\ntoday a guest died.\n".to_vec())
}

fn other_version(recording: &[u8]) -> Result<Vec<u8>> {
    let end = recording
        .iter()
        .position(|byte| *byte == b'\n')
        .context("the recording has no first line")?;
    let mut head: Value = serde_json::from_slice(&recording[..end]).context("its first line is not JSON")?;
    let version = head
        .get_mut("poisontrace_recording")
        .context("its first line has no version in poisontrace_recording")?;
    *version = json!(9999);
    let mut other = serde_json::to_vec(&head)?;
    other.extend_from_slice(&recording[end..]);
    Ok(other)
}

fn is_refused(bench: &Bench, content: &[u8]) -> Result<()> {
    let output = bench.explain(content)?;
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        output.status.code() == Some(2),
        "{}, expected exit status 2: {complaint}",
        output.status
    );
    ensure!(
        output.stdout.is_empty(),
        "it printed: {}",
        String::from_utf8_lossy(&output.stdout)
    );
    ensure!(
        complaint.lines().count() == 1,
        "not one line on standard error: {complaint}"
    );
    Ok(())
}
