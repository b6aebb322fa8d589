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

/// Words in the names of processes and units that share a VM's memory and are no VMM: file systems, TPMs, disks and switches
/// behind vhost-user.
const HELPERS: [&str; 10] = [
    "virtiofsd",
    "vhost-user",
    "vhost_user",
    "swtpm",
    "qemu-storage-da",
    "spdk",
    "reactor_",
    "ovs-vswitchd",
    "pmd-c",
    "passt",
];

/// Units of those who manage VMs, and of a guest's own agent.
const MANAGERS: [&str; 11] = [
    "libvirtd",
    "libvirt-guests",
    "libvirt-dbus",
    "libvirt-exporter",
    "libvirt_lxc",
    "virtqemud",
    "virtlogd",
    "virtlockd",
    "virtproxyd",
    "qemu-guest-agent",
    "qemu-ga",
];

/// Whether a process or unit of this name may have mapped a VM's memory without running its guest.
pub fn is_helper(name: &str) -> bool {
    /// A shorter word is no part of another.
    const LONG: usize = 9;
    let letter = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphabetic);
    let bytes = name.as_bytes();
    let holds = |word: &&str| {
        name.match_indices(*word).any(|(at, _)| {
            let begins = at == 0 || !letter(bytes.get(at - 1));
            begins && (word.len() >= LONG || !letter(bytes.get(at + word.len())))
        })
    };
    HELPERS.iter().any(holds)
}

/// Whether a unit of this name manages VMs, and its end is that of none.
pub fn is_manager(unit: &str) -> bool {
    MANAGERS.iter().any(|name| unit.starts_with(name))
}

/// `qemu-system-x86_64: `, `/usr/libexec/qemu-kvm: `, `kvm: ` before a message of QEMU; and the message.
pub fn vmm_prefix(message: &[u8]) -> Option<&[u8]> {
    let colon = memchr::memchr(b':', &message[..message.len().min(128)])?;
    let path = &message[..colon];
    let name = path.rsplit(|b| *b == b'/').next()?;
    let rest = message[colon + 1..].strip_prefix(b" ")?;
    (is_vmm_name(name) && !path.iter().any(u8::is_ascii_whitespace)).then_some(rest)
}

/// Whether QEMU puts this name before its messages.
pub fn is_vmm_name(name: &[u8]) -> bool {
    let qemu = name.starts_with(b"qemu") || name == b"kvm" || memchr::memmem::find(name, b"qemu-").is_some();
    qemu && !name.iter().any(u8::is_ascii_whitespace)
}

/// Whether a message begins as those of a VMM do.
pub fn is_vmm_prefix(message: &[u8]) -> bool {
    vmm_prefix(message).is_some()
}

/// `warning: ` before a message of QEMU.
pub fn without_level(message: &[u8]) -> &[u8] {
    [&b"warning: "[..], b"error: ", b"info: "]
        .iter()
        .find_map(|level| {
            message
                .strip_prefix(*level)
                .filter(|rest| !rest.starts_with(b"kvm run failed"))
        })
        .unwrap_or(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_helps_a_vm_and_what_manages_it_runs_no_guest() {
        for name in [
            "virtiofsd",
            "microvm-virtiofsd@vm1",
            "vhost-user-blk",
            "vhost_user_fs",
            "swtpm",
            "swtpm@vm1",
            "qemu-storage-da",
            "reactor_0",
            "spdk_tgt",
            "pmd-c01/id:8",
            "passt",
        ] {
            assert!(is_helper(name) && !is_vmm(name), "{name}");
        }
        for name in [
            "passthrough",
            "qemu-kvm",
            "vhost-1234",
            "kvm",
            "postgres",
            "notspdk",
            "",
        ] {
            assert!(!is_helper(name), "{name}");
        }
        for name in ["libvirtd", "virtqemud", "libvirt_lxc"] {
            assert!(is_manager(name), "{name}");
        }
        assert!(is_manager("libvirtd") && is_manager("virtqemud") && is_manager("qemu-guest-agent"));
        assert!(!is_manager("machine-qemu\\x2d1\\x2ddb") && !is_manager("fc@a"));
    }

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
