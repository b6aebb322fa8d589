//! Memslots of a VM, as far as they are looked through.

/// QEMU has some ten, and one more for each device's memory.
pub const MAX_SLOTS: u32 = 32;
/// A red-black tree of 32 is no deeper than this.
pub const MAX_DEPTH: u32 = 10;
