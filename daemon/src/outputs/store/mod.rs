//! The store: incidents in SQLite under the state directory, each with its verdict history and a bounded sample of
//! its events. The layout, what it promises and how it is migrated: `daemon/docs/store.md`.
//!
//! | part | does |
//! |---|---|
//! | [`Store`] | the daemon's end: takes what changed without ever waiting for a disk |
//! | [`database`] | the writer behind it: one transaction a batch |
//! | [`schema`] | opening, migrating, setting aside what is no store of ours |
//! | [`retention`] | what is too old or too much goes |
//! | `clock_watch` | whether the clock may be believed that makes it old |
//! | [`Lock`] | one daemon to a state directory |
//! | [`Stored`] | a reader's end; by pages: `page` |

mod clock_watch;
pub mod database;
mod error;
mod lock;
mod page;
mod queue;
mod reader;
pub mod retention;
pub mod sample;
pub mod schema;
#[cfg(test)]
mod tests;
mod writer;

pub use error::StoreError;
pub use lock::Lock;
pub use page::{Bounds, Filter};
pub use queue::Verdict;
pub use reader::{Dossier, Stored, Wanted};
pub use retention::Retention;
pub use writer::{Health, Room, Store};

/// Version of the database's layout (`PRAGMA user_version`).
pub const LAYOUT: i64 = 3;
/// Name of the database in the state directory.
pub const FILE: &str = "incidents.db";

/// The VM of an incident: the process number in its id (`poisontrace_model::correlate::report::id`); 0: none.
fn vm_of(id: &str) -> u32 {
    id.split('-').nth(1).and_then(|pid| pid.parse().ok()).unwrap_or(0)
}

/// A file size limit (RLIMIT_FSIZE) then makes a write fail, as a full disk does, instead of killing the process by
/// SIGXFSZ. Needs a tokio runtime; holds as long as the process lives.
///
/// # Errors
/// If the handler cannot be set.
pub fn survive_file_size_limit() -> std::io::Result<tokio::signal::unix::Signal> {
    /// x86 and every other architecture but MIPS and Alpha.
    const SIGXFSZ: i32 = 25;
    tokio::signal::unix::signal(tokio::signal::unix::SignalKind::from_raw(SIGXFSZ))
}
