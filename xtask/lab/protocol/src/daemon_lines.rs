//! The daemon's log lines and the report's phrases that the lab waits for and the tests look for. They are written here
//! only; `xtask/tests/daemon_lines.rs` finds each in the daemon's sources.

/// Begins the daemon's lines on standard output.
pub const PREFIX: &str = "poisontrace: ";
/// Everything that can be attached is attached.
pub const READY: &str = "poisontrace: ready";
/// KVM is a module that is not loaded.
pub const WAITS_FOR_KVM: &str = "waiting for it";
pub const RELEASES_KVM: &str = "KVM was unloaded";
pub const ATTACHES_AGAIN: &str = "KVM is back";
/// There is poison, and the daemon is about to attach what takes longer.
pub const ATTACHES_EXITS: &str = "kvm_exit and kvm_entry are attached";
/// No VM has had poison for a while.
pub const DETACHES_EXITS: &str = "kvm_exit and kvm_entry are detached";
/// At log level debug, by the probes themselves.
pub const PROBES_ARMED: &str = ": armed";
pub const MISSED_FAILURES: &str = "the kernel has counted memory failures that no probe saw";
/// A replay that goes on serving its metrics.
pub const REPLAYED: &str = "replayed, still serving";

/// Kind of a timeline's entry: a daemon after one that was killed.
pub const RESTARTED: &str = "restarted";
/// In its message.
pub const PROBES_STAYED: &str = "stayed attached and counted on";
/// In the timeline, under shadow paging.
pub const GUEST_VIRTUAL_ADDRESS: &str = "guest-virtual address";
/// In the missing evidence, behind an attach type.
pub const ATTACH_TYPE_DISABLED: &str = " disabled (--disable-attach-type)";

/// On the screen of `watch`.
pub const NO_INCIDENTS: &str = "no incidents are stored";

/// Looked for by the steps in the emulated Debian.
pub const IN_INSTALL_STEPS: [&str; 3] = [PROBES_STAYED, "probes attached", "has been read again"];

pub const ALL: [&str; 14] = [
    READY,
    WAITS_FOR_KVM,
    RELEASES_KVM,
    ATTACHES_AGAIN,
    ATTACHES_EXITS,
    DETACHES_EXITS,
    PROBES_ARMED,
    MISSED_FAILURES,
    REPLAYED,
    RESTARTED,
    PROBES_STAYED,
    GUEST_VIRTUAL_ADDRESS,
    ATTACH_TYPE_DISABLED,
    NO_INCIDENTS,
];
