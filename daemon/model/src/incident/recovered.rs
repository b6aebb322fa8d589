//! Exits that kvm_exit did not see, as it was not attached or not armed yet.

use serde::{Deserialize, Serialize};

/// Exits before kvm_exit and kvm_entry were attached, as records show them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovered {
    /// All of them.
    pub exits: u64,
    /// Those whose begin is not known.
    pub undated: u64,
    /// Those after which the vCPU was seen to enter its guest.
    pub reentered: u64,
}
