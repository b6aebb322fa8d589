//! An emulator's process, and how a boot ended.

use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use xtask_support::progress::Progress;

/// How a boot ended, where the emulator itself ran.
pub enum End {
    Done,
    /// The emulated host printed why it could not go on.
    Failed(String),
    /// No answer within the deadline, or the emulator ended without one.
    Silent(String),
}

/// Boots until the emulated host is done, twice at most: an emulator stops for good or ends now and then, and a busy machine can be too
/// slow for the deadline; a second silence is no accident. `name`: in the table of times; `log`: where a reader looks.
pub fn until_done(
    name: &str,
    log: &Path,
    progress: &Progress,
    mut boot: impl FnMut() -> Result<End>,
) -> Result<()> {
    let mut boot = || progress.task(&format!("lab: {name}"), &mut boot);
    let mut end = boot()?;
    if let End::Silent(reason) = &end {
        progress.note(format!("lab: {name}: {reason}; booting once more"));
        end = boot()?;
    }
    match end {
        End::Done => Ok(()),
        End::Failed(reason) => bail!("the lab failed: {reason}; see {}", log.display()),
        End::Silent(reason) => bail!("the lab failed twice: {reason}; see {}", log.display()),
    }
}

/// An emulator, killed when this is dropped.
pub struct Running(pub Child);

impl Running {
    pub fn ended(&mut self) -> bool {
        !matches!(self.0.try_wait(), Ok(None))
    }

    pub fn wait(&mut self, limit: Duration) {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline && !self.ended() {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Fails where it has ended already.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}
