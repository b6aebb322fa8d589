//! VMMs and libvirt. The messages of QEMU begin behind its own name and `warning: `.

use super::{Fields, Wording, kernel::other};
use poisontrace_model::event::{
    SigbusSeverity,
    log_statement::{LogStatement, Role},
};

const fn qemu(
    program: &'static str,
    versions: &'static str,
    shape: &'static str,
    read: fn(&Fields<'_>) -> Option<LogStatement>,
    line: &'static str,
) -> Wording {
    Wording {
        program,
        versions,
        role: Role::Vmm,
        shape,
        read,
        line,
    }
}

const KVM_C: &str = "QEMU, target/i386/kvm/kvm.c";

pub const WORDINGS: &[Wording] = &[
    qemu(
        KVM_C,
        "4.2 to 10.2",
        "Guest MCE Memory Error at QEMU addr {hva:hex} and GUEST addr {gpa:hex} of type {si:word} injected",
        injected,
        "Guest MCE Memory Error at QEMU addr 0x7fccea9eb000 and GUEST addr 0x2beb000 of type BUS_MCEERR_AR injected",
    ),
    qemu(
        KVM_C,
        "10.0 on",
        "Guest MCE Memory Error at QEMU addr {hva:hex} and GUEST addr {gpa:hex} on lost large page {size:hex}@{base:hex} of type {si:word} injected",
        injected,
        "Guest MCE Memory Error at QEMU addr 0x7fc1f5dd6000 and GUEST addr 0x19fd6000 on lost large page 200000@19e00000 of type BUS_MCEERR_AR injected",
    ),
    qemu(
        "QEMU, target/i386/kvm.c",
        "before 4.2",
        "Guest MCE Memory Error at QEMU addr {hva:hex} and GUEST addr {gpa:hex} injected",
        injected,
        "Guest MCE Memory Error at QEMU addr 0x7fccea9eb000 and GUEST addr 0x2beb000 injected",
    ),
    qemu(
        "QEMU, target/i386/kvm.c",
        "before 4.2, another order",
        "Guest MCE Memory Error at GUEST addr {gpa:hex} and QEMU addr {hva:hex} injected",
        injected,
        "Guest MCE Memory Error at GUEST addr 0x2beb000 and QEMU addr 0x7fccea9eb000 injected",
    ),
    qemu(
        "QEMU, target/arm/kvm.c",
        "5.1 to 10.2",
        "Guest Memory Error at QEMU addr {hva:hex} and GUEST addr {gpa:hex} of type {si:word} injected",
        injected,
        "Guest Memory Error at QEMU addr 0x7fccea9eb000 and GUEST addr 0x2beb000 of type BUS_MCEERR_AR injected",
    ),
    qemu(
        "QEMU, hardware_memory_error()",
        "2.x to 4.1",
        "Hardware memory error!",
        own_fatal,
        "Hardware memory error!",
    ),
    qemu(
        "QEMU, hardware_memory_error()",
        "4.2 to 10.2",
        "QEMU got Hardware memory error at addr {hva:hex}",
        own_fatal,
        "QEMU got Hardware memory error at addr 0x7fccea9eb000",
    ),
    qemu(
        "QEMU, kvm_arch_on_sigbus_vcpu()",
        "2.x to 4.1: of type BUS_MCEERR_AO, which it ignores",
        "Hardware memory error for memory used by QEMU itself instead of guest system!",
        own_ignored,
        "Hardware memory error for memory used by QEMU itself instead of guest system!",
    ),
    qemu(
        "QEMU, kvm_arch_on_sigbus_vcpu()",
        "4.2 to 10.2",
        "Hardware memory error at addr {hva:hex} of type {si:word} for memory used by QEMU itself instead of guest system!",
        own,
        "Hardware memory error at addr 0x7fccea9eb000 of type BUS_MCEERR_AO for memory used by QEMU itself instead of guest system!",
    ),
    qemu(
        "QEMU, target/arm/kvm.c: of type BUS_MCEERR_AO, which it ignores",
        "5.1 to 10.2",
        "Hardware memory error at addr {hva:hex} for memory used by QEMU itself instead of guest system!",
        own_ignored,
        "Hardware memory error at addr 0x7fccea9eb000 for memory used by QEMU itself instead of guest system!",
    ),
    qemu(
        "QEMU with -d cpu_reset, target/i386/helper.c",
        "4.2 to 10.2",
        "CPU {cpu:dec}: Previous MCE still in progress, raising triple fault",
        reset_nested,
        "CPU 0: Previous MCE still in progress, raising triple fault",
    ),
    qemu(
        "QEMU with -d cpu_reset, target/i386/helper.c",
        "5.2 to 10.2",
        "CPU {cpu:dec}: MCE capability is not enabled, raising triple fault",
        reset_disabled,
        "CPU 1: MCE capability is not enabled, raising triple fault",
    ),
    qemu(
        "QEMU, accel/kvm/kvm-all.c: guest_memfd",
        "8.x to 10.2",
        "error: kvm run failed Memory page has hardware error",
        run_failed,
        "error: kvm run failed Memory page has hardware error",
    ),
    qemu(
        "QEMU, accel/kvm/kvm-all.c: another error",
        "all",
        "error: kvm run failed {error}",
        other,
        "error: kvm run failed Bad address",
    ),
    qemu(
        "QEMU, migration/migration.c",
        "9.0 on",
        "Can't migrate this vm with hardware poisoned memory, please reboot the vm and try again",
        migration_refused,
        "Can't migrate this vm with hardware poisoned memory, please reboot the vm and try again",
    ),
    qemu(
        "QEMU, target/i386/cpu-dump.c and kvm-all.c",
        "all",
        "KVM internal error. Suberror: {n}",
        other,
        "KVM internal error. Suberror: 1",
    ),
    qemu(
        "QEMU, accel/kvm/kvm-all.c",
        "all",
        "KVM: entry failed, hardware error {n:hex}",
        other,
        "KVM: entry failed, hardware error 0x80000021",
    ),
    Wording {
        program: "QEMU's monitor, gpa2hpa",
        versions: "2.10 on",
        role: Role::Vmm,
        shape: "Host physical address for {gpa:hex} ({region}) is {hpa:hex}",
        read: address,
        line: "Host physical address for 0x2beb000 (pc.ram) is 0xf7eb000",
    },
    Wording {
        program: "QEMU's monitor, gpa2hva",
        versions: "2.10 on",
        role: Role::Vmm,
        shape: "Host virtual address for {gpa:hex} ({region}) is {hva:hex}",
        read: address,
        line: "Host virtual address for 0x2beb000 (pc.ram) is 0x7fccea9eb000",
    },
    Wording {
        program: "poisontrace's lab, host-init",
        versions: "all",
        role: Role::Tool,
        shape: "L1: gpa={gpa:hex} hpa={hpa:hex} pfn={pfn:hex} qemu pid={pid:dec}",
        read: address,
        line: "L1: gpa=0x2beb000 hpa=0xf7eb000 pfn=0xf7eb qemu pid=221",
    },
    Wording {
        program: "libvirt, qemu_domain.c",
        versions: "3.x on",
        role: Role::Libvirt,
        shape: "shutting down, reason={reason:word}",
        read: shutdown,
        line: "shutting down, reason=crashed",
    },
    Wording {
        program: "libvirt, qemu_domain.c",
        versions: "before 3.x",
        role: Role::Libvirt,
        shape: "shutting down",
        read: shutdown,
        line: "shutting down",
    },
    Wording {
        program: "KubeVirt, pkg/virt-launcher/notify-client",
        versions: "0.x",
        role: Role::Qmp,
        shape: "DomainLifecycle event {event:dec} with reason {reason:dec} received",
        read: lifecycle,
        line: "DomainLifecycle event 8 with reason 0 received",
    },
    Wording {
        program: "KubeVirt, pkg/virt-launcher/notify-client",
        versions: "1.x",
        role: Role::Qmp,
        shape: "DomainLifecycle event {text} with event id {event:dec} reason {reason:dec} received",
        read: lifecycle,
        line: "DomainLifecycle event Domain event=\"crashed\" detail=\"panicked\" with event id 8 reason 0 received",
    },
    Wording {
        program: "libvirt, qemu_process.c",
        versions: "all",
        role: Role::Libvirt,
        shape: "initiating migration",
        read: other,
        line: "initiating migration",
    },
];

/// `200000@19e00000`: what a large page is at least.
const SMALL: u64 = 4096;

fn severity(f: &Fields<'_>) -> Option<SigbusSeverity> {
    match f.bytes("si")? {
        b"BUS_MCEERR_AR" => Some(SigbusSeverity::ActionRequired),
        b"BUS_MCEERR_AO" => Some(SigbusSeverity::ActionOptional),
        _ => None,
    }
}

fn injected(f: &Fields<'_>) -> Option<LogStatement> {
    if f.bytes("si").is_some() && severity(f).is_none() {
        return None;
    }
    Some(LogStatement::VmmInjected {
        hva: f.hex("hva"),
        gpa: f.hex("gpa"),
        severity: severity(f),
        size: f
            .hex("size")
            .map(|size| size.0)
            .filter(|size| size.is_power_of_two() && *size > SMALL),
    })
}

fn own_fatal(f: &Fields<'_>) -> Option<LogStatement> {
    let hva = f.hex("hva");
    Some(LogStatement::VmmOwnMemory { fatal: true, hva })
}

fn own_ignored(f: &Fields<'_>) -> Option<LogStatement> {
    let hva = f.hex("hva");
    Some(LogStatement::VmmOwnMemory { fatal: false, hva })
}

fn own(f: &Fields<'_>) -> Option<LogStatement> {
    let fatal = severity(f)? == SigbusSeverity::ActionRequired;
    let hva = f.hex("hva");
    Some(LogStatement::VmmOwnMemory { fatal, hva })
}

fn reset_nested(_: &Fields<'_>) -> Option<LogStatement> {
    Some(LogStatement::VmmReset { recursive: true })
}

fn reset_disabled(_: &Fields<'_>) -> Option<LogStatement> {
    Some(LogStatement::VmmReset { recursive: false })
}

fn run_failed(_: &Fields<'_>) -> Option<LogStatement> {
    Some(LogStatement::RunFailed)
}

fn migration_refused(_: &Fields<'_>) -> Option<LogStatement> {
    Some(LogStatement::MigrationRefused)
}

fn shutdown(f: &Fields<'_>) -> Option<LogStatement> {
    let reason = f.text("reason", 32).unwrap_or_else(|| "not given".to_owned());
    Some(LogStatement::VmShutdown { reason })
}

/// libvirt's numbers (virDomainEventType, virDomainEventStoppedDetailType; include/libvirt/libvirt-domain.h).
fn lifecycle(f: &Fields<'_>) -> Option<LogStatement> {
    const STARTED: u64 = 2;
    const STOPPED: u64 = 5;
    const CRASHED: u64 = 8;
    const REASONS: [&str; 7] = [
        "shutdown",
        "destroyed",
        "crashed",
        "migrated",
        "saved",
        "failed",
        "from-snapshot",
    ];
    let reason = usize::try_from(f.dec("reason")?).ok()?;
    Some(match f.dec("event")? {
        STARTED => LogStatement::VmStarted {
            host: None,
            domain: None,
        },
        STOPPED => LogStatement::QmpShutdown {
            domain: None,
            guest: false,
            reason: REASONS.get(reason).map(|reason| (*reason).to_owned()),
        },
        CRASHED => LogStatement::QmpPanicked { domain: None },
        _ => LogStatement::Other,
    })
}

fn address(f: &Fields<'_>) -> Option<LogStatement> {
    const PAGE_SHIFT: u32 = 12;
    let frame = f
        .hex("hpa")
        .map(|hpa| poisontrace_model::hex::Hex(hpa.0 >> PAGE_SHIFT));
    Some(LogStatement::AddressMap {
        gpa: f.hex("gpa"),
        hva: f.hex("hva"),
        pfn: f.hex("pfn").or(frame),
        pid: f.u32("pid"),
    })
}
