//! The daemon itself on this machine: its start, its cost when idle, and its delay in reporting a death.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab_protocol::daemon_cli::{LISTEN_ADDRESS, NO_PINS, STATE_DIR};
use lab_protocol::daemon_lines::READY;
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;

use super::synthetic_exits::{Poison, ignore_sigbus};
use super::tracefs;

const STARTS: usize = 7;
/// Until what a start leaves to be done is done: the first look for VMs and the first proof of life.
const SETTLE: Duration = Duration::from_secs(15);
const DEATHS: usize = 6;
const PATIENCE: Duration = Duration::from_secs(30);
const NOTICED: Duration = Duration::from_millis(500);
const KVM_CREATE_VM: libc::c_ulong = 0xae01;

#[derive(clap::Args)]
pub struct Options {
    #[arg(long)]
    daemon: PathBuf,
    /// A folder of its own for the daemon's store
    #[arg(long)]
    state_dir: PathBuf,
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    #[arg(long)]
    json: PathBuf,
}

#[derive(Serialize)]
struct Idle {
    /// Of the middle one of some starts, ms until the probes are attached and the daemon is ready.
    start_ms: f64,
    seconds: u64,
    /// Voluntary context switches of all its threads.
    wakeups_per_second: f64,
    cpu_percent: f64,
    resident_kib: u64,
    /// Of them, what is its own, and what is its binary's.
    anonymous_kib: u64,
    file_kib: u64,
    /// After [`DEATHS`] incidents.
    resident_after_kib: u64,
    /// The slowest of some deaths, ms until it is reported. `None`: this machine has no KVM.
    metrics_ms: Option<f64>,
    explain_ms: Option<f64>,
}

pub fn run(options: &Options) -> Result<()> {
    tracefs::ensure()?;
    let mut starts = Vec::new();
    for _ in 0..STARTS {
        let started = Instant::now();
        let daemon = Daemon::start(options)?;
        starts.push(started.elapsed().as_secs_f64() * 1e3);
        daemon.stop()?;
    }
    starts.sort_by(f64::total_cmp);
    let daemon = Daemon::start(options)?;
    std::thread::sleep(SETTLE);
    let (before, from) = (daemon.taken()?, Instant::now());
    std::thread::sleep(Duration::from_secs(options.seconds));
    let (after, wall) = (daemon.taken()?, from.elapsed().as_secs_f64());
    let [resident_kib, anonymous_kib, file_kib] = daemon.memory()?;
    let mut delays = [Vec::new(), Vec::new()];
    if Path::new("/dev/kvm").exists() {
        for n in 0..DEATHS {
            delays[n % 2].push(daemon.death(n, options)?.as_secs_f64() * 1e3);
        }
    }
    let slowest = |times: &[f64]| times.iter().copied().max_by(f64::total_cmp);
    let idle = Idle {
        start_ms: starts[STARTS / 2],
        seconds: options.seconds,
        wakeups_per_second: (after.switches - before.switches) as f64 / wall,
        cpu_percent: (after.cpu_ns - before.cpu_ns) as f64 / wall / 1e7,
        resident_kib,
        anonymous_kib,
        file_kib,
        resident_after_kib: daemon.memory()?[0],
        metrics_ms: slowest(&delays[0]),
        explain_ms: slowest(&delays[1]),
    };
    daemon.stop()?;
    fs::write(&options.json, serde_json::to_string_pretty(&idle)? + "\n")
        .with_context(|| format!("cannot write {}", options.json.display()))?;
    print!("{}", idle.markdown());
    Ok(())
}

impl Idle {
    fn markdown(&self) -> String {
        let ms = |time: Option<f64>| {
            time.map_or("not measured: no /dev/kvm".to_owned(), |ms| format!("{ms:.1} ms"))
        };
        let mut text = "| the daemon on this machine | goal | measured |\n|---|---|---|\n".to_owned();
        for (what, goal, measured) in [
            (
                "start to attached, middle of seven warm ones",
                "500 ms",
                format!("{:.0} ms", self.start_ms),
            ),
            (
                "wake-ups, idle",
                "2 a second",
                format!("{:.2} a second", self.wakeups_per_second),
            ),
            ("processor, idle", "0.05 %", format!("{:.4} %", self.cpu_percent)),
            (
                "resident, idle",
                "16 MiB",
                format!(
                    "{:.1} MiB ({:.1} its own, {:.1} its binary's)",
                    mib(self.resident_kib),
                    mib(self.anonymous_kib),
                    mib(self.file_kib)
                ),
            ),
            (
                "a VMM's death by SIGBUS until /metrics has it",
                "100 ms",
                ms(self.metrics_ms),
            ),
            (
                "until `explain --last` has it, its own run included",
                "100 ms",
                ms(self.explain_ms),
            ),
        ] {
            text += &format!("| {what} | {goal} | {measured} |\n");
        }
        text
    }
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

struct Daemon {
    child: Child,
    address: String,
}

struct Taken {
    switches: u64,
    cpu_ns: u64,
}

impl Daemon {
    fn start(options: &Options) -> Result<Self> {
        let mut child = Command::new(&options.daemon)
            .args(["run", NO_PINS, LISTEN_ADDRESS, "127.0.0.1:0", STATE_DIR])
            .arg(&options.state_dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", options.daemon.display()))?;
        let (sender, lines) = std::sync::mpsc::channel();
        for output in [
            child
                .stdout
                .take()
                .map(|out| Box::new(out) as Box<dyn std::io::Read + Send>),
            child
                .stderr
                .take()
                .map(|err| Box::new(err) as Box<dyn std::io::Read + Send>),
        ]
        .into_iter()
        .flatten()
        {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    // It is read on when nobody listens any more.
                    sender.send(line).ok();
                }
            });
        }
        let mut daemon = Self {
            child,
            address: String::new(),
        };
        let mut output = Vec::new();
        loop {
            let line = lines
                .recv_timeout(PATIENCE)
                .with_context(|| format!("the daemon did not start: {output:?}"))?;
            if let Some(at) = line.find("127.0.0.1:") {
                daemon.address = line[at..]
                    .chars()
                    .take_while(|c| c.is_ascii_digit() || ".:".contains(*c))
                    .collect();
            }
            if line.contains(READY) {
                break;
            }
            output.push(line);
        }
        // Both outputs are read by threads of their own.
        while daemon.address.is_empty() {
            let line = lines
                .recv_timeout(PATIENCE)
                .context("the daemon does not print the address of /metrics")?;
            if let Some(at) = line.find("127.0.0.1:") {
                daemon.address = line[at..]
                    .chars()
                    .take_while(|c| c.is_ascii_digit() || ".:".contains(*c))
                    .collect();
            }
        }
        Ok(daemon)
    }

    fn stop(mut self) -> Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::INT)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "the daemon ended with {status}");
        Ok(())
    }

    fn proc(&self, file: &str) -> String {
        format!("/proc/{}/{file}", self.child.id())
    }

    fn taken(&self) -> Result<Taken> {
        let mut taken = Taken {
            switches: 0,
            cpu_ns: 0,
        };
        for thread in fs::read_dir(self.proc("task"))? {
            let thread = thread?.path();
            let status = fs::read_to_string(thread.join("status"))?;
            taken.switches += number(&status, "voluntary_ctxt_switches:")?;
            let schedstat = fs::read_to_string(thread.join("schedstat"))?;
            let cpu = schedstat.split(' ').next().unwrap_or_default();
            taken.cpu_ns += cpu.parse::<u64>().context("schedstat")?;
        }
        Ok(taken)
    }

    /// Resident, anonymous and of files, KiB.
    fn memory(&self) -> Result<[u64; 3]> {
        let status = fs::read_to_string(self.proc("status"))?;
        Ok([
            number(&status, "VmRSS:")?,
            number(&status, "RssAnon:")?,
            number(&status, "RssFile:")?,
        ])
    }

    /// A VMM dies of poison: the delay until it is reported.
    fn death(&self, n: usize, options: &Options) -> Result<Duration> {
        let mut vmm = Command::new(std::env::current_exe()?).arg("victim").spawn()?;
        let status = vmm.wait()?;
        let died = Instant::now();
        ensure!(!status.success(), "the victim lives");
        let seen = |n: usize| -> Result<bool> {
            match n % 2 {
                0 => self.metrics_have(n as u64 + 1),
                _ => explained(vmm.id(), options),
            }
        };
        while !seen(n)? {
            ensure!(
                died.elapsed() < PATIENCE,
                "the daemon does not report process {}",
                vmm.id()
            );
        }
        Ok(died.elapsed())
    }

    fn metrics_have(&self, deaths: u64) -> Result<bool> {
        let mut connection = TcpStream::connect(&self.address)?;
        connection.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        connection.read_to_string(&mut text)?;
        let counted: u64 = text
            .lines()
            .filter(|line| {
                line.starts_with("poisontrace_incident_verdicts_total")
                    && line.contains("outcome=\"vmm_killed\"")
            })
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
            .sum();
        Ok(counted >= deaths)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It is gone already, unless something went wrong.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn explained(pid: u32, options: &Options) -> Result<bool> {
    let output = Command::new(&options.daemon)
        .args(["explain", "--last", "--format", "json", STATE_DIR])
        .arg(&options.state_dir)
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.contains(&format!("\"pid\": {pid}")) && text.contains("\"outcome\": \"vmm_killed\""))
}

fn number(text: &str, name: &str) -> Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let word = line.and_then(|line| line.split_whitespace().next());
    word.and_then(|word| word.parse().ok())
        .with_context(|| format!("no {name}"))
}

/// A process with a VM, which gets a SIGBUS for poison and has no handler.
pub fn victim() -> Result<()> {
    let kvm = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .context("/dev/kvm")?;
    // SAFETY: the request takes a number.
    let vm = unsafe { libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&kvm), KVM_CREATE_VM, 0) };
    ensure!(vm >= 0, "KVM_CREATE_VM: {}", std::io::Error::last_os_error());
    rustix::process::setrlimit(
        rustix::process::Resource::Core,
        rustix::process::Rlimit {
            current: Some(0),
            maximum: Some(0),
        },
    )?;
    // The early notice, and the daemon's look at who it is for.
    ignore_sigbus(true)?;
    Poison::new(super::HVA).early().exit(0)?;
    std::thread::sleep(NOTICED);
    ignore_sigbus(false)?;
    Poison::new(super::HVA).exit(0)?;
    bail!("SIGBUS did not end this process")
}
