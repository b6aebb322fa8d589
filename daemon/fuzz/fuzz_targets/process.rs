//! A process' entries in /proc: its command line and its cgroup.

#![no_main]

use libfuzzer_sys::fuzz_target;
use poisontrace::inputs::vm_registry::cmdline;

fuzz_target!(|data: &[u8]| {
    cmdline::identify(&cmdline::split(data));
    cmdline::libvirt_machine(&String::from_utf8_lossy(data));
});
