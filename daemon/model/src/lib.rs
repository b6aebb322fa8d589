//! Events, evidence, the correlator and its verdicts. Pure: no clock, no I/O, no environment; time comes from events.

// std::fs, std::net, clocks and the environment do not compile here; daemon/model/tests/walls.rs tries them.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

extern crate alloc;

pub mod compact_map;
pub mod correlate;
pub mod event;
pub mod forecast;
pub mod hex;
pub mod host;
pub mod incident;
pub mod text;
