//! The daemon as a child process: `poisontrace replay` with /metrics and a store, and its memory.

#![allow(dead_code, reason = "not every test uses every helper")]

use std::{
    ffi::OsStr,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use poisontrace_model::event::Event;
use poisontrace_recording::Writer;
use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::synthetic_load::session;

/// Allows for a start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// The binary under test: this build's, or the one that the environment names (from `cargo xtask build`).
pub fn binary() -> PathBuf {
    std::env::var_os("POISONTRACE_UNDER_TEST")
        .map_or_else(|| env!("CARGO_BIN_EXE_poisontrace").into(), PathBuf::from)
}

/// A daemon that replays; killed when dropped.
pub struct Replay {
    child: Child,
    pub address: SocketAddr,
    output: mpsc::Receiver<String>,
}

impl Replay {
    pub fn start<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Self {
        let mut child = Command::new(binary())
            .args(["replay", "--speed", "max", "--web.listen-address", "127.0.0.1:0"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, output) = mpsc::channel();
        let stdout = child.stdout.take().unwrap();
        let stderr = child.stderr.take().unwrap();
        let also = sender.clone();
        let forward = |lines: &mut dyn Iterator<Item = String>, to: &mpsc::Sender<String>| {
            for line in lines {
                // The receiver may be gone; the pipe must still be drained.
                let _ = to.send(line);
            }
        };
        std::thread::spawn(move || {
            forward(&mut BufReader::new(stdout).lines().map_while(Result::ok), &sender);
        });
        std::thread::spawn(move || forward(&mut BufReader::new(stderr).lines().map_while(Result::ok), &also));
        let mut replay = Self {
            child,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            output,
        };
        let line = replay.wait_for("/metrics is served");
        let (_, rest) = line.split_once("127.0.0.1:").unwrap();
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        replay.address.set_port(digits.parse().unwrap());
        replay
    }

    /// A daemon that replays a pipe in `dir` and keeps serving; returns it with the pipe and the state directory.
    pub fn of_a_pipe(dir: &Path) -> (Self, PathBuf, PathBuf) {
        let (pipe, state) = (dir.join("load.ptrace"), dir.join("state"));
        mknodat(CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        let daemon = Self::start([
            Path::new("--from"),
            &pipe,
            Path::new("--state-dir"),
            &state,
            Path::new("--keep-serving"),
        ]);
        (daemon, pipe, state)
    }

    /// Waits for a line of its output that contains `text`.
    pub fn wait_for(&mut self, text: &str) -> String {
        self.wait(text, PATIENCE)
    }

    pub fn wait(&mut self, text: &str, patience: Duration) -> String {
        let until = Instant::now() + patience;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(line) if line.contains(text) => return line,
                Ok(_) => {}
                Err(err) => panic!("{text:?} was not printed: {err}"),
            }
        }
    }

    /// Whether its output contains `text` by now.
    pub fn has_printed(&mut self, text: &str) -> bool {
        self.output.try_iter().any(|line| line.contains(text))
    }

    pub fn running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits until it exits by itself, with success.
    pub fn ends(&mut self) {
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}");
    }

    /// Sends SIGTERM and waits for a successful exit.
    pub fn stop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.ends();
    }

    /// `VmRSS`, `VmHWM` of the process, KiB.
    pub fn memory_kib(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        let digits: String = line.chars().filter(char::is_ascii_digit).collect();
        digits.parse().unwrap()
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect_timeout(&self.address, Duration::from_secs(5)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// Sends `request` and returns the response, read until the connection is closed.
    pub fn request(&self, request: &[u8]) -> String {
        let mut stream = self.connect();
        // The daemon may close the connection before everything is written.
        let _ = stream.write_all(request);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// /metrics, and the time that the scrape took.
    pub fn metrics(&self) -> (String, Duration) {
        let began = Instant::now();
        let answer = self.request(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        (answer, began.elapsed())
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes a recording of these events.
pub fn record(path: &Path, events: &[Event]) {
    let mut writer = Writer::new(fs::File::create(path).unwrap(), &session()).unwrap();
    events.iter().for_each(|event| writer.event(event).unwrap());
    writer.finish().unwrap();
}
