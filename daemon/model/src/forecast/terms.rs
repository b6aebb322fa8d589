//! The words of a forecast: the report crate puts them into sentences.

use serde::{Deserialize, Serialize};

use crate::incident::terms::words;

words! {
    /// The page that is lost.
    Page { GuestProcess = "guest_process", GuestKernel = "guest_kernel", Untouched = "untouched" }
}

words! {
    /// How the host learns of the error: found before anything uses it (scrubbing, a deferred error: action optional), or consumed by
    /// what runs on the processor (action required).
    Notice { ActionOptional = "ao", ActionRequired = "ar" }
}

words! {
    /// The VMM's program, as far as its handling of SIGBUS is known.
    VmmKind {
        Qemu = "qemu", Firecracker = "firecracker", CloudHypervisor = "cloud_hypervisor", Crosvm = "crosvm", Other = "other",
    }
}

words! {
    /// Why a fact is not known.
    Reason {
        NotPermitted = "not_permitted", NoIterator = "no_iterator", NotBuiltIn = "not_built_in", NoBtf = "no_btf", KernelTooOld = "kernel_too_old",
        MembersMissing = "members_missing", NotShown = "not_shown", ProcessGone = "process_gone", TooCostly = "too_costly",
        NoMemoryFailure = "no_memory_failure", PlainRetry = "plain_retry", Truncated = "truncated",
    }
}

words! {
    /// What SIGBUS does to the VMM's threads.
    Sigbus { Caught = "caught", Default = "default", Ignored = "ignored", Blocked = "blocked" }
}

words! {
    /// A fact that an outcome rests on.
    Basis {
        RecoveryOff = "recovery_off", HostCannotRecover = "host_cannot_recover", PrivateMemory = "private_memory",
        PinnedHugePage = "pinned_huge_page", HugePage = "huge_page", NoAccess = "no_access", SigbusDefault = "sigbus_default",
        SigbusIgnored = "sigbus_ignored", SigbusBlocked = "sigbus_blocked", EarlyKill = "early_kill",
        VmmExits = "vmm_exits", RuntimeHandler = "runtime_handler", VmmInjects = "vmm_injects",
        NoMachineChecks = "no_machine_checks", MachineChecksOff = "machine_checks_off", MceOffRequested = "mce_off_requested",
        ControlsOff = "controls_off", InProgress = "in_progress", BankHeld = "bank_held", DeferredUnread = "deferred_unread",
        NoOverflowRecovery = "no_overflow_recovery", NoSuccor = "no_succor", NoErrorRecovery = "no_error_recovery",
        IntelInjection = "intel_injection", KernelMode = "kernel_mode", GuestRecovers = "guest_recovers",
        PlainRetry = "plain_retry",
    }
}

words! {
    /// What decides between cases.
    Condition {
        HostRecovers = "host_recovers", HostCannotRecover = "host_cannot_recover",
        PrivatePage = "private_page", SharedPage = "shared_page",
        TransparentHugePage = "transparent_huge_page", SmallPage = "small_page",
        HugetlbPage = "hugetlb_page",
        EarlyNotice = "early_notice", NoEarlyNotice = "no_early_notice",
        VmmInjects = "vmm_injects", VmmEnds = "vmm_ends", VmmSwallows = "vmm_swallows",
        IntelRecovers = "intel_recovers", IntelPlain = "intel_plain",
        AmdRecovers = "amd_recovers", AmdPlain = "amd_plain",
        QemuDefers = "qemu_defers", QemuOld = "qemu_old",
        FirstVcpu = "first_vcpu", OtherVcpus = "other_vcpus", SomeVcpus = "some_vcpus",
        BankRead = "bank_read",
    }
}
