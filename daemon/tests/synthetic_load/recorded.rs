//! Recordings of the lab as part of a load: moved to another time and to other processes, and renamed.

use std::{
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
};

use poisontrace_model::{
    correlate::Correlator,
    event::Event,
    incident::model::{Cause, Outcome},
};
use poisontrace_recording::Reader;
use serde_json::{Map, Value};

/// Times of events and within them.
const TIMES: [&str; 9] = [
    "t",
    "exit_ns",
    "fault_ns",
    "signal_ns",
    "user_ns",
    "entry_ns",
    "first_ns",
    "last_ns",
    "last_entry_ns",
];
const THREADS: [&str; 4] = ["tid", "pid", "target_tid", "target_pid"];

/// A recording, and the expected verdict of its only incident.
pub struct Recorded {
    pub name: String,
    events: Vec<Map<String, Value>>,
    pub outcome: Outcome,
    pub cause: Cause,
    pub exits: Option<u64>,
    first_ns: u64,
    last_ns: u64,
}

impl Recorded {
    /// Those of `tests/recordings`.
    pub fn all() -> Vec<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings");
        let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        paths.sort();
        paths.iter().filter_map(|path| Self::read(path)).collect()
    }

    /// `None`: it has no incident, or several.
    fn read(path: &Path) -> Option<Self> {
        let mut reader = Reader::new(BufReader::new(File::open(path).unwrap()), false).unwrap();
        let mut correlator = Correlator::new(reader.session().clone());
        let mut events = Vec::new();
        let (mut first_ns, mut last_ns) = (u64::MAX, 0);
        while let Some(event) = reader.next_event().unwrap() {
            correlator.feed(&event);
            first_ns = first_ns.min(event.t);
            last_ns = last_ns.max(event.t);
            let Value::Object(event) = serde_json::to_value(&event).unwrap() else {
                panic!("an event is an object");
            };
            events.push(event);
        }
        let incidents = correlator.incidents();
        let [incident] = incidents.as_slice() else {
            return None;
        };
        Some(Self {
            name: path.file_stem().unwrap().to_string_lossy().into_owned(),
            events,
            outcome: incident.outcome,
            cause: incident.cause,
            exits: incident.exits.count,
            first_ns,
            last_ns,
        })
    }

    pub fn length_ns(&self) -> u64 {
        self.last_ns - self.first_ns
    }

    /// Its events moved to `at_ns`, with process ids increased by `offset`, for a VM of this name.
    pub fn moved(&self, at_ns: u64, offset: u32, vm: &str) -> Vec<Event> {
        let mut moved: Vec<Event> = self
            .events
            .iter()
            .map(|event| {
                let mut event = Value::Object(event.clone());
                self.shift(&mut event, at_ns, offset);
                if let Some(vmm) = event["event"].get_mut("vmm") {
                    vmm["name"] = vm.into();
                }
                serde_json::from_value(event).unwrap()
            })
            .collect();
        moved.sort_by_key(|event| event.t);
        moved
    }

    fn shift(&self, value: &mut Value, at_ns: u64, offset: u32) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    match value.as_u64() {
                        // 0: no process, or not observed.
                        None | Some(0) => self.shift(value, at_ns, offset),
                        Some(n) if TIMES.contains(&name.as_str()) => {
                            *value = (n.saturating_sub(self.first_ns) + at_ns).into();
                        }
                        Some(n) if THREADS.contains(&name.as_str()) => {
                            *value = (n + u64::from(offset)).into();
                        }
                        Some(_) => {}
                    }
                }
            }
            Value::Array(values) => values
                .iter_mut()
                .for_each(|value| self.shift(value, at_ns, offset)),
            _ => {}
        }
    }
}
