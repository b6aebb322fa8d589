//! Debian packages of the lab, unpacked below target/lab; Bochs is built from Debian's source.

pub mod bochs;
pub mod bochs_host;
mod decode_assists;
pub mod perf;
pub mod qemu;
