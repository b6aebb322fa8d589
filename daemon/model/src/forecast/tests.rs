use alloc::{vec, vec::Vec};

use super::{
    Forecast, VmForecast,
    facts::{Backing, HostFacts, Known, VcpuFacts, VmFacts},
    forecast,
    terms::{Basis, Condition, Notice, Page, Reason, Sigbus, VmmKind},
};
use crate::event::McVendor;

const CR4_MCE: u64 = 1 << 6;
const SER_P: u64 = 1 << 24;
const CTL_P: u64 = 1 << 8;
/// A deferred error as QEMU writes it for an early notice.
const DEFERRED: u64 = 0x9c00_1800_0000_0000;

fn amd_host() -> HostFacts {
    HostFacts {
        early_kill: Known::Is(false),
        recovery: Known::Is(true),
        panic_on_unrecoverable: Known::Not(Reason::NotShown),
        edac_controllers: Known::Is(1),
        firmware_first: Known::Is(false),
        vendor: Known::Is(McVendor::Amd),
        recovers: Known::Is(true),
        svm: Known::Is(true),
        hardware_corrupted: Known::Is(0),
    }
}

fn intel_host() -> HostFacts {
    HostFacts {
        vendor: Known::Is(McVendor::Intel),
        svm: Known::Is(false),
        ..amd_host()
    }
}

/// An AMD vCPU on an AMD host; `ras`: CPUID 0x80000007 EBX.
fn amd(id: u32, ras: u32) -> VcpuFacts {
    VcpuFacts {
        id,
        mcg_cap: Some(10 | CTL_P),
        mcg_status: Some(0),
        mcg_ctl: Some(u64::MAX),
        cr4: Some(CR4_MCE),
        banks_read: true,
        held: Vec::new(),
        vendor: Some(McVendor::Amd),
        ras: Some(ras),
    }
}

fn intel(id: u32) -> VcpuFacts {
    VcpuFacts {
        mcg_cap: Some(10 | CTL_P | SER_P),
        vendor: Some(McVendor::Intel),
        ..amd(id, 0)
    }
}

fn qemu(vcpus: Vec<VcpuFacts>) -> VmFacts {
    VmFacts {
        pid: 100,
        name: None,
        uuid: None,
        vmm: None,
        kind: VmmKind::Qemu,
        qemu: Known::Is((10, 0)),
        sigbus: Known::Is(Sigbus::Caught),
        backing: Known::Is(Backing {
            small: 1 << 30,
            ..Backing::default()
        }),
        vcpu_count: Known::Is(u32::try_from(vcpus.len()).unwrap()),
        mce_off: None,
        vcpus: Known::Is(vcpus),
    }
}

fn answer(f: &VmForecast, page: Page, notice: Notice) -> (&'static str, &'static str) {
    match f.of(page, notice).unwrap() {
        Forecast::Outcome { expected, .. } => (expected.outcome.word(), expected.cause.word()),
        Forecast::Cases(_) => ("cases", "cases"),
        Forecast::Unknowable(_) => ("unknowable", "unknowable"),
        Forecast::NotPossible => ("none", "none"),
    }
}

fn ao(f: &VmForecast, page: Page) -> (&'static str, &'static str) {
    answer(f, page, Notice::ActionOptional)
}

fn ar(f: &VmForecast, page: Page) -> (&'static str, &'static str) {
    answer(f, page, Notice::ActionRequired)
}

#[test]
fn an_amd_guest_with_succor_and_overflow_recovery_outlives_its_processes_pages_only() {
    let f = forecast(&amd_host(), &qemu(vec![amd(0, 3)]));
    assert_eq!(ao(&f, Page::GuestProcess), ("survived", "contained"));
    assert_eq!(ar(&f, Page::GuestProcess), ("survived", "contained"));
    assert_eq!(ao(&f, Page::GuestKernel), ("guest_panicked", "kernel_access"));
    assert_eq!(ao(&f, Page::Untouched), ("unaffected", "not_touched"));
    assert_eq!(ar(&f, Page::Untouched), ("none", "none"));
    assert!(!f.headline().setting_mends);
}

#[test]
fn an_amd_guest_without_them_dies_of_the_overflow_unless_it_reads_its_bank_before() {
    let f = forecast(&amd_host(), &qemu(vec![amd(0, 0)]));
    assert_eq!(ao(&f, Page::GuestProcess), ("guest_panicked", "mce_overflow"));
    assert_eq!(
        ar(&f, Page::GuestProcess),
        ("guest_panicked", "fatal_notification")
    );
    let Some(Forecast::Outcome { expected, unless }) = f.of(Page::GuestProcess, Notice::ActionOptional)
    else {
        panic!("{f:?}");
    };
    assert_eq!(expected.basis, [Basis::DeferredUnread, Basis::NoOverflowRecovery]);
    assert_eq!(unless[0].when, [Condition::BankRead]);
    assert_eq!(unless[0].expected.outcome.word(), "survived");
    assert!(f.headline().setting_mends, "succor and overflow-recov");
}

#[test]
fn only_the_first_vcpu_holds_the_deferred_error() {
    // SUCCOR without overflow recovery, two vCPUs.
    let f = forecast(&amd_host(), &qemu(vec![amd(0, 2), amd(1, 2)]));
    let Some(Forecast::Cases(cases)) = f.of(Page::GuestProcess, Notice::ActionOptional) else {
        panic!("{f:?}");
    };
    let of = |condition| {
        let case = cases.iter().find(|case| case.when == [condition]).unwrap();
        (case.expected.outcome.word(), case.expected.cause.word())
    };
    assert_eq!(of(Condition::FirstVcpu), ("guest_panicked", "mce_overflow"));
    assert_eq!(of(Condition::OtherVcpus), ("survived", "contained"));
}

#[test]
fn an_intel_guest_on_intel_recovers_and_on_amd_dies_of_the_notice_alone() {
    let f = forecast(&intel_host(), &qemu(vec![intel(0), intel(1)]));
    assert_eq!(ao(&f, Page::GuestProcess), ("survived", "contained"));
    assert_eq!(ao(&f, Page::Untouched), ("survived", "contained"));
    assert_eq!(ao(&f, Page::GuestKernel), ("guest_panicked", "kernel_access"));
    // svm_setup_mce() clears SER_P.
    let hidden = |id| VcpuFacts {
        mcg_cap: Some(10 | CTL_P),
        ..intel(id)
    };
    let f = forecast(&amd_host(), &qemu(vec![hidden(0), hidden(1)]));
    for page in [Page::GuestProcess, Page::GuestKernel, Page::Untouched] {
        assert_eq!(ao(&f, page), ("guest_panicked", "fatal_notification"), "{page}");
    }
    assert_eq!(ar(&f, Page::GuestProcess), ("unknowable", "unknowable"));
    assert!(f.headline().setting_mends, "the CPU model");
}

#[test]
fn a_guest_with_its_machine_checks_off_is_reset_and_one_with_mce_off_hangs() {
    let off = VcpuFacts {
        cr4: Some(0),
        ..amd(0, 3)
    };
    let f = forecast(&amd_host(), &qemu(vec![off]));
    assert_eq!(ao(&f, Page::GuestProcess), ("guest_reset", "mce_disabled"));
    assert_eq!(ao(&f, Page::Untouched), ("unaffected", "not_touched"));
    let with = |mce_off, vcpu| VmFacts {
        mce_off,
        ..qemu(vec![vcpu])
    };
    let f = forecast(&amd_host(), &with(Some(true), amd(0, 3)));
    assert_eq!(ao(&f, Page::GuestProcess), ("running", "mce_nested"));
    let f = forecast(&intel_host(), &with(Some(true), intel(0)));
    assert_eq!(ao(&f, Page::GuestProcess), ("guest_reset", "mce_nested"));
}

#[test]
fn an_error_that_lies_in_the_bank_makes_the_next_an_overflow() {
    let held = |ras| VcpuFacts {
        held: vec![(9, DEFERRED)],
        ..amd(0, ras)
    };
    let f = forecast(&amd_host(), &qemu(vec![held(2)]));
    assert_eq!(ar(&f, Page::GuestProcess), ("guest_panicked", "mce_overflow"));
    let f = forecast(&amd_host(), &qemu(vec![held(3)]));
    assert_eq!(ar(&f, Page::GuestProcess), ("survived", "contained"));
}

#[test]
fn vmms_die_by_their_handling_of_sigbus() {
    let vm = |kind, sigbus| VmFacts {
        kind,
        sigbus: Known::Is(sigbus),
        ..qemu(vec![intel(0)])
    };
    let host = intel_host();
    let f = forecast(&host, &vm(VmmKind::Other, Sigbus::Default));
    assert_eq!(ao(&f, Page::GuestProcess), ("vmm_killed", "sigbus_unhandled"));
    let Some(Forecast::Cases(cases)) = f.of(Page::Untouched, Notice::ActionOptional) else {
        panic!("whether it asks for the early notice does not show: {f:?}");
    };
    assert_eq!(cases[1].when, [Condition::NoEarlyNotice]);
    assert_eq!(cases[1].expected.outcome.word(), "unaffected");
    let f = forecast(&host, &vm(VmmKind::Firecracker, Sigbus::Caught));
    assert_eq!(ao(&f, Page::Untouched), ("unaffected", "not_touched"));
    assert_eq!(ao(&f, Page::GuestProcess), ("vmm_exited", "sigbus_unhandled"));
    let f = forecast(&host, &vm(VmmKind::CloudHypervisor, Sigbus::Caught));
    assert_eq!(ao(&f, Page::GuestKernel), ("vmm_killed", "sigbus_unhandled"));
    let f = forecast(&host, &vm(VmmKind::Other, Sigbus::Blocked));
    assert_eq!(ao(&f, Page::GuestProcess), ("running", "sigbus_spin"));
    assert_eq!(ar(&f, Page::GuestProcess), ("vmm_killed", "sigbus_unhandled"));
    let f = forecast(&host, &vm(VmmKind::Other, Sigbus::Caught));
    assert_eq!(ao(&f, Page::GuestProcess), ("cases", "cases"));
    let early = HostFacts {
        early_kill: Known::Is(true),
        ..host
    };
    let f = forecast(&early, &vm(VmmKind::Firecracker, Sigbus::Default));
    assert_eq!(ao(&f, Page::Untouched), ("vmm_killed", "sigbus_unhandled"));
    assert!(
        f.headline().setting_mends,
        "early_kill = 0 spares it until the touch"
    );
}

#[test]
fn an_unknown_vmm_that_injects_is_bound_by_what_kvm_lets_in() {
    let of = |vcpu: VcpuFacts| {
        let vm = VmFacts {
            kind: VmmKind::Other,
            qemu: Known::Not(Reason::NotShown),
            ..qemu(vec![vcpu])
        };
        let f = forecast(&amd_host(), &vm);
        let Some(Forecast::Cases(cases)) = f.of(Page::GuestProcess, Notice::ActionOptional) else {
            panic!("{f:?}");
        };
        let mut injects = cases.iter().filter(|case| case.when == [Condition::VmmInjects]);
        injects.next().unwrap().expected.cause.word()
    };
    let off = VcpuFacts {
        cr4: Some(0),
        ..amd(0, 0)
    };
    assert_eq!(of(off), "mce_disabled");
    let dropped = VcpuFacts {
        mcg_ctl: Some(0),
        ..amd(0, 0)
    };
    assert_eq!(of(dropped), "mce_dropped");
}

#[test]
fn what_is_behind_the_memory_decides_how_much_is_lost() {
    let vm = |backing| VmFacts {
        backing: Known::Is(backing),
        ..qemu(vec![amd(0, 3)])
    };
    let hugetlb = Backing {
        hugetlb: 1 << 30,
        hugetlb_page: Some(2 << 20),
        small: 16 << 20,
        ..Backing::default()
    };
    let f = forecast(&amd_host(), &vm(hugetlb));
    assert_eq!(ao(&f, Page::GuestProcess), ("guest_panicked", "kernel_access"));
    let pinned = Backing {
        small: 1 << 30,
        transparent: Some(1 << 30),
        vfio: true,
        ..Backing::default()
    };
    let f = forecast(&amd_host(), &vm(pinned.clone()));
    assert_eq!(ar(&f, Page::GuestProcess), ("vmm_killed", "unmap_failed"));
    let f = forecast(
        &amd_host(),
        &vm(Backing {
            transparent: None,
            ..pinned
        }),
    );
    assert_eq!(ar(&f, Page::GuestProcess), ("cases", "cases"));
    let private = Backing {
        guest_memfd: true,
        ..Backing::default()
    };
    let f = forecast(&amd_host(), &vm(private));
    let private = f.of(Page::GuestProcess, Notice::ActionRequired).unwrap();
    assert!(private.all().any(|e| e.cause.word() == "guest_memfd"));
}

#[test]
fn a_host_that_cannot_recover_dies_with_all_its_guests() {
    let host = HostFacts {
        recovers: Known::Is(false),
        ..amd_host()
    };
    let f = forecast(&host, &qemu(vec![amd(0, 3)]));
    assert_eq!(
        ar(&f, Page::GuestProcess),
        ("host_panicked", "fatal_notification")
    );
    assert_eq!(ao(&f, Page::GuestProcess), ("survived", "contained"));
    let host = HostFacts {
        recovery: Known::Is(false),
        ..amd_host()
    };
    let f = forecast(&host, &qemu(vec![amd(0, 3)]));
    assert_eq!(ao(&f, Page::Untouched), ("host_panicked", "fatal_notification"));
    assert!(f.headline().setting_mends);
}

#[test]
fn without_its_vcpus_facts_each_case_is_given_and_none_is_guessed() {
    let blind = VmFacts {
        vcpus: Known::Not(Reason::NoIterator),
        ..qemu(vec![amd(0, 3), amd(1, 3)])
    };
    let f = forecast(&amd_host(), &blind);
    assert_eq!(ao(&f, Page::GuestProcess), ("cases", "cases"));
    assert_eq!(f.headline().outcome, "unknown");
    let Some(Forecast::Cases(cases)) = f.of(Page::GuestProcess, Notice::ActionOptional) else {
        panic!("{f:?}");
    };
    let of = |condition| cases.iter().find(|case| case.when.contains(&condition)).unwrap();
    assert_eq!(of(Condition::AmdRecovers).expected.outcome.word(), "survived");
    assert_eq!(of(Condition::AmdPlain).expected.outcome.word(), "guest_panicked");
    assert_eq!(
        of(Condition::IntelPlain).expected.cause.word(),
        "fatal_notification"
    );
    // A kernel's page kills each of them.
    let kernel = f
        .of(Page::GuestKernel, Notice::ActionRequired)
        .and_then(Forecast::single);
    assert_eq!(kernel.unwrap().outcome.word(), "guest_panicked");
}

#[test]
fn a_signal_disposition_that_cannot_be_read_is_stated() {
    let vm = VmFacts {
        sigbus: Known::Not(Reason::NotPermitted),
        ..qemu(vec![amd(0, 3)])
    };
    let f = forecast(&amd_host(), &vm);
    assert_eq!(
        f.of(Page::GuestProcess, Notice::ActionOptional),
        Some(&Forecast::Unknowable(vec![Reason::NotPermitted]))
    );
}
