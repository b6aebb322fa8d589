//! Storms: a guest that meets its poisoned page again and again, in Bochs, whose CLFLUSH on such a page exits to KVM as a
//! processor's does. The tiny VMM counts for itself, and poisontrace's counts are compared with its counts.

pub mod count_check;
pub mod dram_check;
mod experiment;
pub mod flush_check;
mod image;
pub mod lab;
pub mod linux_guest;
mod perf;
mod reports;
mod serial_files;
pub mod storm_cases;
mod table;
pub mod timing;
mod trace;
mod two_boots;

pub use experiment::{Programs, storm};
pub use lab::{StormLab, StormRun};
