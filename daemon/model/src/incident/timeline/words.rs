//! A moment in words. Those that come by the million are put into words only when they are asked for.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{
    event::{Access, OtherAddress, PoisonExit, SigbusSeverity, totals::EHWPOISON},
    hex::Hex,
};

/// See the module. Kept as its text.
#[derive(Clone, Debug)]
pub enum Words {
    LogStatement(Box<str>),
    Exit(Box<Exit>),
    Signal(Box<Signal>),
}

/// What is told of an exit on poison.
#[derive(Clone, Debug)]
pub struct Exit {
    vcpu: Option<u32>,
    access: Access,
    gpa: Option<Hex>,
    other_address: Option<OtherAddress>,
    rip: Option<Hex>,
    gup_ret: Option<i64>,
    gup_ns: Option<u64>,
}

/// What is told of a SIGBUS.
#[derive(Clone, Debug)]
pub struct Signal {
    pub severity: SigbusSeverity,
    pub pid: u32,
    pub tid: u32,
    pub vcpu: Option<u32>,
    pub hva: u64,
}

impl Exit {
    pub fn new(exit: &PoisonExit, vcpu: Option<u32>) -> Self {
        Self {
            vcpu,
            access: exit.access,
            gpa: exit.gpa,
            other_address: exit.other_address,
            rip: exit.rip,
            gup_ret: exit.gup_ret,
            gup_ns: exit.gup_ns,
        }
    }
}

impl From<String> for Words {
    fn from(text: String) -> Self {
        // Without the spare room that a formatted text has: a flood of pages has a hundred thousand.
        Self::LogStatement(text.into_boxed_str())
    }
}

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LogStatement(text) => f.write_str(text),
            Self::Exit(exit) => exit.fmt(f),
            Self::Signal(signal) => signal.fmt(f),
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.vcpu {
            Some(vcpu) => write!(f, "vCPU {vcpu}")?,
            None => f.write_str("a vCPU")?,
        }
        let access = match self.access {
            Access::Read => "read",
            Access::Write => "write",
            Access::Fetch => "instruction fetch",
            Access::Unknown => "access",
        };
        write!(f, " left the guest on poison: {access} of ")?;
        match (self.gpa, self.other_address) {
            (Some(gpa), _) => write!(f, "GPA {gpa}")?,
            (None, Some(OtherAddress::Virtual(at))) => write!(f, "guest-virtual address {at}")?,
            (None, Some(OtherAddress::Nested(at))) => write!(f, "address {at} of a nested guest")?,
            (None, None) => f.write_str("an unknown GPA")?,
        }
        if let Some(rip) = self.rip {
            write!(f, " by RIP {rip}")?;
        }
        match (self.gup_ret, self.gup_ns) {
            (Some(EHWPOISON), Some(ns)) => write!(f, "; gup says -EHWPOISON after {ns} ns"),
            (Some(ret), Some(ns)) => write!(f, "; gup returned {ret} after {ns} ns"),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.severity {
            SigbusSeverity::ActionOptional => "BUS_MCEERR_AO",
            SigbusSeverity::ActionRequired => "BUS_MCEERR_AR",
        };
        write!(
            f,
            "SIGBUS {kind} to the VMM (pid {}, thread {}",
            self.pid, self.tid
        )?;
        if let Some(vcpu) = self.vcpu {
            write!(f, ", vCPU {vcpu}")?;
        }
        write!(f, "), hva {:#x}", self.hva)
    }
}

impl Serialize for Words {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}
