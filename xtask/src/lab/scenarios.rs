//! The scenarios, and what `poisontrace explain` must say of each.

use clap::ValueEnum;
use lab_contract::{Fate, GuestPlan, Scenario};

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
        let guest = GuestPlan {
            file_prefix: String::new(),
            name: GUEST_NAME.to_owned(),
            uuid: GUEST_UUID.to_owned(),
            cpu: self.cpu().to_owned(),
            pvpanic: true,
            fate: Fate::Poison,
        };
        Scenario {
            hostname: "lab-host".to_owned(),
            daemon: true,
            guests: vec![guest],
        }
    }

    /// The scenario after a guest whose VMM is killed without any poison: no incident may come of that.
    pub fn scenario_after_control(self) -> Scenario {
        let mut scenario = self.scenario();
        scenario.guests.insert(
            0,
            GuestPlan {
                file_prefix: CONTROL_PREFIX.to_owned(),
                name: "control-guest".to_owned(),
                uuid: CONTROL_UUID.to_owned(),
                cpu: self.cpu().to_owned(),
                pvpanic: true,
                fate: Fate::KillVmm,
            },
        );
        scenario
    }
}

pub const CONTROL_PREFIX: &str = "control-";
