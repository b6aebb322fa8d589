//! Why the store cannot be used, and what to do about it.

use std::{io, path::PathBuf};

use super::{FILE, LAYOUT};

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(
        "no incidents are stored in {0} (no {FILE}): start the daemon with `sudo poisontrace run`, or name its --state-dir"
    )]
    Absent(PathBuf),
    #[error("cannot create {0}: {1}")]
    Directory(PathBuf, io::Error),
    #[error(
        "another poisontrace stores its incidents in {0}: stop it (`systemctl stop poisontrace`), or give this one another --state-dir"
    )]
    Busy(PathBuf),
    #[error("{0}: not readable: {1}; the store is for root and its owner: run it with sudo")]
    Unreadable(PathBuf, io::Error),
    #[error("{path}: {source}")]
    Sqlite { path: PathBuf, source: rusqlite::Error },
    #[error(
        "{0} is not a store of incidents ({1}); the daemon sets it aside when it starts: `systemctl restart poisontrace`"
    )]
    Foreign(PathBuf, String),
    #[error("{path} is damaged ({what}); the daemon sets it aside when it starts")]
    Damaged { path: PathBuf, what: String },
    #[error(
        "{path}: layout version {found}; this poisontrace knows {LAYOUT}: use the poisontrace that wrote it"
    )]
    Layout { path: PathBuf, found: i64 },
    #[error("{path}: incident {id} cannot be read: {source}")]
    Row {
        path: PathBuf,
        id: String,
        source: serde_json::Error,
    },
    #[error("cannot set {0} aside: {1}; move it away")]
    SetAside(PathBuf, io::Error),
}

impl StoreError {
    /// Whether the file itself is at fault, and another in its place would do.
    pub fn spoils_the_file(&self) -> bool {
        match self {
            Self::Foreign(..) | Self::Damaged { .. } | Self::Layout { .. } => true,
            Self::Sqlite { source, .. } => is_damage(source),
            _ => false,
        }
    }
}

/// SQLite's own word that the file is not, or no longer, a database.
pub(super) fn is_damage(err: &rusqlite::Error) -> bool {
    matches!(
        err.sqlite_error_code(),
        Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase)
    )
}
