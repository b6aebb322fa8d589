//! What a kernel prints of the machine that it runs on: it decides whether it is a host's or a guest's.

use super::{Fields, Wording};
use poisontrace_model::event::log_statement::{LogStatement, Machine, Role};

const fn kernel(
    program: &'static str,
    versions: &'static str,
    shape: &'static str,
    read: fn(&Fields<'_>) -> Option<LogStatement>,
    line: &'static str,
) -> Wording {
    Wording {
        program,
        versions,
        role: Role::Kernel,
        shape,
        read,
        line,
    }
}

pub const WORDINGS: &[Wording] = &[
    kernel(
        "Linux, init/version.c",
        "all",
        "Linux version {release:word} {rest}",
        boot,
        "Linux version 6.8.0-31-generic (buildd@host1) #1 SMP",
    ),
    kernel(
        "Linux, drivers/firmware/dmi_scan.c",
        "all",
        "DMI: {dmi}",
        dmi,
        "DMI: Dell Inc. PowerEdge R740/0WRPXK, BIOS 2.12.2 07/09/2021",
    ),
    kernel(
        "Linux, lib/dump_stack.c",
        "all",
        "Hardware name: {dmi}",
        dmi,
        "Hardware name: Dell Inc. PowerEdge R740/0WRPXK, BIOS 2.12.2 07/09/2021",
    ),
    kernel(
        "Linux, drivers/of/fdt.c",
        "all",
        "Machine model: {dmi}",
        dmi,
        "Machine model: linux,dummy-virt",
    ),
    kernel(
        "Linux, arch/x86/kernel/cpu/hypervisor.c",
        "all",
        "Hypervisor detected: {name}",
        hypervisor,
        "Hypervisor detected: KVM",
    ),
    kernel(
        "Linux, arch/x86/kernel/paravirt.c",
        "all",
        "Booting paravirtualized kernel on {name}",
        paravirtual,
        "Booting paravirtualized kernel on KVM",
    ),
    kernel(
        "Linux, arch/x86/kernel/kvmclock.c",
        "all",
        "kvm-clock: {rest}",
        kvm_clock,
        "kvm-clock: Using msrs 4b564d01 and 4b564d00",
    ),
    kernel(
        "Linux, drivers/hv",
        "all",
        "hv_{driver:word} {rest}",
        hyper_v,
        "hv_balloon: Max. dynamic memory size: 16384 MB",
    ),
    kernel(
        "Linux, drivers/virtio/virtio_balloon.c and its kin",
        "all",
        "virtio_{driver:word} {rest}",
        virtio,
        "virtio_blk virtio2: [vda] 41943040 512-byte logical blocks (21.5 GB/20.0 GiB)",
    ),
    kernel(
        "Linux, arch/x86/kvm",
        "all",
        "kvm_intel: {rest}",
        kvm_host,
        "kvm_intel: VMX not supported by CPU 3",
    ),
    kernel(
        "Linux, arch/x86/kvm",
        "all",
        "kvm_amd: {rest}",
        kvm_host,
        "kvm_amd: Nested Virtualization enabled",
    ),
    kernel(
        "Linux, virt/kvm",
        "all",
        "kvm: {rest}",
        kvm_host,
        "kvm: VMX supported",
    ),
    kernel(
        "Linux, lib/dump_stack.c",
        "all",
        "CPU: {cpu:dec} PID: {pid:dec} Comm: {comm} Kdump: {rest}",
        on_cpu,
        "CPU: 56 PID: 0 Comm: swapper/56 Kdump: loaded Tainted: G   M",
    ),
    kernel(
        "Linux, lib/dump_stack.c",
        "all",
        "CPU: {cpu:dec} PID: {pid:dec} Comm: {comm} Tainted: {rest}",
        on_cpu,
        "CPU: 120 PID: 20511 Comm: qemu-system-x86 Tainted: G   M  I E      6.0.0-rc1+ #158",
    ),
    kernel(
        "Linux, lib/dump_stack.c",
        "6.9 on",
        "CPU: {cpu:dec} UID: {uid:dec} PID: {pid:dec} Comm: {comm} Tainted: {rest}",
        on_cpu,
        "CPU: 120 UID: 107 PID: 20511 Comm: qemu-system-x86 Tainted: G   M  6.12.0 #1",
    ),
    kernel(
        "Linux, drivers/edac",
        "all",
        "EDAC {driver:word} {rest}",
        edac,
        "EDAC skx MC3: HANDLING MCE MEMORY ERROR",
    ),
];

fn boot(f: &Fields<'_>) -> Option<LogStatement> {
    Some(LogStatement::Machine {
        about: Machine::Boot(f.text("release", 128)?),
    })
}

fn dmi(f: &Fields<'_>) -> Option<LogStatement> {
    Some(LogStatement::Machine {
        about: Machine::Dmi(f.text("dmi", 128)?),
    })
}

fn hypervisor(f: &Fields<'_>) -> Option<LogStatement> {
    Some(LogStatement::Machine {
        about: Machine::Hypervisor(f.text("name", 64)?),
    })
}

fn paravirtual(f: &Fields<'_>) -> Option<LogStatement> {
    let name = f.text("name", 64)?;
    (name != "bare hardware").then_some(LogStatement::Machine {
        about: Machine::Hypervisor(name),
    })
}

fn kvm_clock(_: &Fields<'_>) -> Option<LogStatement> {
    Some(LogStatement::Machine {
        about: Machine::Hypervisor("KVM".to_owned()),
    })
}

fn hyper_v(f: &Fields<'_>) -> Option<LogStatement> {
    let driver = f.text("driver", 32)?;
    let known = ["balloon:", "vmbus:", "netvsc", "utils:", "storvsc", "pci"];
    known
        .iter()
        .any(|name| driver.starts_with(name))
        .then(|| LogStatement::Machine {
            about: Machine::Hypervisor("Microsoft Hyper-V".to_owned()),
        })
}

fn virtio(_: &Fields<'_>) -> Option<LogStatement> {
    Some(LogStatement::Machine {
        about: Machine::Hypervisor("virtio".to_owned()),
    })
}

fn kvm_host(_: &Fields<'_>) -> Option<LogStatement> {
    Some(LogStatement::Machine {
        about: Machine::KvmHost,
    })
}

fn edac(_: &Fields<'_>) -> Option<LogStatement> {
    Some(LogStatement::Machine { about: Machine::Edac })
}

fn on_cpu(f: &Fields<'_>) -> Option<LogStatement> {
    Some(LogStatement::OnCpu {
        comm: f.text("comm", 64)?,
        pid: f.u32("pid")?,
    })
}
