//! Numbers that several rules share.

use serde::{Deserialize, Serialize};

/// Bytes of the page that `memory_failure()` poisons, unless it is a huge one.
pub const PAGE_SIZE: u64 = 4096;
/// Exits that make a spin: a guest that was injected a machine check comes once, or twice.
pub const SPIN_EXITS: u64 = 8;

/// How much of each exit and event an incident keeps: all that its limits allow, or, of a VM that has many incidents, less,
/// so that the whole stays bounded. Counts and totals are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Detail {
    /// log2 of the part that is kept.
    shift: u8,
}

impl Detail {
    /// The least that a limit comes to.
    const LEAST: usize = 8;

    /// Of an incident of a VM that has so many.
    pub fn beside(incidents: usize) -> Self {
        let shift = match incidents {
            ..64 => 0,
            64..256 => 3,
            256..1024 => 5,
            _ => 7,
        };
        Self { shift }
    }

    /// What is left of a limit.
    pub fn of(self, limit: usize) -> usize {
        (limit >> self.shift).max(Self::LEAST)
    }

    /// Whether nothing is left out.
    pub fn is_full(&self) -> bool {
        self.shift == 0
    }
}
