//! The platform that a guest's kernel names, where it is none that its operator runs with QEMU or libvirt: there the host is
//! somebody else's.

use std::collections::{BTreeMap, BTreeSet};

use super::{log::Log, speakers::Attributed};
use poisontrace_model::event::log_statement::{JoinKey, LogStatement, Machine, Role};

/// Words of DMI or of the hypervisor's name, in lower case, and the platform. A cloud's own name comes before its hypervisor's.
const PLATFORMS: [(&str, &str); 15] = [
    ("amazon ec2", "Amazon EC2"),
    ("google compute engine", "Google Compute Engine"),
    ("alibaba cloud", "Alibaba Cloud"),
    ("tencent cloud", "Tencent Cloud"),
    ("digitalocean", "DigitalOcean"),
    ("hetzner", "Hetzner"),
    ("scaleway", "Scaleway"),
    ("nutanix", "Nutanix AHV"),
    ("vmware", "VMware"),
    (
        "microsoft corporation virtual machine",
        "Microsoft Hyper-V or Azure",
    ),
    ("hyper-v", "Microsoft Hyper-V or Azure"),
    ("virtualbox", "VirtualBox"),
    ("parallels", "Parallels"),
    ("bhyve", "bhyve"),
    ("xen", "Xen"),
];

fn platform(about: &Machine) -> Option<(usize, &'static str)> {
    let (Machine::Dmi(name) | Machine::Hypervisor(name)) = about else {
        return None;
    };
    let name = name.to_lowercase();
    let found = PLATFORMS.iter().position(|(words, _)| name.contains(words))?;
    Some((found, PLATFORMS[found].1))
}

/// By VM: the platform that the kernel of its guest names.
pub fn of_vms(
    logs: &[Log],
    all: &[Attributed<'_>],
    of: &[Vec<(u32, Option<JoinKey>)>],
) -> BTreeMap<u32, &'static str> {
    // The streams of guests, with the VMs that they speak of.
    let mut streams: BTreeMap<_, BTreeSet<u32>> = BTreeMap::new();
    for (entry, of) in all.iter().zip(of) {
        if entry.role == Role::GuestKernel {
            let vms = streams.entry(entry.stream).or_default();
            vms.extend(of.iter().map(|(vm, _)| *vm));
        }
    }
    let mut named: BTreeMap<u32, (usize, &'static str)> = BTreeMap::new();
    for entry in all.iter().filter(|entry| entry.stream.file < logs.len()) {
        let LogStatement::Machine { about } = &entry.statement else {
            continue;
        };
        let Some(found) = platform(about) else { continue };
        for vm in streams.get(&entry.stream).into_iter().flatten() {
            let known = named.entry(*vm).or_insert(found);
            *known = (*known).min(found);
        }
    }
    named.into_iter().map(|(vm, (_, name))| (vm, name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_of_others_and_ones_own() {
        let of = |about: Machine| platform(&about).map(|(_, name)| name);
        let dmi = |text: &str| of(Machine::Dmi(text.to_owned()));
        assert_eq!(
            dmi("VMware, Inc. VMware Virtual Platform/440BX, BIOS 6.00"),
            Some("VMware")
        );
        assert_eq!(
            dmi("Amazon EC2 m5.large/, BIOS 1.0 10/16/2017"),
            Some("Amazon EC2")
        );
        assert_eq!(
            dmi("Microsoft Corporation Virtual Machine/Virtual Machine, BIOS 090008"),
            Some("Microsoft Hyper-V or Azure")
        );
        assert_eq!(of(Machine::Hypervisor("Xen HVM".to_owned())), Some("Xen"));
        assert_eq!(dmi("QEMU Standard PC (Q35 + ICH9, 2009), BIOS 1.16"), None);
        assert_eq!(of(Machine::Hypervisor("KVM".to_owned())), None);
        assert_eq!(of(Machine::Edac), None);
    }
}
