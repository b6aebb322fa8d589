//! BTF of a kernel.

#![no_main]

use libfuzzer_sys::fuzz_target;
use poisontrace::kernel::btf::Btf;

fuzz_target!(|data: &[u8]| {
    if let Ok(btf) = Btf::parse(data) {
        btf.functions(&["memory_failure", "send_sig_mceerr", ""]);
        btf.members(&["kvm_vcpu.vcpu_id", "kvm_vcpu.kvm", "task_struct.exit_code", "."]);
    }
});
