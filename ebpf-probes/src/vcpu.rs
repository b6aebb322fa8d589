//! What the iterator over vCPUs writes: for each vCPU its banks that hold an error, then the vCPU itself.

/// A bank that holds an error.
pub const BANK: u32 = 1;
/// A vCPU.
pub const VCPU: u32 = 2;

/// Bits of [`Vcpu::known`].
pub mod known {
    pub const CAP: u32 = 1 << 0;
    pub const STATUS: u32 = 1 << 1;
    pub const CTL: u32 = 1 << 2;
    pub const CR4: u32 = 1 << 3;
    /// All banks were read.
    pub const BANKS: u32 = 1 << 4;
    /// CPUID leaf 0.
    pub const VENDOR: u32 = 1 << 5;
    /// All leaves were looked at for 0x80000007.
    pub const RAS: u32 = 1 << 6;
}

shared! {
    /// A bank that holds an error.
    pub struct Bank {
        pub kind: u32,
        pub bank: u32,
        /// Address of its vCPU, which tells vCPUs apart and is for nothing else.
        pub vcpu: u64,
        pub status: u64,
    }
    /// A vCPU.
    pub struct Vcpu {
        pub kind: u32,
        /// See [`known`].
        pub known: u32,
        pub vcpu: u64,
        pub tgid: u32,
        pub number: u32,
        pub mcg_cap: u64,
        pub mcg_status: u64,
        pub mcg_ctl: u64,
        pub cr4: u64,
        /// CPUID leaf 0: EBX, EDX, ECX, which are the vendor's name.
        pub vendor: [u32; 3],
        /// CPUID leaf 0x80000007: EBX; 0 where there is no such leaf.
        pub ras: u32,
    }
}

const _: () = assert!(size_of::<Bank>() == 24 && size_of::<Vcpu>() == 72);
