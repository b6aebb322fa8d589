//! The cost of exits, in the deterministic time of a host in Bochs.

mod image;
mod peers;
pub mod table;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use lab_protocol::bench::{Bench, BenchResult, Kind, Loop, MEASURED_FILE, Measured, Ready, Step, Watch};
use lab_protocol::daemon_cli::{HOT_PATH, STATE_DIR};

use xtask_support::paths::Paths;
use xtask_support::progress::Progress;
use xtask_support::stamp;

use crate::emulators::bochs::{DISC, Host};
use crate::packages::{bochs, bochs_host};
use crate::storms::lab as storms;
use crate::{HOSTNAME, Processor};
use image::Content;

const DEADLINE: Duration = Duration::from_secs(600);
/// A round trip of one exit under the costliest watch, on a busy machine.
const PER_EXIT: Duration = Duration::from_micros(1500);
/// With the peers' libraries on the disc and in memory.
const MEMORY_MIB: u32 = 2048;

/// Steps in which the exits are those of a storm on a poisoned page.
pub const STORM_NOTHING: &str = "storm-nothing";
pub const STORM_EMPTY: &str = "storm-empty";
pub const STORM_ARMED: &str = "storm-armed";
/// Steps of a daemon with nothing on the exits until there is poison: before that, and with another VM's.
pub const ON_POISON: &str = "on-poison";
pub const ON_POISON_OTHER: &str = "on-poison-armed-other";
/// Steps with this VM and so many others poisoned, and so many pages.
pub const SCALE_ONE: &str = "armed-1-vm-1-page";
pub const SCALE_MANY: &str = "armed-1000-vms-10000-pages";
/// Each sends its records.
const STORM_EXITS: u32 = 256;

const EMPTY: &str = "lib/empty.o";
const OBJECT: &str = "lib/object.o";

/// The programs that are measured, and those that measure.
pub struct Built {
    pub daemon: PathBuf,
    /// The folder of the programs inside the emulated host.
    pub programs: PathBuf,
    pub tool: PathBuf,
    pub empty: PathBuf,
    /// The daemon's programs, or those that are measured in its place.
    pub object: PathBuf,
    pub in_place_of_daemon: bool,
}

/// Everything that is set up once for all processors.
pub struct Lab {
    built: Built,
    bochs: PathBuf,
    packages: bochs_host::Packages,
    peers: Option<peers::Packages>,
}

pub struct Options<'a> {
    pub exits: u32,
    pub kinds: &'a [Kind],
    /// Only steps with these names.
    pub only: &'a [String],
}

/// All that one boot measured.
pub struct Run {
    pub result: BenchResult,
    pub measured: Vec<Measured>,
    pub steps: Vec<Step>,
}

impl Lab {
    /// `series`: of the host's kernel; `peers`: whether other programs are measured too.
    pub fn set_up(
        paths: &Paths,
        series: &str,
        built: Built,
        peers: bool,
        progress: &Progress,
    ) -> Result<Self> {
        Ok(Self {
            built,
            bochs: bochs::set_up(paths, progress)?,
            packages: bochs_host::set_up(paths, series, progress)?,
            peers: peers.then(|| peers::set_up(paths, progress)).transpose()?,
        })
    }

    pub fn versions(&self) -> &[String] {
        self.peers.as_ref().map_or(&[], |peers| &peers.versions)
    }

    /// One boot, all steps one after the other.
    pub fn measure(
        &self,
        paths: &Paths,
        processor: Processor,
        options: &Options,
        progress: &Progress,
    ) -> Result<Run> {
        let folder = paths
            .lab()
            .join("run")
            .join(format!("bench-{}", processor.name()));
        stamp::start_over(&folder)?;
        let bench = Bench {
            hostname: HOSTNAME.to_owned(),
            steps: self.steps(options),
        };
        progress.step("lab: writing the host's CD");
        let content = Content {
            packages: &self.packages,
            programs: &self.built.programs,
            daemon: &self.built.daemon,
            tool: &self.built.tool,
            objects: &BTreeMap::from([
                (EMPTY.to_owned(), self.built.empty.clone()),
                (OBJECT.to_owned(), self.built.object.clone()),
            ]),
            peers: self
                .peers
                .as_ref()
                .map(peers::Packages::files)
                .transpose()?
                .unwrap_or_default(),
            processor,
            bench: &bench,
        };
        image::write(&content, &folder, DISC)?;
        let exits: u32 = bench
            .steps
            .iter()
            .flat_map(|step| &step.loops)
            .map(|plan| plan.exits)
            .sum();
        let host = Host {
            bochs: &self.bochs,
            tree: &self.packages.tree,
            processor,
            folder: &folder,
            memory_mib: MEMORY_MIB,
            deadline: DEADLINE + PER_EXIT * exits,
        };
        let out = folder.join("out");
        storms::boot(&host, &out, progress)?;
        Ok(Run {
            result: storms::read(&out, "result.json")?,
            measured: measured(&out)?,
            steps: bench.steps,
        })
    }

    /// Poison comes last: a daemon that starts after it is armed from its start.
    fn steps(&self, options: &Options) -> Vec<Step> {
        let loops = |poisoned| {
            let plan = |kind: &Kind| Loop {
                kind: *kind,
                exits: options.exits,
                poisoned,
            };
            options.kinds.iter().map(plan).collect()
        };
        let step = |name: &str, watch| Step {
            name: name.to_owned(),
            watch,
            other_victim: false,
            loops: loops(false),
        };
        let program = |command: &[&str], ready: &str| Watch::Program {
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            ready: Ready::Prints(format!("{ready}: ready")),
            leaves: None,
        };
        let object = |name: &str, armed: bool| {
            let file = format!("/{name}");
            let mut command = vec!["poisontrace-bench", "attach", "--object", &file];
            command.extend(armed.then_some("--armed"));
            program(&command, "poisontrace-bench")
        };
        let attached = |when: &str| {
            let command = [
                "/lab/bin/poisontrace",
                "run",
                STATE_DIR,
                "/run/poisontrace",
                HOT_PATH,
                when,
            ];
            program(&command, "poisontrace")
        };
        let on_poison = || attached("on_poison");
        let daemon = || match self.built.in_place_of_daemon {
            true => object(OBJECT, false),
            false => attached("always"),
        };
        let mut steps = vec![
            step("nothing", Watch::Nothing),
            step("empty", object(EMPTY, false)),
            step("unarmed", daemon()),
            step(ON_POISON, on_poison()),
        ];
        if self.peers.is_some() {
            steps.extend(peers::all().into_iter().map(|peer| step(peer.name, peer.watch)));
        }
        steps.push(step("nothing-again", Watch::Nothing));
        steps.push(step("empty-armed", object(EMPTY, true)));
        steps.push(Step {
            other_victim: true,
            ..step("armed-other", daemon())
        });
        steps.push(Step {
            other_victim: true,
            ..step(ON_POISON_OTHER, on_poison())
        });
        steps.push(Step {
            loops: loops(true),
            ..step("armed-this", daemon())
        });
        for (name, victims, pages) in [(SCALE_ONE, "1", "1"), (SCALE_MANY, "1000", "10000")] {
            let watch = program(
                &[
                    "poisontrace-bench",
                    "attach",
                    "--object",
                    &format!("/{OBJECT}"),
                    "--armed",
                    "--victims",
                    victims,
                    "--pages",
                    pages,
                ],
                "poisontrace-bench",
            );
            steps.push(Step {
                loops: loops(true),
                ..step(name, watch)
            });
        }
        for (name, watch) in [
            (STORM_NOTHING, Watch::Nothing),
            (STORM_EMPTY, object(EMPTY, true)),
            (STORM_ARMED, daemon()),
        ] {
            let exits = Loop {
                kind: Kind::Poison,
                exits: STORM_EXITS,
                poisoned: true,
            };
            steps.push(Step {
                loops: vec![exits],
                ..step(name, watch)
            });
        }
        steps.retain(|step| {
            step.name == "nothing" || options.only.is_empty() || options.only.contains(&step.name)
        });
        steps
    }
}

fn measured(out: &Path) -> Result<Vec<Measured>> {
    let path = out.join(MEASURED_FILE);
    let text = fs::read_to_string(&path).context("the lab left no measurements")?;
    text.lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("{} is not readable", path.display())))
        .collect()
}
