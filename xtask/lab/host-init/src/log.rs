//! host.log: the lab's steps, the daemon's output, and at the end the kernel's log.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use lab_protocol::STEP;
use rustix::time::{ClockId, clock_gettime};

#[derive(Clone)]
pub struct Log(Arc<Mutex<File>>);

impl Log {
    pub fn create(path: &str) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("cannot write {path}"))?;
        Ok(Self(Arc::new(Mutex::new(file))))
    }

    /// A step of the scenario, also printed on the console.
    pub fn step(&self, text: &str) {
        println!("[{:9.3}] {STEP}{text}", uptime());
        self.line(&format!("[{:9.3}] {STEP}{text}", uptime()));
    }

    pub fn line(&self, text: &str) {
        // A log that cannot be written must not end the scenario.
        if let Ok(mut file) = self.0.lock() {
            writeln!(file, "{text}").ok();
        }
    }

    /// Copies a program's output line by line, and shows each line to `each`.
    pub fn follow(&self, from: impl Read + Send + 'static, each: impl Fn(&str) + Send + 'static) {
        let log = self.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                log.line(&line);
                each(&line);
            }
        });
    }
}

/// Seconds since boot.
pub fn uptime() -> f64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}
