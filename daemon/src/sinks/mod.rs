//! Where incidents go.

pub mod changes;
pub mod metrics;
pub mod store;
