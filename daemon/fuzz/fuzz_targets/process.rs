//! A process' entries in /proc: its command line and its cgroup.

#![no_main]

use libfuzzer_sys::fuzz_target;
use poisontrace_sources::inputs::vm_registry::{cgroup, cmdline};

fuzz_target!(|data: &[u8]| {
    cmdline::identify(&cmdline::split(data));
    cgroup::placed(&String::from_utf8_lossy(data));
});
