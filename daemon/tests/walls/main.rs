//! The walls inside the house: which crate and which module may know which, and that no code reads our own English back.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking; its helper functions too"
)]

mod crates;
mod english;
mod modules;
mod source;
