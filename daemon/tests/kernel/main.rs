//! The probes in this machine's own kernel, on events that every kernel has. Needs root and a build that contains the BPF
//! programs (`cargo xtask test`); prints the reason where a test cannot run.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking; its helper functions too"
)]

mod claimants;
mod common;
mod full;
mod partial_attach;
mod stale_pins;
mod standby;
