//! The fuzz targets of `daemon/fuzz`: built by a cargo-fuzz below target/, run for a while each, two at a time.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::tool;
use xtask_support::command;
use xtask_support::paths::Paths;
use xtask_support::progress::Progress;

const CARGO_FUZZ: &str = "0.13.2";
/// Targets that run at one time.
const AT_ONCE: usize = 2;
/// An input that takes longer hangs, seconds.
const HANGS_AFTER: u32 = 10;
/// A parser that holds more than this is not bounded, MiB. The fuzzer's own share is some 100.
const MEMORY: u32 = 512;
/// Longest input, bytes: lines are cut at 64 KiB.
const LONGEST: u32 = 128 * 1024;
/// libFuzzer takes one by the clock.
const ANY_SEED: u32 = 0;
const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// The built targets.
pub struct Fuzz {
    sources: PathBuf,
    built: PathBuf,
    work: PathBuf,
    pub targets: Vec<String>,
}

/// Sets cargo-fuzz up where it is not there yet, and builds the targets.
pub fn set_up(paths: &Paths, progress: &Progress) -> Result<Fuzz> {
    let cargo_fuzz = tool::set_up(paths, ("cargo-fuzz", CARGO_FUZZ), progress)?;
    let sources = paths.root.join("daemon/fuzz");
    let build = paths.target.join("fuzz/build");
    progress.step("building the fuzz targets");
    let mut cargo = command::gently(cargo_fuzz);
    cargo
        .current_dir(&paths.root)
        .env_remove("RUSTFLAGS")
        // The fuzz crate checks no memory: the code is safe Rust, and coverage needs no nightly compiler.
        .args(["fuzz", "build", "--sanitizer", "none", "--target", TRIPLE])
        .arg("--fuzz-dir")
        .arg(&sources)
        .arg("--target-dir")
        .arg(&build);
    command::logged(
        &mut cargo,
        &paths.target.join("fuzz/build.log"),
        "building the fuzz targets",
    )?;
    Ok(Fuzz {
        targets: names(&sources)?,
        built: build.join(TRIPLE).join("release"),
        work: paths.target.join("fuzz/work"),
        sources,
    })
}

/// The targets, by their sources.
fn names(sources: &Path) -> Result<Vec<String>> {
    let folder = sources.join("fuzz_targets");
    let mut names: Vec<String> = fs::read_dir(&folder)
        .with_context(|| format!("cannot read {}", folder.display()))?
        .flatten()
        .filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".rs")?.to_owned()))
        .collect();
    names.sort();
    Ok(names)
}

impl Fuzz {
    /// Runs the targets `seconds` each, and hands what became of each to `say`. `seed`: of the fuzzer's choices; 0:
    /// others each time.
    pub fn run(&self, targets: &[String], seconds: u32, seed: u32, mut say: impl FnMut(&str, Result<()>)) {
        let mut waiting = targets.iter();
        let mut running: Vec<(&str, Result<Child>)> = Vec::new();
        loop {
            while running.len() < AT_ONCE
                && let Some(target) = waiting.next()
            {
                running.push((target, self.start(target, seconds, seed)));
            }
            if running.is_empty() {
                return;
            }
            running.retain_mut(|(target, child)| {
                let ended = match child {
                    Err(error) => Err(anyhow::anyhow!("{error:#}")),
                    Ok(child) => match child.try_wait() {
                        Ok(None) => return true,
                        Ok(Some(status)) if status.success() => Ok(()),
                        Ok(Some(_)) => Err(self.failure(target)),
                        Err(error) => Err(error.into()),
                    },
                };
                say(target, ended);
                false
            });
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn start(&self, target: &str, seconds: u32, seed: u32) -> Result<Child> {
        let (corpus, found) = (self.work.join("corpus").join(target), self.found(target));
        for folder in [&corpus, &found] {
            fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        let log = File::create(self.log(target)).context("cannot write the fuzzer's log")?;
        let mut fuzzer: Command = command::clean(self.built.join(target));
        fuzzer
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-seed={seed}"))
            .arg(format!("-timeout={HANGS_AFTER}"))
            .arg(format!("-rss_limit_mb={MEMORY}"))
            .arg(format!("-max_len={LONGEST}"))
            .arg(format!("-artifact_prefix={}/", found.display()))
            .arg("-print_final_stats=1");
        let words = self.sources.join(format!("{target}.dict"));
        if words.is_file() {
            fuzzer.arg(format!("-dict={}", words.display()));
        }
        // The fuzzer writes new inputs to the first folder; the seeds stay as they are.
        fuzzer
            .arg(&corpus)
            .arg(self.sources.join("seeds").join(target))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        fuzzer
            .spawn()
            .with_context(|| format!("cannot start the fuzz target {target}"))
    }

    fn found(&self, target: &str) -> PathBuf {
        self.work.join("found").join(target)
    }

    pub fn log(&self, target: &str) -> PathBuf {
        self.work.join(format!("{target}.log"))
    }

    /// Why a target failed: the end of its log.
    fn failure(&self, target: &str) -> anyhow::Error {
        let text = fs::read(self.log(target)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        let first = lines
            .iter()
            .position(|line| line.contains("panicked at") || line.contains("ERROR: libFuzzer"));
        let from = first.unwrap_or(lines.len().saturating_sub(5));
        let words = lines[from..lines.len().min(from + 5)].join("\n    ");
        anyhow::anyhow!("the input is in {}:\n    {words}", self.found(target).display())
    }
}

/// `cargo xtask fuzz`.
pub fn fuzz(paths: &Paths, target: Option<&str>, seconds: u32, progress: &Progress) -> Result<bool> {
    let fuzz = set_up(paths, progress)?;
    let targets = match target {
        None => fuzz.targets.clone(),
        Some(name) if fuzz.targets.iter().any(|target| target == name) => vec![name.to_owned()],
        Some(name) => bail!("no fuzz target {name}; there are {}", fuzz.targets.join(", ")),
    };
    let mut good = true;
    progress.step(format!("fuzzing {} for {seconds} s each", targets.join(", ")));
    fuzz.run(&targets, seconds, ANY_SEED, |target, outcome| {
        progress.aside(|| match outcome {
            Ok(()) => println!("{target}: {}", fuzz.statistics(target)),
            Err(error) => {
                good = false;
                println!("{target}: FAILED, {error:#}");
            }
        });
    });
    Ok(good)
}

impl Fuzz {
    /// Runs, coverage and memory of a target's last run, as the fuzzer counted them.
    fn statistics(&self, target: &str) -> String {
        let text = fs::read(self.log(target)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let stat = |key: &str| {
            let line = text.lines().rev().find(|line| line.contains(key))?;
            line.split(key)
                .nth(1)?
                .split_whitespace()
                .next()
                .map(str::to_owned)
        };
        format!(
            "{} runs, {} a second, coverage {}, {} MiB at most",
            stat("stat::number_of_executed_units:").unwrap_or_default(),
            stat("stat::average_exec_per_sec:").unwrap_or_default(),
            stat(" cov: ").unwrap_or_default(),
            stat("stat::peak_rss_mb:").unwrap_or_default()
        )
    }
}
