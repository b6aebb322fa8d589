//! A fleet of recorded hosts: what each serves, since when, and the past that a Prometheus would have of it.

pub mod body;
pub mod history;
pub mod schedule;
pub mod server;
