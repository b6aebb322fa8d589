//! Runs benchmarks: for each step whatever looks on, then the VMM's loops.

use std::collections::VecDeque;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab_protocol::bench::{
    BENCH_FILE, Bench, BenchResult, Ended, Kind, Loop, MEASURED_FILE, Measured, Ready, Spent, Step, Watch,
};
use lab_protocol::storm::STORM_VMM_FILE;
use rustix::process::{Pid, Signal, kill_process};

use crate::log::Log;
use crate::machine::SHARE;
use crate::quiet;
use crate::storm;
use crate::vmm::in_words;

const READY_LIMIT: Duration = Duration::from_secs(120);
const STOP_LIMIT: Duration = Duration::from_secs(120);
/// Lines of a program that are kept.
const LAST_WORDS: usize = 40;

pub fn work() -> Result<()> {
    storm::ship_what_comes_of(perform)
}

fn perform(log: &Log) -> Result<()> {
    let text = fs::read_to_string(BENCH_FILE).context("the initramfs has no benchmarks")?;
    let bench: Bench = serde_json::from_str(&text).context("the benchmarks are not readable")?;
    crate::machine::name(&bench.hostname)?;
    let described = storm::describe()?;
    let mut result = BenchResult {
        kernel: described.kernel,
        processor: described.processor,
        ended: Vec::new(),
    };
    for step in &bench.steps {
        let ended = perform_step(step, log).with_context(|| format!("step {}", step.name))?;
        result.ended.extend(ended);
    }
    fs::write(
        format!("{SHARE}/out/result.json"),
        serde_json::to_string_pretty(&result)?,
    )
    .context("cannot write the result")
}

fn perform_step(step: &Step, log: &Log) -> Result<Option<Ended>> {
    log.step(&step.name);
    let mut program = None;
    match &step.watch {
        Watch::Nothing => {}
        Watch::Program { command, ready, .. } => program = Some(Program::start(command, ready, log)?),
        Watch::Ftrace { events } => switch(events, true)?,
    }
    if step.other_victim {
        let once = Loop {
            kind: Kind::Cpuid,
            exits: 1,
            poisoned: true,
        };
        run(once)?;
    }
    // What the start of the watch has left to be done falls into a loop that is not measured.
    if let Some(first) = step.loops.first().filter(|first| first.kind != Kind::Poison) {
        run(Loop {
            poisoned: false,
            ..*first
        })?;
    }
    for plan in &step.loops {
        let spent = run(*plan)?;
        let rounds = u64::from(plan.exits);
        log.step(&format!(
            "{}: {} ticks a {}",
            step.name,
            spent.ticks / rounds,
            plan.kind
        ));
        note(&Measured {
            step: step.name.clone(),
            plan: *plan,
            spent,
        })?;
    }
    match &step.watch {
        Watch::Nothing => Ok(None),
        Watch::Ftrace { events } => {
            switch(events, false)?;
            Ok(None)
        }
        Watch::Program { leaves, .. } => {
            let Some(program) = program else { return Ok(None) };
            let mut ended = program.stop(&step.name)?;
            if let Some(file) = leaves {
                ended.left = fs::metadata(file).ok().map(|file| file.len());
                // The disc is memory.
                fs::remove_file(file).ok();
            }
            Ok(Some(ended))
        }
    }
}

/// The VMM in a process of its own, as every configuration has it.
fn run(plan: Loop) -> Result<Spent> {
    let output = Command::new(STORM_VMM_FILE)
        .arg(serde_json::to_string(&plan)?)
        .stdin(Stdio::null())
        .output()
        .context("cannot start the VMM")?;
    let Output {
        status,
        stdout,
        stderr,
    } = output;
    ensure!(
        status.success(),
        "the VMM {}: {}",
        in_words(status),
        String::from_utf8_lossy(&stderr).trim()
    );
    serde_json::from_slice(&stdout).context("the VMM's answer is not readable")
}

fn note(measured: &Measured) -> Result<()> {
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(format!("{SHARE}/out/{MEASURED_FILE}"))?;
    writeln!(file, "{}", serde_json::to_string(measured)?).context("cannot write what was measured")
}

fn switch(events: &[String], on: bool) -> Result<()> {
    for event in events {
        let path = format!("/sys/kernel/tracing/events/{event}/enable");
        fs::write(&path, if on { "1" } else { "0" }).with_context(|| format!("cannot write {path}"))?;
    }
    Ok(())
}

struct Program {
    child: Child,
    words: Arc<Mutex<VecDeque<String>>>,
}

impl Program {
    fn start(command: &[String], ready: &Ready, log: &Log) -> Result<Self> {
        let (name, arguments) = command.split_first().context("an empty command")?;
        let mut child = Command::new(name)
            .args(arguments)
            .env("PATH", "/bin")
            .env("HOME", "/tmp")
            .current_dir("/tmp")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let words = Arc::new(Mutex::new(VecDeque::new()));
        let keep = |words: &Arc<Mutex<VecDeque<String>>>| {
            let words = Arc::clone(words);
            move |line: &str| {
                let mut words = words.lock().unwrap_or_else(PoisonError::into_inner);
                if words.len() == LAST_WORDS {
                    words.pop_front();
                }
                words.push_back(line.to_owned());
            }
        };
        if let Some(stdout) = child.stdout.take() {
            log.follow(stdout, keep(&words));
        }
        if let Some(stderr) = child.stderr.take() {
            log.follow(stderr, keep(&words));
        }
        let mut program = Self { child, words };
        program.wait_for(ready)?;
        Ok(program)
    }

    fn printed(&self, word: &str) -> bool {
        let words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        words.iter().any(|line| line.contains(word))
    }

    fn wait_for(&mut self, ready: &Ready) -> Result<()> {
        match ready {
            Ready::Prints(word) => self.until(|program, _| program.printed(word)),
            Ready::After(ms) => self.until(|_, took| took >= Duration::from_millis(*ms)),
            Ready::Quiet => {
                quiet::wait(&mut self.child).with_context(|| format!("it printed {:?}", self.last_words()))
            }
        }
    }

    fn until(&mut self, done: impl Fn(&Self, Duration) -> bool) -> Result<()> {
        let started = Instant::now();
        while !done(self, started.elapsed()) {
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended before it was ready: {status}: {:?}", self.last_words());
            }
            ensure!(
                started.elapsed() < READY_LIMIT,
                "it was not ready: {:?}",
                self.last_words()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn last_words(&self) -> Vec<String> {
        let words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        words.iter().cloned().collect()
    }

    fn stop(mut self, step: &str) -> Result<Ended> {
        if let Some(status) = self.child.try_wait()? {
            bail!("it ended by itself: {status}: {:?}", self.last_words());
        }
        kill_process(Pid::from_child(&self.child), Signal::INT).context("cannot signal it")?;
        let started = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if started.elapsed() > STOP_LIMIT {
                self.child.kill().ok();
                bail!("it did not end: {:?}", self.last_words());
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        // Its last lines are still on their way.
        std::thread::sleep(Duration::from_millis(100));
        Ok(Ended {
            step: step.to_owned(),
            end: in_words(status),
            left: None,
            last_words: self.last_words(),
        })
    }
}

/// Whether this host is to run benchmarks.
pub fn wanted() -> bool {
    Path::new(BENCH_FILE).exists()
}
