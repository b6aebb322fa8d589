//! An emulator's process, and how a boot ended.

use std::process::Child;
use std::time::{Duration, Instant};

/// How a boot ended, where the emulator itself ran.
pub enum End {
    Done,
    /// The emulated host printed why it could not go on.
    Failed(String),
    /// No answer within the deadline, or the emulator ended without one.
    Silent(String),
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
