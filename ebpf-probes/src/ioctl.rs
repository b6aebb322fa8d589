//! The vCPU ioctls that inject a machine check (uapi `linux/kvm.h`, `asm/kvm.h`).

/// `KVM_X86_SET_MCE`, `_IOW(0xAE, 0x9e, struct kvm_x86_mce)`.
pub const KVM_X86_SET_MCE: u32 = 0x4040_ae9e;
/// `KVM_SET_VCPU_EVENTS`, `_IOW(0xAE, 0xa0, struct kvm_vcpu_events)`.
pub const KVM_SET_VCPU_EVENTS: u32 = 0x4040_aea0;
/// `KVM_SET_MSRS`, `_IOW(0xAE, 0x89, struct kvm_msrs)`.
pub const KVM_SET_MSRS: u32 = 0x4008_ae89;

/// `KVM_GET_SREGS`, `_IOR(0xAE, 0x83, struct kvm_sregs)`.
pub const KVM_GET_SREGS: u32 = 0x8138_ae83;
/// `KVM_GET_SREGS2`, `_IOR(0xAE, 0xcc, struct kvm_sregs2)`.
pub const KVM_GET_SREGS2: u32 = 0x8140_aecc;
/// Vector of #MC.
pub const MC_VECTOR: u8 = 18;
/// `MSR_IA32_MCG_STATUS`.
pub const MCG_STATUS: u32 = 0x17a;
/// `MSR_IA32_MC0_CTL`; bank n has CTL, STATUS, ADDR, MISC at `MC0_CTL + 4 * n`.
pub const MC0_CTL: u32 = 0x400;
/// Banks that the legacy MSR range holds (`0x400..0x480`).
pub const LEGACY_BANKS: u32 = 32;
/// `MCI_STATUS_VAL`.
pub const STATUS_VAL: u64 = 1 << 63;
