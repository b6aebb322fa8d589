//! The documentation's pictures of the report, from recordings of the lab.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::browser::{Browser, View};
use xtask_support::command;
use xtask_support::paths::Paths;
use xtask_support::preflight;
use xtask_support::progress::Progress;

/// Recording, picture, and how it is looked at.
const PICTURES: [(&str, &str, View); 2] = [
    (
        "storm-intel-6.12",
        "report-storm",
        View {
            width: 760,
            height: 2800,
            dark: false,
        },
    ),
    (
        "panic-amd-6.12",
        "report-phone-dark",
        View {
            width: 390,
            height: 1900,
            dark: true,
        },
    ),
];

pub fn take(paths: &Paths, daemon: &Path, progress: &Progress) -> Result<()> {
    preflight::ensure(&preflight::FOR_LOOKING, progress)?;
    let browser = Browser::find()?.context("no Chromium on this machine: apt-get install chromium")?;
    let folder = paths.root.join("daemon/docs/img");
    fs::create_dir_all(&folder)?;
    let pages = tempfile::tempdir()?;
    for (recording, picture, view) in PICTURES {
        let page = pages.path().join(format!("{picture}.html"));
        let recording = paths
            .root
            .join(format!("daemon/tests/recordings/{recording}.ptrace"));
        let mut explain = command::clean(daemon);
        explain
            .args(["explain", "--format", "html", "--output"])
            .arg(&page);
        command::output(explain.arg("--from").arg(recording))?;
        let picture = folder.join(format!("{picture}.png"));
        browser.screenshot(&page, view, &picture)?;
        progress.note(format!("{}", picture.display()));
    }
    Ok(())
}
