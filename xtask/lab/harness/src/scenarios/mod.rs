//! Scenarios: a real guest, or a tiny VMM, whose memory is poisoned, in a host in QEMU.

pub mod forecast_check;
pub mod lab;
pub mod story;
pub mod verdict_check;

pub use lab::{Lab, Run};
pub use story::Story;
