//! poisontrace: why did my KVM guest die on poisoned memory?
//!
//! One way through the house, one module a stage:
//!
//! | stage | module |
//! |---|---|
//! | facts of the running kernel, and the attach plan made from them | [`kernel`] |
//! | loading and attaching the BPF programs, reading their records | [`probes`] |
//! | decoded events, and recordings of them | [`event`] |
//! | events in, incident updates out; no clock, no I/O | [`correlate`] |
//! | evidence that others kept, as events | [`import`] |
//! | the incident and its verdict | [`incident`] |
//! | what a VMM says while its incident is open, as events | [`follow`] |
//! | report, store | [`sinks`] |
//!
//! [`privileges`] is what the daemon gives up once it runs. [`identity`] looks up who a process is, [`guest`] reads its guest's code where that is allowed, [`host`] what machine this is, and [`cli`] ties the stages
//! together for each command; [`config`] is what the operator sets.

pub mod cli;
pub mod config;
pub mod follow;
pub mod guest;
pub mod hook;
pub mod http;
pub mod identity;
pub mod machine;
pub mod notify;
pub mod pins;
pub mod privileges;
pub mod probes;
pub mod sinks;
pub mod survey;
