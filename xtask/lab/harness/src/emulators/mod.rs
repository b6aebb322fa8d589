//! The two emulators: QEMU boots fast and shares folders, Bochs has a true CLFLUSH and deterministic time.

pub mod bochs;
pub mod process;
pub mod processor;
pub mod qemu;
