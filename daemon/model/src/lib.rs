//! Events, evidence, the correlator and its verdicts. Pure: no clock, no I/O, no environment; time comes from events.

// Whoever reaches for std::fs, std::net, a clock or the environment here does not compile: tests/walls.rs.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

extern crate alloc;

pub mod compact_map;
pub mod correlate;
pub mod event;
pub mod hex;
pub mod host;
pub mod incident;
pub mod text;
