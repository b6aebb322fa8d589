//! Where incidents go.

pub mod metrics;
pub mod report;
pub mod store;
