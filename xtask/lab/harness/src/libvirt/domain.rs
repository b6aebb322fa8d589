//! Domains as libvirt's XML defines them.

/// The model of the processor that a domain gives its guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Model {
    /// An AMD model of QEMU's without overflow recovery.
    Epyc,
    /// The host's, with all that KVM adds to it.
    Host,
}

pub struct Domain {
    pub name: &'static str,
    pub uuid: &'static str,
    pub model: Model,
    /// Its memory is of hugetlbfs.
    pub huge_pages: bool,
}

impl Domain {
    pub fn xml(&self) -> String {
        let Self { name, uuid, .. } = self;
        let cpu = match self.model {
            Model::Epyc => {
                "<cpu mode='custom' match='exact' check='none'><model fallback='forbid'>EPYC</model></cpu>"
            }
            Model::Host => "<cpu mode='host-passthrough' check='none' migratable='off'/>",
        };
        let backing = match self.huge_pages {
            true => "<memoryBacking><hugepages/></memoryBacking>",
            false => "",
        };
        format!(
            "<domain type='kvm'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <memory unit='MiB'>256</memory>
  <vcpu>1</vcpu>
  {backing}
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>/var/lib/libvirt/images/vmlinuz</kernel>
    <initrd>/var/lib/libvirt/images/initramfs</initrd>
    <cmdline>console=ttyS0 panic=-1 quiet tsc=reliable</cmdline>
  </os>
  <features><acpi/></features>
  {cpu}
  <on_reboot>destroy</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
    <serial type='pty'>
      <log file='/var/log/libvirt/qemu/{name}-console.log' append='off'/>
      <target port='0'/>
    </serial>
    <panic model='isa'/>
  </devices>
</domain>
"
        )
    }
}
