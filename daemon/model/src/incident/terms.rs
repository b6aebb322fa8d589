//! The answer's terms: each has one word, which JSON, metrics and the store have in common.

use serde::{Deserialize, Serialize};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub enum $name {
            $(
                #[doc = concat!("`", $word, "` in JSON, metrics and store; see the glossary.")]
                #[serde(rename = $word)]
                $variant
            ),+
        }
        impl $name {
            /// All values, in the order of their definition.
            pub const ALL: &[Self] = &[$(Self::$variant),+];
            /// The stable word.
            pub const fn word(self) -> &'static str { match self { $(Self::$variant => $word),+ } }
        }
        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result { f.pad(self.word()) }
        }
    };
}

/// Stable names of an enumeration's variants: one row each, in [`KINDS`](super::timeline::TimelineEvent::KINDS) and `kind()`.
macro_rules! kinds {
    ($($variant:pat => $name:literal,)+) => {
        /// All names, in the order of the variants.
        pub const KINDS: &[&str] = &[$($name),+];

        /// The stable name of its kind, as the answer has it.
        pub const fn kind(&self) -> &'static str { match self { $($variant => $name),+ } }
    };
}

pub(crate) use kinds;
pub(crate) use words;

words! {
    /// Where the error came from.
    OriginKind {
        ConsumedByGuest = "consumed_by_guest", ConsumedByHost = "consumed_by_host",
        FoundByScrubbing = "found_by_scrubbing", Firmware = "firmware",
        SoftwareInjection = "software_injection", Claimed = "claimed", Unknown = "unknown",
    }
}

words! {
    /// The evidence that the origin rests on.
    OriginBasis {
        FailureFlags = "memory_failure_flags", MachineCheck = "machine_check", Log = "log",
        NoMemoryFailure = "no_memory_failure", None = "none",
    }
}

words! {
    /// What became of the guest.
    Outcome {
        Running = "running", Unaffected = "unaffected", Survived = "survived",
        GuestPanicked = "guest_panicked", HostPanicked = "host_panicked", GuestReset = "guest_reset", VmmKilled = "vmm_killed",
        VmmExited = "vmm_exited", Unknown = "unknown",
    }
}

words! {
    /// Why.
    Cause {
        NotTouched = "not_touched", Contained = "contained", Clflush = "clflush",
        KernelAccess = "kernel_access", MceOverflow = "mce_overflow", MceNested = "mce_nested",
        MceDisabled = "mce_disabled", FatalNotification = "fatal_notification",
        SigbusUnhandled = "sigbus_unhandled", SecondSigbus = "second_sigbus",
        VmmOwnMemory = "vmm_own_memory", MceDropped = "mce_dropped", GuestMemfd = "guest_memfd",
        SigbusSpin = "sigbus_spin", UnmapFailed = "unmap_failed", InitKilled = "init_killed", NotPoison = "not_poison", Unknown = "unknown",
    }
}

words! {
    /// How sure the answer is.
    Confidence { Certain = "certain", Likely = "likely", Possible = "possible" }
}

words! {
    /// On which side an event of the timeline happened.
    Lane { Hardware = "hardware", HostKernel = "host_kernel", Vmm = "vmm", Vcpu = "vcpu", Guest = "guest" }
}

words! {
    /// What repeated exits on one page are.
    StormKind { LineWalk = "line_walk", SameLineSpin = "same_line_spin", PageTouches = "page_touches" }
}

words! {
    /// Where a vCPU spins on one line.
    Spin { Bounced = "bounced", InKernel = "in_kernel" }
}

words! {
    /// Whether the accesses are cache-line flushes.
    FlushVerdict {
        FlushOnly = "flush_only", FlushThenAccess = "flush_then_access", NoFlush = "no_flush",
        Undetermined = "undetermined",
    }
}

words! {
    /// The evidence of that.
    FlushBasis {
        InstructionBytes = "instruction_bytes", LineWalk = "line_walk", SingleExit = "single_exit",
        GuestConsole = "guest_console", None = "none",
    }
}

words! {
    /// How the time of gup is known.
    GupBasis { Exact = "exact", Bound = "bound" }
}

words! {
    /// How an injection was seen.
    Via { SetMsrs = "set_msrs", SetMce = "set_mce", Log = "log" }
}

words! {
    /// Kind of an injected machine check.
    Severity { Ao = "ao", Ar = "ar", Broadcast = "broadcast", Other = "other" }
}
