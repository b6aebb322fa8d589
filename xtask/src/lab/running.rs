//! An emulator's process.

use std::process::Child;
use std::time::{Duration, Instant};

/// It never outlives us.
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
