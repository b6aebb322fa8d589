//! What is constant for one run of the probes, and heads every recording of it.

use alloc::{string::String, vec::Vec};
use serde::{Deserialize, Serialize};

use crate::host::{ClockPair, Host};

/// The host, its clocks and the probes that were at work.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Session {
    pub host: Host,
    pub clock: ClockPair,
    pub probes: Vec<ProbeStatus>,
    /// kB in /proc/meminfo HardwareCorrupted when the probes were attached: poison that predates them.
    #[serde(default)]
    pub hardware_corrupted_kb: Option<u64>,
    /// Some probes were attached only once there was poison: what they show was not seen before
    /// [`super::EventKind::AllProbesAttached`].
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub standby: bool,
}

/// One row of the probe table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeStatus {
    /// Stable name of the row, as `check` and `run` print it.
    pub name: String,
    /// What it is attached to, e.g. `tracepoint kvm:kvm_exit`; `None`: not attached.
    pub binding: Option<String>,
    /// Why it is not attached (to its first choice).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// What cannot be reported without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<String>,
}

impl Session {
    /// What the row `name` was attached to.
    pub fn binding(&self, name: &str) -> Option<&str> {
        let probe = self.probes.iter().find(|probe| probe.name == name)?;
        probe.binding.as_deref()
    }

    /// Whether the row `name` was attached.
    pub fn has(&self, name: &str) -> bool {
        self.binding(name).is_some()
    }
}
