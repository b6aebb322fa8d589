//! `perf kvm stat` of a storm, as an administrator would run it.

use std::fs::{self, File};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::quiet;

const PERF: &str = "/bin/perf";
const DATA: &str = "/tmp/perf.data";
const WORDS: &str = "/tmp/perf.log";
pub struct Perf(Child);

impl Perf {
    pub fn start() -> Result<Self> {
        let words = File::create(WORDS).context("cannot write perf's words")?;
        let mut child = Command::new(PERF)
            .args(["kvm", "stat", "record", "-a", "-o", DATA])
            .stdin(Stdio::null())
            .stdout(words.try_clone()?)
            .stderr(words)
            .spawn()
            .context("cannot start perf")?;
        quiet::wait(&mut child).with_context(|| format!("perf did not begin: {}", logged()))?;
        Ok(Self(child))
    }

    /// Ends the recording and writes its report.
    pub fn save(mut self, file: &str) -> Result<()> {
        let pid = Pid::from_child(&self.0);
        kill_process(pid, Signal::INT).context("cannot end perf")?;
        self.0.wait().context("perf does not end")?;
        let report = Command::new(PERF)
            .args(["kvm", "-i", DATA, "stat", "report"])
            .stdin(Stdio::null())
            .output()
            .context("cannot start perf")?;
        let errors = String::from_utf8_lossy(&report.stderr);
        ensure!(
            report.status.success(),
            "perf kvm stat report: {errors} {}",
            logged()
        );
        // Some versions print the table on one, some on the other.
        let text = [&report.stdout[..], errors.as_bytes(), logged().as_bytes()].concat();
        fs::write(file, text).with_context(|| format!("cannot write {file}"))
    }
}

fn logged() -> String {
    fs::read_to_string(WORDS).unwrap_or_default().trim().to_owned()
}
