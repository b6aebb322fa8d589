//! Debian packages of the lab, unpacked below target/lab; Bochs is built from Debian's source.

pub mod bochs;
mod bochs_changes;
pub mod bochs_host;
mod decode_assists;
mod dram_poison;
pub mod perf;
pub mod qemu;
pub mod rasdaemon;
