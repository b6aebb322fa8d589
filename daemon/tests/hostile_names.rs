//! A VMM whose name contains terminal escapes, new lines, markup and reversed text, in an uncleaned recording: none of it
//! takes effect in a terminal, a page, a log line or a label.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking; its helper functions too"
)]

mod common;
#[path = "daemon_process/mod.rs"]
mod daemon_process;
#[path = "synthetic_load/mod.rs"]
mod synthetic_load;

use std::path::{Path, PathBuf};

use common::poisontrace;
use daemon_process::{Replay, record};
use poisontrace_model::event::{EventKind, Vmm};
use synthetic_load::{Load, Page};

const NAME: &str =
    "evil\x1b[2J\x1b]0;owned\x07\nlevel=info all is well\r<script>alert(1)</script>\u{202e}\u{9b}31m\"},";

fn hostile(dir: &Path) -> PathBuf {
    let recording = dir.join("hostile.ptrace");
    let page = Page { vm: 1, no: 1 };
    let mut load = Load::default();
    let vmm = Vmm {
        is_vmm: Some(true),
        name: Some(NAME.to_owned()),
        uuid: Some(NAME.to_owned()),
        vmm: Some(NAME.to_owned()),
        start_ticks: Some(7),
        name_guess: None,
        container: None,
    };
    load.at(page.pid(), page.pid(), EventKind::Vmm(vmm));
    load.poison(page, 12);
    load.touch(page, page, 0, 1);
    load.inject(page, 0);
    load.panics(page);
    record(&recording, &load.events);
    recording
}

/// No control characters for a terminal, and no line that begins with the VMM's text.
fn is_clean(what: &str, text: &str) {
    let bad = text
        .chars()
        .find(|c| c.is_control() && !matches!(c, '\n' | '\t') || *c == '\u{202e}');
    assert_eq!(bad, None, "{what}: {text:?}");
    assert!(
        !text
            .lines()
            .any(|line| line.starts_with("level=info all is well")),
        "{what}: {text}"
    );
}

#[test]
fn a_hostile_name_has_no_effect() {
    let dir = tempfile::tempdir().unwrap();
    let recording = hostile(dir.path());
    for format in ["text", "json", "html"] {
        let output = poisontrace([
            "explain",
            "--format",
            format,
            "--from",
            recording.to_str().unwrap(),
        ]);
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("evil"), "{format}");
        if format != "json" {
            is_clean(format, &text);
        }
        if format == "html" {
            assert!(!text.contains("<script>alert"), "markup of the VMM's own");
        }
        is_clean("log", &String::from_utf8(output.stderr).unwrap());
    }

    let state = dir.path().join("state");
    let mut daemon = Replay::start([
        Path::new("--from"),
        &recording,
        Path::new("--state-dir"),
        &state,
        Path::new("--per-vm-metrics"),
        Path::new("--keep-serving"),
    ]);
    // The log and the standard output are two pipes, read in no particular order.
    let (mut log, mut serving) = (String::new(), false);
    while !serving || !log.contains("evil") {
        let line = daemon.wait_for("");
        serving |= line.contains("still serving");
        log += &line;
        log.push('\n');
    }
    assert!(log.contains("evil"), "{log}");
    is_clean("log of the daemon", &log);
    let (metrics, _) = daemon.metrics();
    let (_, body) = metrics.split_once("\r\n\r\n").unwrap();
    assert!(body.contains("vm=\"evil"), "{body}");
    is_clean("labels", body);
    daemon.stop();

    let list = poisontrace(["incidents", "--state-dir", state.to_str().unwrap()]);
    is_clean("list", &String::from_utf8(list.stdout).unwrap());
}
