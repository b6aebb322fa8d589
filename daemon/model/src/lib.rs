//! Events, evidence, the correlator and its verdicts. Pure: no clock, no I/O, no environment; time comes from events.

#![forbid(unsafe_code)]

pub mod correlate;
pub mod event;
pub mod few;
pub mod hex;
pub mod host;
pub mod incident;
pub mod text;
