//! The daemon under test, run as on any host.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lab_protocol::daemon_cli::{REHEARSE, STATE_DIR, without};
use lab_protocol::daemon_lines;
use lab_protocol::unit_limits::{CONTROL_GROUPS, Group, UnitLimits};
use lab_protocol::{DAEMON_FILE, FACTS_FOLDER, PLAN_FILE};
use rustix::process::{Pid, Signal, kill_process};

use crate::log::Log;
use crate::machine::{self, SHARE};
use crate::vmm::{LOG_TEMPLATE, QMP_TEMPLATE};

const STATE: &str = "/run/poisontrace";
/// Of a daemon that must not have a part in the others' incidents.
const OTHER_STATE: &str = "/run/poisontrace-other";
/// A kernel's grace periods are long on a slow emulated processor, and each program that is attached waits for some.
const WORD_LIMIT: Duration = Duration::from_secs(240);
const PER_REHEARSAL: Duration = Duration::from_secs(1);
/// The daemon's default.
const METRICS: &str = "127.0.0.1:9847";
/// More than the ten seconds after which the daemon looks around, and looks again.
const SCRAPE_LIMIT: Duration = Duration::from_secs(40);
/// A detaching lasts several grace periods.
const BETWEEN_LOOKS: Duration = Duration::from_millis(10);
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// Hooks that every exit of every guest passes, or every return to a VMM, access to an MSR or a port, or page fault; the programs
/// have their names, of which the kernel keeps 15 characters. What stands by for them is elsewhere, and kvm_page_fault is always
/// attached.
const ON_EXITS: [&str; 6] = [
    "kvm_exit",
    "kvm_entry",
    "kvm_userspace_e",
    "kvm_msr",
    "kvm_pio",
    "page_fault_insn",
];

pub struct Daemon {
    child: Child,
    /// Its log lines about itself and about KVM.
    words: Receiver<String>,
    /// Names of BPF programs by their tags. All are loaded when it is ready.
    programs: BTreeMap<String, String>,
    /// For a line of the log.
    patience: Duration,
}

/// The BPF programs that the kernel lists, `address t bpf_prog_TAG_name [bpf]`. An emulated processor takes ten seconds for it.
fn programs() -> Result<BTreeMap<String, String>> {
    let symbols = fs::File::open("/proc/kallsyms").context("cannot read kallsyms")?;
    let mut found = BTreeMap::new();
    for line in BufReader::new(symbols).lines() {
        let line = line?;
        let program = line
            .split_ascii_whitespace()
            .nth(2)
            .and_then(|name| name.strip_prefix("bpf_prog_")?.split_once('_'));
        if let Some((tag, name)) = program {
            found.insert(tag.to_owned(), name.to_owned());
        }
    }
    Ok(found)
}

/// How often these options have the daemon attach and detach at start.
fn rehearsals(options: &[&str]) -> u32 {
    let mut options = options.iter().skip_while(|option| **option != REHEARSE).skip(1);
    options.next().and_then(|times| times.parse().ok()).unwrap_or(0)
}

fn scrape() -> Result<String> {
    let mut stream = TcpStream::connect(METRICS).context("the daemon serves no metrics")?;
    stream.write_all(
        format!("GET /metrics HTTP/1.1\r\nHost: {METRICS}\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut text = String::new();
    stream
        .read_to_string(&mut text)
        .context("the daemon's metrics are torn")?;
    Ok(text)
}

fn program() -> String {
    format!("{SHARE}/{DAEMON_FILE}")
}

impl Daemon {
    /// Returns once the daemon logs that its probes are attached. `recording`: its file in the share;
    /// `more`: options.
    pub fn start(recording: &str, more: &[&str], log: &Log) -> Result<Self> {
        let mut daemon = Self::spawn(recording, more, log)?;
        daemon.wait_for(daemon_lines::READY)?;
        Ok(daemon)
    }

    /// The same without waiting.
    pub fn spawn(recording: &str, more: &[&str], log: &Log) -> Result<Self> {
        // With the BPF programs' own diagnostics: the log is for those who look for what went wrong.
        Self::launch("debug", STATE, recording, more, log)
    }

    /// With nothing in the store, and without diagnostics, which take time.
    pub fn start_afresh(recording: &str, more: &[String], log: &Log) -> Result<Self> {
        if Path::new(STATE).exists() {
            fs::remove_dir_all(STATE).with_context(|| format!("cannot remove {STATE}"))?;
        }
        Self::start_again(recording, more, log)
    }

    /// Another after one that was killed: it finds the store, and what is pinned.
    pub fn start_again(recording: &str, more: &[String], log: &Log) -> Result<Self> {
        let more: Vec<&str> = more.iter().map(String::as_str).collect();
        let mut daemon = Self::launch("info", STATE, recording, &more, log)?;
        daemon.wait_for(daemon_lines::READY)?;
        Ok(daemon)
    }

    /// SIGKILL.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill().context("cannot kill poisontrace")?;
        self.child.wait().context("cannot wait for poisontrace")?;
        Ok(())
    }

    /// With the signals' raw tracepoint and nothing else, and with a store of its own.
    pub fn start_blind(recording: &str, log: &Log) -> Result<Self> {
        let blind = without("tracepoint,fentry,kprobe");
        let mut daemon = Self::launch("info", OTHER_STATE, recording, &[&blind], log)?;
        daemon.wait_for(daemon_lines::READY)?;
        Ok(daemon)
    }

    fn launch(log_level: &str, state: &str, recording: &str, more: &[&str], log: &Log) -> Result<Self> {
        let mut child = Command::new(program())
            .args(["--log-level", log_level, "run", STATE_DIR, state, "--record"])
            .arg(format!("{SHARE}/out/{recording}"))
            .args(["--vmm-log", LOG_TEMPLATE, "--qmp", QMP_TEMPLATE])
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start poisontrace")?;
        let (sender, words) = mpsc::channel();
        let also = sender.clone();
        let forward = move |sender: &mpsc::Sender<String>, line: &str| {
            let about = |word: &str| line.contains(word);
            let exits = about(daemon_lines::ATTACHES_EXITS) || about(daemon_lines::DETACHES_EXITS);
            if line.starts_with(daemon_lines::PREFIX) || about("KVM") || exits {
                // Nobody may listen any more.
                sender.send(line.to_owned()).ok();
            }
        };
        if let Some(stdout) = child.stdout.take() {
            log.follow(stdout, move |line| forward(&sender, line));
        }
        if let Some(stderr) = child.stderr.take() {
            log.follow(stderr, move |line| forward(&also, line));
        }
        Ok(Self {
            child,
            words,
            programs: BTreeMap::new(),
            patience: WORD_LIMIT + PER_REHEARSAL * rehearsals(more),
        })
    }

    /// Waits for a line of the daemon that holds `text`.
    pub fn wait_for(&mut self, text: &str) -> Result<()> {
        let deadline = Instant::now() + self.patience;
        loop {
            match self.words.recv_timeout(Duration::from_millis(200)) {
                Ok(line) if line.contains(text) => return Ok(()),
                Ok(_) => {}
                Err(_) => {
                    if let Some(status) = self.child.try_wait()? {
                        bail!("poisontrace ended before it logged \"{text}\": {status}");
                    }
                }
            }
            if Instant::now() > deadline {
                bail!(
                    "poisontrace did not log \"{text}\" within {} s",
                    self.patience.as_secs()
                );
            }
        }
    }

    /// Its metrics, as soon as they contain `wanted`, else as they are after some time.
    pub fn metrics(&self, wanted: &str) -> Result<String> {
        let deadline = Instant::now() + SCRAPE_LIMIT;
        loop {
            let text = scrape()?;
            if text.contains(wanted) || Instant::now() > deadline {
                return Ok(text);
            }
            std::thread::sleep(Duration::from_secs(1));
        }
    }

    /// Its programs on the hooks that every exit of every guest passes, and perf events that it holds open, which have a
    /// tracepoint call them too: from its descriptors, and from the names that the kernel gives to programs.
    pub fn on_exits(&mut self) -> Result<Vec<String>> {
        let mut names: Vec<String> = self.exit_descriptors()?.into_values().collect();
        names.sort();
        Ok(names)
    }

    /// The same by their numbers.
    fn exit_descriptors(&mut self) -> Result<BTreeMap<String, String>> {
        if self.programs.is_empty() {
            self.programs = programs()?;
        }
        let mut found = BTreeMap::new();
        let process = format!("/proc/{}", self.child.id());
        for entry in fs::read_dir(format!("{process}/fd")).context("cannot list the daemon's descriptors")? {
            let entry = entry?;
            let kind = fs::read_link(entry.path()).unwrap_or_default();
            let number = entry.file_name().to_string_lossy().into_owned();
            let file = format!("{process}/fdinfo/{number}");
            if kind.to_string_lossy().contains("perf_event") {
                found.insert(number, kind.display().to_string());
                continue;
            }
            let info = fs::read_to_string(file).unwrap_or_default();
            let field = |key: &str| info.lines().find_map(|line| line.strip_prefix(key));
            if field("link_type:").is_none() {
                continue;
            }
            let name = field("prog_tag:").and_then(|tag| self.programs.get(tag.trim()));
            let name = name
                .map_or("(a program without a name)", String::as_str)
                .to_owned();
            if ON_EXITS.iter().any(|hook| name.starts_with(hook)) || name.starts_with('(') {
                found.insert(number, name);
            }
        }
        Ok(found)
    }

    /// Waits until it closes something of what it has on the exits. To list all that it has open each time would take an emulated
    /// processor longer than the time that passes.
    pub fn wait_for_detaching(&mut self) -> Result<()> {
        let deadline = Instant::now() + self.patience;
        let attached = self.exit_descriptors()?;
        anyhow::ensure!(!attached.is_empty(), "poisontrace has nothing on the exits");
        let folder = format!("/proc/{}/fd", self.child.id());
        let links: Vec<_> = attached
            .keys()
            .map(|number| Path::new(&folder).join(number))
            .collect();
        while Instant::now() < deadline {
            if links.iter().any(|link| fs::symlink_metadata(link).is_err()) {
                return Ok(());
            }
            std::thread::sleep(BETWEEN_LOOKS);
        }
        bail!(
            "poisontrace detached nothing from the exits within {} s",
            self.patience.as_secs()
        )
    }

    pub fn running(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("poisontrace ended by itself: {status}"),
            None => Ok(()),
        }
    }

    /// Its resident memory, in KiB.
    pub fn resident_kib(&self) -> Result<u64> {
        self.status("VmRSS")
    }

    fn status(&self, field: &str) -> Result<u64> {
        let path = format!("/proc/{}/status", self.child.id());
        let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        status
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
            .and_then(|value| value.trim().split(' ').next()?.parse().ok())
            .with_context(|| format!("no {field} in {path}"))
    }

    /// The limits of its unit, as long as what is returned lives.
    pub fn limit(&self) -> Result<Group> {
        let limits = UnitLimits::of_the_unit().context("the unit has no limits")?;
        let root = Path::new(CONTROL_GROUPS);
        if !root.join("cgroup.controllers").exists() {
            machine::mount_control_groups()?;
        }
        let group = Group::create(root, "poisontrace", limits).context("cannot make a control group")?;
        group.take(self.child.id()).context("cannot limit poisontrace")?;
        Ok(group)
    }

    /// After an attack.
    pub fn keep_figures(&self, file: &str, attacker: &str) -> Result<()> {
        let figures = format!(
            "{}; {} KiB resident at most, {} threads, under the unit's limits",
            attacker.trim_end(),
            self.status("VmHWM")?,
            self.status("Threads")?
        );
        fs::write(format!("{SHARE}/out/{file}"), figures).context("cannot keep the figures")
    }

    /// SIGTERM; the exit status and the time that it took, or none where it did not end in time.
    pub fn stop(mut self) -> Result<Option<(i32, u64)>> {
        let started = Instant::now();
        kill_process(Pid::from_child(&self.child), Signal::TERM).context("cannot signal poisontrace")?;
        while started.elapsed() < STOP_LIMIT {
            if let Some(status) = self.child.try_wait()? {
                let took = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
                return Ok(Some((status.code().unwrap_or(-1), took)));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        self.child.kill().ok();
        Ok(None)
    }
}

/// Asks the running daemon's store; the answer goes to a file in the share, the complaint to the log.
pub fn ask(arguments: &[&str], file: &str, log: &Log) -> Result<Option<i32>> {
    save(
        Command::new(program()).args(arguments).args([STATE_DIR, STATE]),
        file,
        log,
    )
}

/// Whether the store has an incident.
pub fn has_incident(file: &str, log: &Log) -> Result<bool> {
    match ask(&["explain", "--last", "--format", "json"], file, log)? {
        Some(0) => Ok(true),
        Some(1) => Ok(false),
        status => anyhow::bail!("poisontrace explain: exit status {status:?}"),
    }
}

/// `poisontrace forecast`, as JSON. Its exit status shows only whether all facts were read.
pub fn forecast(file: &str, log: &Log) -> Result<Option<i32>> {
    save(
        Command::new(program()).args(["forecast", "--format", "json"]),
        file,
        log,
    )
}

/// `poisontrace detach`.
pub fn detach(log: &Log) -> Result<()> {
    let status = save(Command::new(program()).arg("detach"), "detach.txt", log)?;
    anyhow::ensure!(status == Some(0), "poisontrace detach: exit status {status:?}");
    Ok(())
}

/// `poisontrace check`.
pub fn check(file: &str, log: &Log) -> Result<Option<i32>> {
    save(Command::new(program()).args(["check", "--verbose"]), file, log)
}

/// The facts of this kernel, and the plan that is made of them here.
pub fn save_facts(log: &Log) -> Result<Option<i32>> {
    let folder = format!("{SHARE}/out/{FACTS_FOLDER}");
    save(
        Command::new(program()).args(["check", "--save-facts", &folder]),
        PLAN_FILE,
        log,
    )
}

fn save(command: &mut Command, file: &str, log: &Log) -> Result<Option<i32>> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .context("cannot start poisontrace")?;
    for line in String::from_utf8_lossy(&output.stderr).lines() {
        log.line(&format!("{file}: {line}"));
    }
    fs::write(format!("{SHARE}/out/{file}"), &output.stdout)
        .with_context(|| format!("cannot write {file}"))?;
    Ok(output.status.code())
}
