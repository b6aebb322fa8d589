//! What the BPF programs and the daemon share: the records that cross the ring buffer, and the
//! names of the globals that the daemon fills in before it loads the programs.
//!
//! Records are plain `repr(C)` structs without implicit padding; every size is checked at compile
//! time on both sides, and the daemon refuses a record whose length is not that of its kind.
#![no_std]

/// Structs that both sides read and write: `repr(C)`, and on the daemon's side without a trace of `unsafe`.
macro_rules! shared {
    ($($(#[$doc:meta])* pub struct $name:ident { $($(#[$fdoc:meta])* pub $field:ident: $ty:ty,)* })+) => {
        $(
            $(#[$doc])*
            #[repr(C)]
            #[derive(Clone, Copy, Debug)]
            #[cfg_attr(feature = "user", derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout))]
            pub struct $name { $($(#[$fdoc])* pub $field: $ty,)* }
        )+
    };
}

pub mod baseline;
pub mod clock;
pub mod ioctl;
pub mod layout;
pub mod memslots;
pub mod page_totals;
pub mod record;
pub mod vcpu;

/// A tracepoint field or structure member that the running kernel does not have.
pub const ABSENT: u32 = u32::MAX;

/// Version of the maps that outlive the daemon (names, keys, values, sizes) and of the records. Pinned maps of another
/// version are replaced, not read; raise it with every such change.
pub const MAP_LAYOUT: u32 = 8;

/// Values of the global `ARMED`.
pub mod arming {
    /// No poison yet.
    pub const IDLE: u32 = 0;
    pub const ARMED: u32 = 1;
    /// Other programs with the same maps are at work, before or after these: nothing is counted or sent, and nothing
    /// arms them.
    pub const QUIESCED: u32 = 2;
}

/// Entries of the map `REPORTED`, which the daemon alone writes.
pub mod reported {
    /// Losses that a daemon has reported.
    pub const LOST: u32 = 0;
    pub const ENTRIES: u32 = 1;
}

/// Entries of the map `LOST`.
pub mod lost {
    /// Records that did not fit into the ring buffer.
    pub const RECORDS: u32 = 0;
    /// Exits on pages that the totals had no room for; each was sent as a record.
    pub const TOTALS: u32 = 1;
    /// Exits under way whose place another thread took: their times are lost.
    pub const SLOTS: u32 = 2;
    /// Signals for poison that a process may have made itself, beyond those that are reported.
    pub const UNPROVED: u32 = 3;
    pub const ENTRIES: u32 = 4;
}

/// The vCPU of a record whose thread had not been seen in `kvm_exit` or `kvm_entry` yet.
pub const NO_VCPU: u32 = u32::MAX;

/// MSRs that one [`record::SetMsrs`] can carry: more than QEMU 10 sets (some 150). What is over is cut, and the
/// record states it.
pub const MAX_MSRS: usize = 256;
