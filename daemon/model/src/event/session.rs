//! What is constant for one run of the probes, and heads every recording of it.

use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

use super::probe::{Hook, ProbeBinding, ProbeId, ProbeStatus};
use crate::host::{ClockPair, Host};

/// The host, its clocks and the probes that were at work.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// The host.
    pub host: Host,
    /// Its two clocks at one instant.
    pub clock: ClockPair,
    /// The probe table.
    pub probes: Vec<ProbeStatus>,
    /// kB in /proc/meminfo HardwareCorrupted when the probes were attached: poison that predates them.
    #[serde(default)]
    pub hardware_corrupted_kb: Option<u64>,
    /// The kernel's own counters were read all along: that they showed poisoned memory is an event
    /// ([`super::EventKind::HostMemoryLost`]), and a kernel that has no such counter loses none by `memory_failure()`.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub counters_watched: bool,
    /// Some probes were attached only once there was poison: what they show was not seen before
    /// [`super::EventKind::AllProbesAttached`].
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub standby: bool,
}

impl Session {
    /// The session of constructed events: every probe was attached, and nothing was poisoned before.
    pub fn constructed(by: &str, emulated: bool) -> Self {
        let attached = |probe: &ProbeId| ProbeStatus {
            probe: probe.clone(),
            binding: Some(ProbeBinding::Attached(Vec::new())),
            why: Vec::new(),
            unavailable_info: None,
        };
        Self {
            host: Host {
                poisontrace_version: by.into(),
                emulated: Some(emulated),
                ..Host::default()
            },
            clock: ClockPair {
                monotonic_ns: 0,
                wall_ns: Some(1_795_000_000_000_000_000),
            },
            probes: ProbeId::ALL.iter().map(attached).collect(),
            hardware_corrupted_kb: Some(0),
            counters_watched: false,
            standby: false,
        }
    }

    /// What a probe was attached to.
    pub fn binding(&self, probe: &ProbeId) -> Option<&ProbeBinding> {
        let status = self.probes.iter().find(|status| status.probe == *probe)?;
        status.binding.as_ref()
    }

    /// Whether an action-required signal that is not forced on its thread was seen in the function that KVM's fault path alone
    /// calls (`send_sig_mceerr`): elsewhere a process may have sent it to itself.
    pub fn kvm_alone_answers(&self) -> bool {
        let Some(ProbeBinding::Attached(hooks)) = self.binding(&ProbeId::SendSigMceerr) else {
            return false;
        };
        let in_function = |hook: &Hook| matches!(hook, Hook::Fentry(_) | Hook::Kprobe(_));
        !hooks.is_empty() && hooks.iter().all(in_function)
    }

    /// Whether a probe was attached.
    pub fn has(&self, probe: &ProbeId) -> bool {
        self.binding(probe).is_some()
    }
}
