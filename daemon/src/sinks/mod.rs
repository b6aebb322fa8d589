//! Where incidents go.

pub mod report;
pub mod store;
