//! Images that an emulated host boots from.

pub mod disc;
pub mod initramfs;
