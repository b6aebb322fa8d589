//! poisontrace: why did my KVM guest die on poisoned memory?
//!
//! One record's way: `poisontrace_sources` → [`engine`] → `poisontrace_model` → [`outputs`].
//!
//! | module | does |
//! |---|---|
//! | [`cli`] | parses, dispatches, prints |
//! | [`engine`] | run loop, pipeline, resume, replay |
//! | [`outputs`] | metrics, store, log, hook, recording |
//! | [`config`] | what the operator sets |
//! | [`fair`] | turns by VM |
//! | [`service`] | the service manager, privileges, the log's format |

pub mod cli;
pub mod config;
pub mod engine;
pub mod failure;
pub mod fair;
pub mod outputs;
pub mod private_file;
pub mod service;
pub mod terminal;

/// The commit that this was built from; `cargo xtask build` names it.
pub const REVISION: &str = env!("POISONTRACE_BUILT_FROM");
