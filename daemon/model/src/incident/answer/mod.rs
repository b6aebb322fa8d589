//! Parts of the answer that are made of evidence and verdict: [`crate::correlate::report`] puts them together.

pub mod findings;
pub mod log_evidence;
pub mod missing;
pub mod next_steps;
