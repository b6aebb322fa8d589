//! The parsers of records and recordings under Miri: what a thread does with memory that it was handed as bytes. By hand
//! only, as Miri comes with a nightly toolchain, which nothing else here asks for.

use anyhow::{Result, bail};

use crate::tally::Tally;
use xtask_support::command;
use xtask_support::paths::Paths;
use xtask_support::progress::Progress;

const NAME: &str = "miri";
const TOOLCHAIN: &str = "nightly";
/// Crates with the parsers, and their tests.
const PARSERS: [(&str, &str); 2] = [("poisontrace-model", "event::"), ("poisontrace-recording", "")];
/// Some hundred times slower than the processor: enough of each property to take every path.
const PROPERTY_CASES: &str = "16";
/// Megabytes, and nothing of it at an address of its own.
const SKIPPED: &str = "a_line_without_end_does_not_eat_the_memory";

pub fn run(paths: &Paths, tally: &mut Tally, progress: &Progress) {
    let checked = set_up(paths, progress).and_then(|()| parsers(paths, progress));
    progress.aside(|| tally.check(NAME, "event_parsers", checked));
}

fn set_up(paths: &Paths, progress: &Progress) -> Result<()> {
    progress.step(format!("{TOOLCHAIN} Rust with Miri, by rustup"));
    let mut rustup = command::clean("rustup");
    rustup
        .args(["toolchain", "install", TOOLCHAIN, "--no-self-update"])
        .args(["--profile", "minimal", "--component", "miri,rust-src"]);
    let log = paths.target.join("miri/rustup.log");
    command::logged(&mut rustup, &log, "rustup toolchain install")
}

fn parsers(paths: &Paths, progress: &Progress) -> Result<()> {
    progress.step("Miri over the parsers of events (some minutes)");
    for (package, tests) in PARSERS {
        parser(paths, package, tests)?;
    }
    Ok(())
}

fn parser(paths: &Paths, package: &str, tests: &str) -> Result<()> {
    let mut cargo = command::clean("rustup");
    cargo
        .current_dir(&paths.root)
        .args(["run", TOOLCHAIN, "cargo", "miri", "test"])
        .args(["--package", package, "--lib", "--target-dir"])
        .arg(paths.target.join("miri"))
        .args(["--", tests, "--skip", SKIPPED])
        // A nested cargo would keep to the toolchain of this one.
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_TARGET_DIR")
        .env("PROPTEST_CASES", PROPERTY_CASES)
        // Property tests look for the file of cases that once failed.
        .env("MIRIFLAGS", "-Zmiri-disable-isolation");
    let log = paths.target.join(format!("miri/{package}.log"));
    command::logged(&mut cargo, &log, "cargo miri test")?;
    let text = std::fs::read_to_string(&log)?;
    match text
        .lines()
        .any(|line| line.starts_with("test result: ok. 0 passed"))
    {
        true => bail!("no test ran; see {}", log.display()),
        false => Ok(()),
    }
}
