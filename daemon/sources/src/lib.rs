//! Where events come from on a running host: [`probes`] in the kernel, [`inputs`] beside them, [`host`] below both. What becomes of an
//! event is not known here.
//!
//! | module | does |
//! |---|---|
//! | [`probes`] | loads and attaches the BPF programs, reads their records |
//! | [`inputs`] | VMs, their logs and QMP, pages that were poisoned before |
//! | [`host`] | this machine: identity, clocks, counters of its kernel |

pub mod host;
pub mod inputs;
pub mod probes;
