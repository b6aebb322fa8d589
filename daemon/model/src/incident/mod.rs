//! The incident: one poisoned page (or huge page) in one VM, and the answer about it.

pub mod answer;
pub mod bug_check;
pub mod evidence;
pub mod exit_samples;
pub mod exits;
pub mod findings;
pub mod flush;
pub mod latency;
pub mod limits;
pub mod log_evidence;
pub mod mca;
pub mod missing;
pub mod model;
pub mod next_steps;
pub mod origin;
pub mod recovered;
mod shown;
pub mod storm;
pub mod story;
pub mod termination;
pub mod terms;
pub mod timeline;
pub mod verdict;
pub mod walk;
