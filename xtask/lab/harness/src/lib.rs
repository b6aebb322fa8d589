//! The lab: host kernels under software emulation, with real KVM, real guests and real poison in them.
//!
//! Packages and kernels come from Debian, images are written from them, emulators boot the images. Scenarios, storms,
//! the install test, the kernel matrix and the costs of exits are experiments on top.

pub mod debian;
mod emulators;
pub mod exit_costs;
mod host_log;
mod images;
pub mod install;
mod kernels;
pub mod libvirt;
pub mod matrix;
pub mod options;
mod packages;
pub mod run_files;
pub mod scenarios;
pub mod storms;

pub use emulators::processor::Processor;

use xtask_support::debian::Apt;

/// Name of every emulated host.
const HOSTNAME: &str = "lab-host";

/// Why the lab cannot run on this machine.
pub fn unavailable() -> Option<String> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Some("the lab needs an x86_64 Linux machine".to_owned());
    }
    Apt::unavailable()
}
