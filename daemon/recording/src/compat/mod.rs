//! Recordings of earlier versions, which stay readable.

pub mod v1;
