//! The scenarios, and what `poisontrace explain` must say of each.

use clap::ValueEnum;
use lab_contract::{Before, Fate, GuestPlan, Scenario};

pub const GUEST_NAME: &str = "demo-guest";
pub const GUEST_UUID: &str = "5e1f1e55-0000-4000-8000-00000000feed";
const CONTROL_UUID: &str = "5e1f1e55-0000-4000-8000-00000000c0de";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Story {
    /// The guest's processor lacks succor and overflow recovery: the second notification of the same page is an
    /// overflow, and the guest panics.
    Panic,
    /// The guest's processor has both: its application is killed, the guest lives on.
    Survive,
}

impl Story {
    pub fn name(self) -> &'static str {
        match self {
            Self::Panic => "panic",
            Self::Survive => "survive",
        }
    }

    pub fn outcome(self) -> &'static str {
        match self {
            Self::Panic => "guest_panicked",
            Self::Survive => "survived",
        }
    }

    pub fn cause(self) -> &'static str {
        match self {
            Self::Panic => "mce_overflow",
            Self::Survive => "contained",
        }
    }

    fn cpu(self) -> &'static str {
        match self {
            Self::Panic => "host,-succor,-overflow-recov",
            Self::Survive => "host",
        }
    }

    pub fn scenario(self) -> Scenario {
        Scenario {
            hostname: "lab-host".to_owned(),
            daemon: true,
            guests: vec![self.guest("")],
        }
    }

    fn guest(self, prefix: &str) -> GuestPlan {
        GuestPlan {
            file_prefix: prefix.to_owned(),
            name: GUEST_NAME.to_owned(),
            uuid: GUEST_UUID.to_owned(),
            cpu: self.cpu().to_owned(),
            pvpanic: true,
            before: None,
            fate: Fate::Poison,
        }
    }

    /// The scenario between two more guests: before it one whose VMM is killed without any poison (no incident
    /// may come of that), after it one whose page is poisoned while no daemon runs.
    pub fn scenario_among_others(self) -> Scenario {
        let mut scenario = self.scenario();
        let other = |prefix: &str, name: &str, uuid: &str, fate| GuestPlan {
            file_prefix: prefix.to_owned(),
            name: name.to_owned(),
            uuid: uuid.to_owned(),
            cpu: self.cpu().to_owned(),
            pvpanic: true,
            before: None,
            fate,
        };
        let control = other(CONTROL_PREFIX, "control-guest", CONTROL_UUID, Fate::KillVmm);
        let late = other(LATE_PREFIX, LATE_NAME, LATE_UUID, Fate::PoisonBeforeDaemon);
        scenario.guests.insert(0, control);
        scenario.guests.push(late);
        scenario
    }

    /// The scenario after KVM was unloaded and loaded again under the running daemon, then once more with a daemon that
    /// was started before KVM was there, and that does without kprobes and fentry.
    pub fn scenario_with_reloads(self) -> Scenario {
        let mut scenario = self.scenario();
        let daemon = Before::DaemonBeforeKvm {
            options: vec!["--without=kprobe,fentry".to_owned()],
            parameters: String::new(),
        };
        scenario.guests = vec![
            self.after("", Before::ReloadKvm),
            self.after(TRACEPOINTS_PREFIX, daemon),
        ];
        scenario
    }

    /// Panic and survive on one host.
    pub fn both() -> Scenario {
        let mut scenario = Self::Panic.scenario();
        let survive = Self::Survive.guest(SURVIVE_PREFIX);
        scenario.guests.push(survive);
        scenario
    }

    /// The scenario on a host whose guests run on shadow paging.
    pub fn scenario_on_shadow_paging(self) -> Scenario {
        let mut scenario = self.scenario();
        scenario.guests = vec![self.after(
            "",
            Before::DaemonBeforeKvm {
                options: Vec::new(),
                parameters: "npt=0".to_owned(),
            },
        )];
        scenario
    }

    /// The scenario's guest after something has happened to the host.
    fn after(self, prefix: &str, before: Before) -> GuestPlan {
        GuestPlan {
            before: Some(before),
            ..self.guest(prefix)
        }
    }
}

pub const SURVIVE_PREFIX: &str = "survive-";
pub const TRACEPOINTS_PREFIX: &str = "tracepoints-";

pub const LATE_PREFIX: &str = "late-";
pub const LATE_NAME: &str = "late-guest";
const LATE_UUID: &str = "5e1f1e55-0000-4000-8000-00000000a7e0";
pub const CONTROL_PREFIX: &str = "control-";
