//! Where incidents go.

pub mod changes;
pub mod metrics;
pub mod report;
pub mod store;
