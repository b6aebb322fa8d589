//! The running kernel: facts are read ([`facts`]), a plan is made of them ([`plan`], pure). Nothing of a
//! kernel is compiled in: tracefs formats, BTF and kallsyms decide.

#![forbid(unsafe_code)]

pub mod btf;
pub mod facts;
pub mod format;
pub mod functions;
pub mod kvm;
pub mod plan;
pub mod uevent;
pub mod vcpus;
