//! BTF of a kernel.

#![no_main]

use libfuzzer_sys::fuzz_target;
use poisontrace_kernel_facts::btf::Btf;

fuzz_target!(|data: &[u8]| {
    let (kernel, module) = data.split_at(data.len() / 2);
    for bytes in [data, kernel] {
        let Ok(btf) = Btf::parse(bytes) else {
            continue;
        };
        look(&btf);
        if let Ok(module) = Btf::parse_module(module, &btf) {
            look(&module);
        }
    }
});

fn look(btf: &Btf<'_>) {
    btf.functions(&["memory_failure", "send_sig_mceerr", ""]);
    btf.members(&[
        ("kvm_vcpu", "vcpu_id"),
        ("kvm_vcpu", "kvm"),
        ("task_struct", "exit_code"),
        ("", ""),
    ]);
}
