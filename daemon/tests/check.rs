//! `poisontrace check --facts`: the plan for another kernel, without privileges.

mod common;

use std::{fs, path::PathBuf};

use common::poisontrace;

fn facts() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/facts")
}

#[test]
fn the_plan_of_every_saved_kernel_is_the_one_it_printed_itself() {
    let mut kernels = 0;
    for entry in fs::read_dir(facts())
        .unwrap()
        .flatten()
        .filter(|e| e.path().is_dir())
    {
        let live = fs::read_to_string(entry.path().join("plan.txt")).unwrap();
        // As it was asked then.
        let hot_path = match live.contains("from the start (configured)") {
            true => "always",
            false => "on_poison",
        };
        let folder = entry.path();
        let output = poisontrace([
            "check",
            "--hot-path",
            hot_path,
            "--facts",
            &folder.to_string_lossy(),
        ]);
        let printed = String::from_utf8(output.stdout).unwrap();
        assert_eq!(printed, live, "{}", entry.path().display());
        assert_eq!(output.status.code(), Some(0), "{}", entry.path().display());
        kernels += 1;
    }
    assert!(kernels >= 2, "{kernels}");
}

#[test]
fn a_folder_without_facts_or_with_damaged_ones_is_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |wanted: &str| {
        let output = poisontrace(["check", "--facts", &folder.path().to_string_lossy()]);
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{complaint}");
        assert!(
            complaint.contains(wanted) && complaint.lines().count() == 1,
            "{complaint}"
        );
    };
    refused("--save-facts");
    fs::write(folder.path().join("facts.json"), "{\"release\": 7}").unwrap();
    refused("facts.json");
}
