//! Which programs are VMMs: by the name that a kernel shows of them (cut at 15 bytes), and by the name that they
//! put before their messages.

/// Names of processes and threads that run guests with KVM; a name that ends in `*` may go on.
const COMMS: [&str; 25] = [
    "qemu-system-*",
    "qemu-kvm*",
    "qemu",
    "qemu:*",
    "kvm",
    "kvm-spice",
    "CPU */KVM",
    "firecracker*",
    "fc_vcpu*",
    "cloud-hyperviso*",
    "vcpu*",
    "crosvm*",
    "lkvm*",
    "kvm-vcpu-*",
    "kvmtool*",
    "VirtualBoxVM*",
    "VBoxHeadless*",
    "EMT-*",
    "vmware-vmx*",
    "stratovirt*",
    "dragonball*",
    "openvmm*",
    "libkrun*",
    "krunvm*",
    "vmm",
];

/// Whether a process of this name runs guests.
pub fn is_vmm(comm: &str) -> bool {
    COMMS.iter().any(|pattern| match pattern.split_once('*') {
        None => comm == *pattern,
        Some((before, after)) => {
            comm.len() >= before.len() + after.len() && comm.starts_with(before) && comm.ends_with(after)
        }
    })
}

/// `qemu-system-x86_64: `, `/usr/libexec/qemu-kvm: `, `kvm: ` before a message of QEMU; and the message.
pub fn vmm_prefix(message: &[u8]) -> Option<&[u8]> {
    let colon = memchr::memchr(b':', &message[..message.len().min(128)])?;
    let path = &message[..colon];
    let name = path.rsplit(|b| *b == b'/').next()?;
    let qemu = name.starts_with(b"qemu") || name == b"kvm" || memchr::memmem::find(name, b"qemu-").is_some();
    let words = name.iter().any(u8::is_ascii_whitespace);
    let rest = message[colon + 1..].strip_prefix(b" ")?;
    (qemu && !words && !path.iter().any(u8::is_ascii_whitespace)).then_some(rest)
}

/// Whether a message begins as those of a VMM do.
pub fn is_vmm_prefix(message: &[u8]) -> bool {
    vmm_prefix(message).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vmms_and_others() {
        for comm in [
            "qemu-system-x86",
            "qemu-kvm",
            "kvm",
            "CPU 12/KVM",
            "cloud-hyperviso",
            "cloud-hypervisor",
            "fc_vcpu 0",
            "crosvm_vcpu0",
            "VBoxHeadless",
            "vmm",
        ] {
            assert!(is_vmm(comm), "{comm}");
        }
        for comm in [
            "java",
            "multichase",
            "einj_mem_uc",
            "kvm-nx-lpage-re",
            "vmmouse",
            "CPU 1",
            "mysqld",
            "",
        ] {
            assert!(!is_vmm(comm), "{comm}");
        }
        assert_eq!(
            vmm_prefix(b"/usr/libexec/qemu-kvm: warning: x"),
            Some(&b"warning: x"[..])
        );
        assert_eq!(vmm_prefix(b"see the qemu: x"), None);
    }
}
