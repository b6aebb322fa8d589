//! `poisontrace watch` on a real terminal (tmux): what it shows of a replay, and that it leaves the terminal as it found it.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab_protocol::daemon_cli::{KEEP_SERVING, LISTEN_ADDRESS, MAX_PAUSE};
use lab_protocol::daemon_lines::NO_INCIDENTS;

use crate::prometheus::{Running, free_port};
use crate::tally::Tally;
use xtask_support::command;
use xtask_support::paths::{Paths, program};

const NAME: &str = "watch";
const WITHIN: Duration = Duration::from_secs(60);

pub fn run(paths: &Paths, daemon: &Path, tally: &mut Tally) {
    if program("tmux").is_none() {
        return tally.skip(NAME, "no tmux on this machine: apt-get install tmux");
    }
    tally.check(NAME, "shows_a_storm_and_ends_by_q", ends(paths, daemon, End::Key));
    tally.check(
        NAME,
        "leaves_the_terminal_alone_on_sigterm",
        ends(paths, daemon, End::Signal),
    );
}

#[derive(Clone, Copy)]
enum End {
    Key,
    Signal,
}

fn ends(paths: &Paths, daemon: &Path, end: End) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let address = format!("127.0.0.1:{}", free_port()?);
    let mut replay = command::clean(daemon);
    replay
        .args(["replay", MAX_PAUSE, "2", KEEP_SERVING, LISTEN_ADDRESS, &address])
        .arg("--from")
        .arg(paths.root.join("daemon/tests/recordings/spin-intel-6.12.ptrace"));
    let mut running = Running::start(&mut replay, &folder.path().join("log"))?;
    running.lives()?;
    let terminal = Terminal::new(folder.path())?;
    terminal.types(&format!(
        "stty -a >{0}/before; {1} watch --state-dir {0} --metrics http://{address}/metrics; echo \"status-$?\"; stty -a >{0}/after",
        folder.path().display(),
        daemon.display()
    ))?;
    terminal.shows("15 of 16 attached")?;
    terminal.shows(NO_INCIDENTS)?;
    match end {
        End::Key => terminal.keys(&["q"])?,
        End::Signal => terminal.terminates("watch")?,
    }
    // The line that was typed has no number in it.
    let screen = terminal.shows("status-0")?;
    ensure!(
        !screen.contains("probes ─"),
        "its screen is left behind: {screen}"
    );
    terminal.shows("$")?;
    let stty = |name: &str| std::fs::read_to_string(folder.path().join(name)).context("stty wrote nothing");
    let begun = Instant::now();
    while stty("after").is_ok_and(|text| text.is_empty()) && begun.elapsed() < WITHIN {
        std::thread::sleep(Duration::from_millis(50));
    }
    ensure!(
        stty("before")? == stty("after")?,
        "the terminal's settings are changed"
    );
    Ok(())
}

/// A tmux server of our own, with one window.
struct Terminal {
    socket: std::path::PathBuf,
}

impl Terminal {
    fn new(folder: &Path) -> Result<Self> {
        let terminal = Self {
            socket: folder.join("tmux"),
        };
        command::output(terminal.tmux().args([
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-x",
            "150",
            "-y",
            "40",
            "env PS1='$ ' sh",
        ]))?;
        Ok(terminal)
    }

    fn tmux(&self) -> Command {
        let mut tmux = command::clean("tmux");
        tmux.arg("-S").arg(&self.socket).env_remove("TMUX");
        tmux
    }

    fn keys(&self, keys: &[&str]) -> Result<()> {
        command::output(self.tmux().arg("send-keys").args(keys)).map(drop)
    }

    fn types(&self, line: &str) -> Result<()> {
        self.keys(&["-l", line])?;
        self.keys(&["Enter"])
    }

    /// Sends SIGTERM to the process of the window whose command line holds `word`.
    fn terminates(&self, word: &str) -> Result<()> {
        let shell = command::output(self.tmux().args(["display-message", "-p", "#{pane_pid}"]))?;
        let children = format!("/proc/{0}/task/{0}/children", shell.trim());
        let children = std::fs::read_to_string(children)?;
        let child = children
            .split_whitespace()
            .find(|pid| {
                std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains(word))
            })
            .context("the window runs no such program")?;
        command::output(command::clean("kill").args(["-TERM", child])).map(drop)
    }

    /// Waits until the screen holds `words`; the screen.
    fn shows(&self, words: &str) -> Result<String> {
        let begun = Instant::now();
        loop {
            let screen = command::output(self.tmux().args(["capture-pane", "-p"]))?;
            if screen.contains(words) {
                return Ok(screen);
            }
            ensure!(begun.elapsed() < WITHIN, "no {words:?} on the screen:\n{screen}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.tmux().arg("kill-server").output().ok();
    }
}
