//! A VMM of one vCPU: its guest's code, its memory, its machine. `storm-vmm` and `scenario-vmm` are made of it.

pub mod dram;
pub mod guest;
pub mod machine;
pub mod memory;
