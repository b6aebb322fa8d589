//! Recordings of earlier versions, which stay readable.

pub mod probe_texts;
pub mod v1;
