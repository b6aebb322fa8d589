//! The probes in this machine's own kernel, on events that any kernel has. Needs root, and a build with the BPF programs
//! inside (`cargo xtask test`); says where it cannot be tried.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking; its helper functions too"
)]

mod foreign;
mod full;
mod half_way;
mod here;
mod standby;
