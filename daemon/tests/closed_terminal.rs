//! The terminal of a long command goes away (an ssh session that ends, a closed window), or a signal ends it.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking; its helper functions too"
)]

use std::{
    os::fd::OwnedFd,
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

/// `watch` on a terminal; its other end.
fn watch(controlling: bool) -> (Child, OwnedFd) {
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
    let dir = std::env::temp_dir().join("poisontrace-no-store");
    let mut command = match controlling {
        true => {
            let mut command = Command::new("setsid");
            command.arg("--ctty").arg(env!("CARGO_BIN_EXE_poisontrace"));
            command
        }
        false => Command::new(env!("CARGO_BIN_EXE_poisontrace")),
    };
    let child = command
        .args(["watch", "--metrics", "http://127.0.0.1:1/metrics", "--state-dir"])
        .arg(dir)
        .env("TERM", "xterm")
        .stdin(theirs.try_clone().unwrap())
        .stdout(theirs.try_clone().unwrap())
        .stderr(theirs)
        .spawn()
        .unwrap();
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
            panic!("watch still runs {SOON:?} after {why}");
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
fn watch_ends_on_signals_and_leaves_the_screen() {
    for signal in [Signal::TERM, Signal::HUP, Signal::INT] {
        let (child, _terminal) = watch(true);
        kill_process(Pid::from_child(&child), signal).unwrap();
        assert!(ends(child, "a signal").success());
    }
}
