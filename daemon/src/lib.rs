//! poisontrace: why did my KVM guest die on poisoned memory?
//!
//! One record's way: [`probes`] and [`inputs`] → [`engine`] → `poisontrace_model` → [`outputs`].
//!
//! | module | does |
//! |---|---|
//! | [`cli`] | parses, dispatches, prints |
//! | [`engine`] | run loop, pipeline, resume, replay |
//! | [`probes`] | loads and attaches the BPF programs, reads their records |
//! | [`inputs`] | VMs, their logs and QMP, pages that were poisoned before |
//! | [`outputs`] | metrics, store, log, hook, recording |
//! | [`host`] | this machine: identity, clocks, counters of its kernel; below all others |
//! | [`http`] | serves /metrics |
//! | [`config`] | what the operator sets |
//! | [`fair`] | turns by VM |
//! | [`service`] | the service manager, privileges, the log's format |

pub mod cli;
pub mod config;
pub mod engine;
pub mod failure;
pub mod fair;
pub mod host;
pub mod http;
pub mod inputs;
pub mod outputs;
pub mod private_file;
pub mod probes;
pub mod service;
pub mod terminal;

/// The commit that this was built from; `cargo xtask build` names it.
pub const REVISION: &str = env!("POISONTRACE_BUILT_FROM");
