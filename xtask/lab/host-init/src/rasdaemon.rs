//! Debian's rasdaemon beside poisontrace: it has the same tracepoints, and a database of its own.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lab_protocol::{RASDAEMON_DATABASE, RASDAEMON_FILE};

use crate::log::Log;
use crate::machine::SHARE;

/// Where Debian's build has it.
const FOLDER: &str = "/var/lib/rasdaemon";
const DATABASE: &str = "/var/lib/rasdaemon/ras-mc_event.db";
/// A tracing instance of its own.
const INSTANCE: &str = "/sys/kernel/tracing/instances/rasdaemon";
const MACHINE_CHECKS: &str = "/sys/kernel/tracing/instances/rasdaemon/events/mce/mce_record/enable";
/// Where it is not 0, the kernel wakes a reader only once so much of the buffer is full (since 5.10.163, 6.1.2): Debian 12's
/// rasdaemon then waits for ever, as it does not set it.
const WATERMARK: &str = "/sys/kernel/tracing/instances/rasdaemon/buffer_percent";
const STARTS_WITHIN: Duration = Duration::from_secs(20);
/// For it to read the kernel's records and to store them.
const STORES: Duration = Duration::from_secs(2);

pub struct Rasdaemon(Child);

impl Rasdaemon {
    /// Starts it, and waits until it records machine checks.
    pub fn start(prefix: &str, log: &Log) -> Result<Self> {
        log.step("starting rasdaemon");
        fs::create_dir_all(FOLDER).context("no folder for rasdaemon's database")?;
        fs::remove_file(DATABASE).ok();
        // It takes an instance of this name for its own.
        fs::create_dir_all(INSTANCE).context("no tracing instance for rasdaemon")?;
        fs::write(WATERMARK, "0").context("the kernel's buffers have no watermark")?;
        let output = File::create(format!("{SHARE}/out/{prefix}rasdaemon.log"))?;
        let child = Command::new(format!("{SHARE}/{RASDAEMON_FILE}"))
            .args(["--foreground", "--record"])
            .env("LD_LIBRARY_PATH", format!("{SHARE}/bin"))
            .stdin(Stdio::null())
            .stderr(output.try_clone()?)
            .stdout(output)
            .spawn()
            .context("cannot start rasdaemon")?;
        let mut started = Self(child);
        let deadline = Instant::now() + STARTS_WITHIN;
        while fs::read_to_string(MACHINE_CHECKS).ok().as_deref() != Some("1\n")
            || !Path::new(DATABASE).exists()
        {
            if let Some(status) = started.0.try_wait()? {
                bail!("rasdaemon ended: {status}; see {prefix}rasdaemon.log");
            }
            if Instant::now() > deadline {
                started.0.kill().ok();
                bail!("rasdaemon does not record machine checks");
            }
            sleep(Duration::from_millis(100));
        }
        Ok(started)
    }

    /// Stops it, and keeps its database.
    pub fn stop(mut self, prefix: &str, log: &Log) -> Result<()> {
        sleep(STORES);
        log.step("stopping rasdaemon");
        self.0.kill().context("cannot stop rasdaemon")?;
        self.0.wait()?;
        fs::copy(DATABASE, format!("{SHARE}/out/{prefix}{RASDAEMON_DATABASE}"))
            .context("cannot keep rasdaemon's database")?;
        Ok(())
    }
}
