//! Numbers that several rules share.

/// Bytes of the page that `memory_failure()` poisons, unless it is a huge one.
pub const PAGE_SIZE: u64 = 4096;
/// Exits that make a spin: a guest that was injected a machine check comes once, or twice.
pub const SPIN_EXITS: u64 = 8;
