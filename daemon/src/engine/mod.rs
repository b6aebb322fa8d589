//! The daemon: from probes and inputs through the model to the outputs.
//!
//! | part | does |
//! |---|---|
//! | [`run`] | `run` and `record`: attaches, starts, stops |
//! | [`event_loop`], [`wake`] | waits for the next thing to do, and does it |
//! | [`pipeline`] | one record's way: input → model → outputs |
//! | [`replay`] | the same for recordings |
//! | [`attach`], [`plan_text`], [`probe_table`] | from the running kernel to attached probes, and how they are shown |
//! | [`forecast`] | `forecast`: what an error would do to each VM |
//! | [`forecaster`] | the same for the running daemon's metrics |
//! | [`incident_pages`] | the store's incidents as pages of the HTTP server |
//! | [`kvm_module`] | KVM's module comes and goes |
//! | [`serving`] | the HTTP server as the event loops use it |

pub mod attach;
pub mod event_loop;
pub mod forecast;
pub mod forecaster;
pub mod incident_pages;
pub mod kvm_module;
pub mod pipeline;
pub mod plan_text;
pub mod probe_table;
pub mod replay;
pub mod run;
pub mod serving;
pub mod settings;
pub mod wake;
