//! The terminal of a long command goes away (an ssh session that ends, a closed window), or a signal ends it.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking; its helper functions too"
)]

use std::{
    ffi::OsStr,
    os::fd::OwnedFd,
    path::Path,
    process::{Child, Command, ExitStatus},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt},
    termios::{Winsize, tcsetwinsize},
};

/// For the end of a command: a second, and a margin for a busy machine.
const SOON: Duration = Duration::from_secs(3);

/// A command on a terminal; its other end.
fn on_a_terminal(controlling: bool, arguments: &[&OsStr]) -> (Child, OwnedFd) {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let ours = openpt(flags).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let theirs = ioctl_tiocgptpeer(&ours, flags).unwrap();
    let size = Winsize {
        ws_row: 24,
        ws_col: 80,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(&ours, size).unwrap();
    let mut command = match controlling {
        true => {
            let mut command = Command::new("setsid");
            command.arg("--ctty").arg(env!("CARGO_BIN_EXE_poisontrace"));
            command
        }
        false => Command::new(env!("CARGO_BIN_EXE_poisontrace")),
    };
    let child = command
        .args(arguments)
        .env("TERM", "xterm")
        .stdin(theirs.try_clone().unwrap())
        .stdout(theirs.try_clone().unwrap())
        .stderr(theirs)
        .spawn()
        .unwrap();
    (child, ours)
}

/// `watch`, which has drawn.
fn watch(controlling: bool) -> (Child, OwnedFd) {
    let dir = std::env::temp_dir().join("poisontrace-no-store");
    let metrics = ["watch", "--metrics", "http://127.0.0.1:1/metrics", "--state-dir"].map(OsStr::new);
    let (child, ours) = on_a_terminal(controlling, &[&metrics[..], &[dir.as_os_str()]].concat());
    read_screen(&ours);
    (child, ours)
}

/// A replay that goes on serving, and has printed so.
fn replay(controlling: bool) -> (Child, OwnedFd) {
    let recording = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings/panic-amd-6.12.ptrace");
    let options = [
        "--keep-serving",
        "--speed",
        "max",
        "--web.listen-address",
        "127.0.0.1:0",
    ]
    .map(OsStr::new);
    let from = [OsStr::new("replay"), OsStr::new("--from"), recording.as_os_str()];
    let (child, ours) = on_a_terminal(controlling, &[&from[..], &options].concat());
    read_screen(&ours);
    (child, ours)
}

/// Reads the first screens.
fn read_screen(terminal: &OwnedFd) {
    let began = Instant::now();
    let mut drawn = None;
    let mut bytes = [0; 4096];
    while drawn.is_none_or(|at: Instant| at.elapsed() < Duration::from_millis(500)) {
        assert!(began.elapsed() < Duration::from_secs(30), "nothing is drawn");
        let mut ready = [PollFd::new(terminal, PollFlags::IN)];
        let a_while = Timespec {
            tv_sec: 0,
            tv_nsec: 50_000_000,
        };
        if poll(&mut ready, Some(&a_while)).unwrap() > 0
            && rustix::io::read(terminal, &mut bytes).unwrap() > 0
        {
            drawn.get_or_insert_with(Instant::now);
        }
    }
}

fn ends(mut child: Child, why: &str) -> ExitStatus {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if began.elapsed() > SOON {
            let _ = child.kill();
            let _ = child.wait();
            panic!("it still runs {SOON:?} after {why}");
        }
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn watch_ends_when_its_terminal_is_closed() {
    for controlling in [true, false] {
        let (child, terminal) = watch(controlling);
        drop(terminal);
        ends(child, "its terminal was closed");
    }
}

#[test]
fn a_replay_ends_with_its_terminal_and_on_signals() {
    let (child, terminal) = replay(true);
    drop(terminal);
    ends(child, "its terminal was closed");
    for signal in [Signal::TERM, Signal::HUP, Signal::INT] {
        let (child, _terminal) = replay(true);
        kill_process(Pid::from_child(&child), signal).unwrap();
        ends(child, "a signal");
    }
}

#[test]
fn an_input_on_a_terminal_ends_with_it() {
    for controlling in [true, false] {
        let (child, terminal) = on_a_terminal(controlling, &["explain", "--from", "-"].map(OsStr::new));
        thread::sleep(Duration::from_millis(300));
        drop(terminal);
        ends(child, "its terminal was closed");
    }
}

#[test]
fn watch_ends_on_signals_and_leaves_the_screen() {
    for signal in [Signal::TERM, Signal::HUP, Signal::INT] {
        let (child, _terminal) = watch(true);
        kill_process(Pid::from_child(&child), signal).unwrap();
        assert!(ends(child, "a signal").success());
    }
}
