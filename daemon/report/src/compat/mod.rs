//! Documents of earlier schema versions, which stores keep.

pub mod v1;
