//! One boot of a host in Bochs, for storms in turn.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow, bail};
use lab_protocol::storm::{Counters, Mode, Storm, StormResult, Storms};
use serde::de::DeserializeOwned;
use xtask_support::paths::Paths;
use xtask_support::progress::Progress;
use xtask_support::stamp;

use super::image::{self, Content};
use super::serial_files;
use crate::emulators::bochs::{DISC, Host, SHIPPED};
use crate::emulators::process::{End, until_done};
use crate::packages::bochs_host::{self, Packages};
use crate::packages::{bochs, perf};
use crate::{HOSTNAME, Processor, host_log};

/// A boot takes a quarter of a minute on two idle cores, a storm under poisontrace as long.
const DEADLINE: Duration = Duration::from_secs(240);
const PER_STORM: Duration = Duration::from_secs(60);
/// poisontrace waits more than a minute of the emulated host's time until it detaches.
const DETACHING: Duration = Duration::from_secs(900);
/// For a daemon that attaches and detaches again and again before the storm.
const CYCLES: Duration = Duration::from_secs(3600);
/// More for storms that are long by design; one exit takes a third of this.
const PER_EXIT: Duration = Duration::from_millis(1);

const MEMORY_MIB: u32 = 512;

pub struct StormLab {
    folder: PathBuf,
    programs: PathBuf,
    bochs: PathBuf,
    packages: Packages,
    /// perf's tree, where a storm is to be recorded with it.
    perf: Option<PathBuf>,
}

/// A storm that was run: what the emulated host and the VMM say, and the folder with its files.
pub struct StormRun {
    pub result: StormResult,
    pub counters: Counters,
    pub out: PathBuf,
}

impl StormLab {
    pub fn set_up(paths: &Paths, series: &str, programs: &Path, progress: &Progress) -> Result<Self> {
        Ok(Self {
            folder: paths.lab().join("run"),
            programs: programs.to_path_buf(),
            bochs: bochs::set_up(paths, progress)?,
            packages: bochs_host::set_up(paths, series, progress)?,
            perf: None,
        })
    }

    /// The same with Debian's perf in the emulated host.
    pub fn with_perf(mut self, paths: &Paths, progress: &Progress) -> Result<Self> {
        self.perf = Some(perf::set_up(paths, progress)?);
        Ok(self)
    }

    /// Boots the host for these storms, one after the other. `daemon` is what watches those that are to be watched.
    pub fn run(
        &self,
        name: &str,
        processor: Processor,
        storms: &[Storm],
        daemon: Option<&Path>,
        progress: &Progress,
    ) -> Result<Vec<Result<StormRun>>> {
        let folder = self.folder.join(name);
        stamp::start_over(&folder)?;
        progress.step("lab: writing the host's CD");
        let content = Content {
            packages: &self.packages,
            programs: &self.programs,
            daemon,
            perf: self.perf.as_deref(),
            processor,
            storms: &Storms {
                hostname: HOSTNAME.to_owned(),
                storms: storms.to_vec(),
            },
        };
        image::write(&content, &folder, DISC)?;
        let host = Host {
            bochs: &self.bochs,
            tree: &self.packages.tree,
            processor,
            folder: &folder,
            memory_mib: MEMORY_MIB,
            deadline: deadline(storms),
        };
        let out = folder.join("out");
        boot(&host, &out, progress)?;
        Ok(storms
            .iter()
            .map(|storm| outcome(&out.join(&storm.name)))
            .collect())
    }
}

/// Boots the host, twice if need be, and unpacks the files that it sends.
pub fn boot(host: &Host, out: &Path, progress: &Progress) -> Result<()> {
    let shipped = host.folder.join(SHIPPED);
    let name = host.folder.file_name().unwrap_or_default().to_string_lossy();
    // The host's own log is sent at its end, which a silent one does not reach.
    until_done(&name, host.folder, progress, || {
        stamp::start_over(out)?;
        let end = host.boot(progress)?;
        match &end {
            End::Done => serial_files::unpack(&shipped, out)?,
            // Without them there is the reason, at least.
            End::Failed(_) => drop(serial_files::unpack(&shipped, out)),
            End::Silent(_) => {}
        }
        Ok(end)
    })?;
    host_log::check(&out.join("host.log"))
}

fn outcome(out: &Path) -> Result<StormRun> {
    let result: StormResult = read(out, "result.json")?;
    let counters = read(out, "vmm.json").map_err(|error| vmm_failed(out, error))?;
    if let Some(error) = result.error {
        bail!("the storm failed: {error}; see {}", out.display());
    }
    Ok(StormRun {
        result,
        counters,
        out: out.to_path_buf(),
    })
}

/// A VMM that did not count to its end leaves the reason in its log.
fn vmm_failed(out: &Path, error: Error) -> Error {
    let words = fs::read_to_string(out.join("vmm.log")).unwrap_or_default();
    match words.trim().strip_prefix("Error: ") {
        Some(reason) => anyhow!("the VMM failed: {reason}"),
        None => error,
    }
}

fn deadline(storms: &[Storm]) -> Duration {
    let more = |storm: &Storm| {
        let detaching = if storm.until_detached {
            DETACHING
        } else {
            Duration::ZERO
        };
        let detaching = detaching + if storm.bystander { CYCLES } else { Duration::ZERO };
        match storm.plan.mode {
            Mode::Swallow => {
                PER_STORM + detaching + PER_EXIT * u32::try_from(storm.plan.exits).unwrap_or(u32::MAX)
            }
            _ => PER_STORM + detaching,
        }
    };
    DEADLINE + storms.iter().map(more).sum::<Duration>()
}

pub fn read<T: DeserializeOwned>(out: &Path, name: &str) -> Result<T> {
    let path = out.join(name);
    let text = fs::read_to_string(&path)
        .with_context(|| format!("the lab left no {name}; see {}", out.join("host.log").display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not readable", path.display()))
}
