//! Attacks on a daemon at work in this machine's own kernel, under the limits of its unit: poison that a process without
//! rights claims. Needs root, and a kernel into which the programs can be loaded.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab_harness::scenarios::verdict_check;
use lab_protocol::daemon_cli::{LISTEN_ADDRESS, NO_PINS, STATE_DIR};
use lab_protocol::daemon_lines;
use lab_protocol::unit_limits::{CONTROL_GROUPS, Group, UnitLimits};
use lab_protocol::vmm_fate::VmmFate;
use serde_json::Value;
use xtask_support::command;

/// Those that need no guest. Without CONFIG_MEMORY_FAILURE the kernel sends another signal for a marked page.
pub fn attacks() -> Vec<VmmFate> {
    let mut attacks = vec![VmmFate::Forged, VmmFate::ForgedWithoutVm];
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    if memory.contains("HardwareCorrupted:") {
        attacks.push(VmmFate::MarkedOwn);
    }
    attacks
}

const ADDRESS: &str = "127.0.0.1:9849";
const START: Duration = Duration::from_secs(60);
const STOP: Duration = Duration::from_secs(5);
/// Between two scrapes.
const SCRAPE_EVERY: Duration = Duration::from_millis(200);
/// For the daemon to store what it knows.
const SETTLES: Duration = Duration::from_millis(1500);
const MAX_RESIDENT_KIB: u64 = 128 << 10;
const MAX_SCRAPE: Duration = Duration::from_secs(2);

/// Why it cannot be done here.
pub fn unavailable() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("a daemon at work in this machine's kernel needs root".to_owned());
    }
    let tracing = Path::new("/sys/kernel/tracing");
    (!tracing.is_dir()).then(|| "this kernel has no tracefs".to_owned())
}

struct Daemon {
    child: Child,
    lines: mpsc::Receiver<String>,
    state: PathBuf,
    group: Option<Group>,
    /// All it has printed.
    printed: Vec<String>,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Daemon {
    /// In a mount namespace of its own: tracefs may not be mounted.
    fn start(program: &Path, state: &Path, attack: VmmFate) -> Result<Self> {
        const SCRIPT: &str = "mountpoint -q /sys/kernel/tracing || mount -t tracefs tracefs /sys/kernel/tracing || exit 77\n\
                              exec \"$0\" \"$@\"";
        let mut child = command::clean("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", SCRIPT])
            .arg(program)
            .args([
                "--log-level",
                "debug",
                "run",
                NO_PINS,
                LISTEN_ADDRESS,
                ADDRESS,
                STATE_DIR,
            ])
            .arg(state)
            .args(attack.daemon_options())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start unshare")?;
        let limits = UnitLimits::of_the_unit().context("the unit has no limits")?;
        let group = Group::create(Path::new(CONTROL_GROUPS), "poisontrace-attacked", limits).ok();
        let group = group.filter(|group| group.take(child.id()).is_ok());
        let (sender, lines) = mpsc::channel();
        let mut outputs: Vec<Box<dyn Read + Send>> = Vec::new();
        outputs.extend(child.stdout.take().map(|pipe| Box::new(pipe) as _));
        outputs.extend(child.stderr.take().map(|pipe| Box::new(pipe) as _));
        for output in outputs {
            let sender = sender.clone();
            thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    // The pipe is drained even when nobody listens any more.
                    sender.send(line).ok();
                }
            });
        }
        let mut daemon = Self {
            child,
            lines,
            state: state.to_owned(),
            group,
            printed: Vec::new(),
        };
        daemon.wait_ready()?;
        Ok(daemon)
    }

    fn wait_ready(&mut self) -> Result<()> {
        let until = Instant::now() + START;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    let ready = line.contains(daemon_lines::READY);
                    self.printed.push(line);
                    if ready {
                        return Ok(());
                    }
                }
                Err(_) => bail!("the daemon is not ready: {}", self.last_lines()),
            }
        }
    }

    fn last_lines(&self) -> String {
        self.printed[self.printed.len().saturating_sub(5)..].join(" | ")
    }

    fn status(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let value = status
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        value
            .and_then(|value| value.split_whitespace().next()?.parse().ok())
            .unwrap_or(0)
    }

    /// SIGTERM.
    fn stop(&mut self) -> Result<()> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)
            .context("cannot signal the daemon")?;
        let until = Instant::now() + STOP;
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.success(), "the daemon ended: {status}");
                return Ok(());
            }
            thread::sleep(Duration::from_millis(20));
        }
        bail!("the daemon did not end within {STOP:?}")
    }

    fn has_printed(&mut self, text: &str) -> bool {
        self.printed.extend(self.lines.try_iter());
        self.printed.iter().any(|line| line.contains(text))
    }
}

fn scrape() -> Result<Duration> {
    let began = Instant::now();
    let mut answer = ureq::get(format!("http://{ADDRESS}/metrics")).call()?;
    answer.body_mut().read_to_string()?;
    Ok(began.elapsed())
}

/// All incidents of the store.
fn stored(program: &Path, state: &Path) -> Result<Vec<Value>> {
    let mut export = command::clean(program);
    export.args(["incidents", "export", STATE_DIR]).arg(state);
    let text = command::output(&mut export)?;
    text.lines()
        .map(|line| {
            let mut line: Value = serde_json::from_str(line).context("export wrote no JSON")?;
            Ok(line["incident"].take())
        })
        .collect()
}

/// One attack; returns its figures.
pub fn attack(program: &Path, attacker: &Path, attack: VmmFate) -> Result<String> {
    let dir = tempfile::tempdir()?;
    let mut daemon = Daemon::start(program, &dir.path().join("state"), attack)?;
    let mut attacker = Command::new(attacker)
        .arg(attack.name())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start the attacker")?;
    let (mut slowest, mut threads) = (Duration::ZERO, 0);
    while attacker.try_wait()?.is_none() {
        slowest = slowest.max(scrape().context("no scrape during the attack")?);
        threads = threads.max(daemon.status("Threads"));
        thread::sleep(SCRAPE_EVERY);
    }
    let output = attacker.wait_with_output()?;
    ensure!(
        output.status.success(),
        "the attacker: {} {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim_end()
    );
    thread::sleep(SETTLES);
    let (resident, limited) = (daemon.status("VmHWM"), daemon.group.is_some());
    daemon.stop()?;
    let incidents = stored(program, &daemon.state)?;
    let armed = daemon.has_printed(daemon_lines::PROBES_ARMED);
    let figures = format!(
        "{}: {}; {} incidents, {} KiB resident at most, {threads} threads, slowest scrape {slowest:?}, probes {}, {}",
        attack.name(),
        String::from_utf8_lossy(&output.stdout).trim_end(),
        incidents.len(),
        resident,
        if armed { "armed" } else { "not armed" },
        if limited {
            "under the unit's limits"
        } else {
            "NOT under the unit's limits"
        },
    );
    verdict_check::claims(&incidents, attack != VmmFate::ForgedWithoutVm).context(figures.clone())?;
    ensure!(!armed, "a process without rights has armed the probes: {figures}");
    ensure!(resident <= MAX_RESIDENT_KIB, "too much memory: {figures}");
    ensure!(slowest <= MAX_SCRAPE, "too slow: {figures}");
    Ok(figures)
}
