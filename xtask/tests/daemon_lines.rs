//! A log line or a phrase of the report that changes in the daemon alone would be noticed by a boot of the lab only; this
//! notices it at once.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use lab_protocol::daemon_lines::{ALL, IN_INSTALL_STEPS};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All sources below a folder, without those of tests; a string that is continued on the next line is one.
fn sources(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !["tests", "fuzz"].contains(&name.as_str()) {
            sources(&path, text);
        } else if name.ends_with(".rs") {
            let mut continued = false;
            for line in fs::read_to_string(&path).unwrap().lines() {
                let part = if continued { line.trim_start() } else { line };
                continued = line.ends_with('\\');
                text.push_str(part.trim_end_matches('\\'));
                if !continued {
                    text.push('\n');
                }
            }
        }
    }
}

#[test]
fn each_line_that_the_lab_looks_for_is_in_the_daemon() {
    let mut text = String::new();
    for folder in ["daemon", "ebpf-probes"] {
        sources(&root().join(folder), &mut text);
    }
    for line in ALL.iter().chain(&IN_INSTALL_STEPS) {
        assert!(text.contains(line), "no source of the daemon has {line:?}");
    }
}

#[test]
fn the_install_steps_look_for_these_lines() {
    let steps = fs::read_to_string(root().join("xtask/lab/harness/src/install/walk.sh")).unwrap();
    for line in IN_INSTALL_STEPS {
        assert!(steps.contains(line), "the steps do not look for {line:?}");
    }
}
