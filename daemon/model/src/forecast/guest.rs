//! A guest's machine checks: those of its vCPUs, or each that it may have where these are not known.

use alloc::{vec, vec::Vec};

use super::{
    facts::{HostFacts, Known, VcpuFacts, VmFacts},
    terms::{Condition, VmmKind},
};
use crate::{
    event::McVendor,
    incident::{mca, terms::Severity},
};

/// MCG_CAP: number of banks.
const BANKS: u64 = 0xff;
/// MCG_CAP: MCG_CTL exists.
const CTL_P: u64 = 1 << 8;
/// MCG_CAP: software error recovery.
const SER_P: u64 = 1 << 24;
/// CR4.MCE.
const CR4_MCE: u64 = 1 << 6;
/// CPUID 0x80000007 EBX.
const OVERFLOW_RECOV: u32 = 1 << 0;
const SUCCOR: u32 = 1 << 1;
/// The bank that QEMU injects into (`kvm_mce_inject()`).
const QEMU_BANK: u8 = 9;
/// QEMU that injects AMD's machine checks into AMD guests ("i386: Fix MCE support for AMD hosts").
const DEFERS_SINCE: (u32, u32) = (9, 1);

/// What decides about a machine check in one vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guest {
    pub amd: bool,
    /// The VMM has set banks up.
    pub has_banks: bool,
    /// QEMU's own MCG_CAP has SER_P. On SVM KVM hides that from the guest (`svm_setup_mce()`), not from QEMU.
    pub vmm_injects: bool,
    /// The guest sees SER_P.
    pub ser: bool,
    pub succor: bool,
    pub overflow_recov: bool,
    pub mce_enabled: bool,
    pub controls_on: bool,
    pub in_progress: bool,
    /// QEMU's bank holds an error.
    pub bank_held: bool,
    /// An action-optional error is deferred: no #MC.
    pub defers: bool,
    /// The guest's kernel has machine checks off, yet CR4.MCE is set.
    pub mce_off: bool,
}

/// One kind of vCPU of a VM.
pub struct Kind {
    pub when: Vec<Condition>,
    pub guest: Guest,
    /// It gets the early notice.
    pub first: bool,
    /// vCPUs of this kind.
    pub count: usize,
}

const RECOVERING_AMD: Guest = Guest {
    amd: true,
    has_banks: true,
    vmm_injects: true,
    ser: false,
    succor: true,
    overflow_recov: true,
    mce_enabled: true,
    controls_on: true,
    in_progress: false,
    bank_held: false,
    defers: true,
    mce_off: false,
};

/// The vCPUs of the VM by kind, the first vCPU apart; the kind of most first.
pub fn kinds(host: &HostFacts, vm: &VmFacts) -> Vec<Kind> {
    let mut kinds = match &vm.vcpus {
        Known::Is(vcpus) if !vcpus.is_empty() => {
            let read: Option<Vec<_>> = vcpus.iter().map(|vcpu| of_vcpu(host, vm, vcpu)).collect();
            read.map_or_else(|| possible(host, vm), |guests| grouped(vcpus, &guests))
        }
        _ => possible(host, vm),
    };
    for kind in &mut kinds {
        kind.guest.mce_off = vm.mce_off == Some(true);
    }
    kinds
}

/// `None`: a fact that decides is not known.
fn of_vcpu(host: &HostFacts, vm: &VmFacts, vcpu: &VcpuFacts) -> Option<Guest> {
    let (cap, status, cr4, ras) = (vcpu.mcg_cap?, vcpu.mcg_status?, vcpu.cr4?, vcpu.ras?);
    let amd = match vcpu.vendor? {
        McVendor::Amd => true,
        McVendor::Intel => false,
        McVendor::Other => return None,
    };
    if !vcpu.banks_read {
        return None;
    }
    let svm = *host.svm.known()?;
    let (succor, overflow_recov) = (ras & SUCCOR != 0, ras & OVERFLOW_RECOV != 0);
    let has_banks = cap & BANKS != 0;
    let defers = match &vm.qemu {
        // How another VMM injects is its own affair.
        _ if vm.kind != VmmKind::Qemu => true,
        Known::Is(version) => *version >= DEFERS_SINCE,
        // Both properties came with it.
        Known::Not(_) if succor || overflow_recov => true,
        Known::Not(_) if amd => return None,
        Known::Not(_) => true,
    };
    Some(Guest {
        amd,
        has_banks,
        vmm_injects: has_banks && (svm || cap & SER_P != 0),
        ser: cap & SER_P != 0,
        succor,
        overflow_recov,
        mce_enabled: cr4 & CR4_MCE != 0,
        // QEMU has its own copy of MCG_CAP, with CTL_P, as KVM has.
        controls_on: cap & CTL_P == 0 || vcpu.mcg_ctl? == u64::MAX,
        in_progress: status & mca::MCIP != 0,
        bank_held: vcpu
            .held
            .iter()
            .any(|(bank, status)| *bank == QEMU_BANK && holds(*status)),
        defers: amd && defers,
        mce_off: false,
    })
}

/// Whether the next error overflows.
fn holds(status: u64) -> bool {
    status & mca::VAL != 0 && mca::severity(status) != Severity::Broadcast
}

fn grouped(vcpus: &[VcpuFacts], guests: &[Guest]) -> Vec<Kind> {
    let first = vcpus.iter().map(|vcpu| vcpu.id).min();
    let mut kinds: Vec<Kind> = Vec::new();
    for (vcpu, guest) in vcpus.iter().zip(guests) {
        let is_first = Some(vcpu.id) == first;
        let same = kinds
            .iter_mut()
            .find(|kind| kind.guest == *guest && kind.first == is_first);
        match same {
            Some(kind) => kind.count += 1,
            None => kinds.push(Kind {
                when: Vec::new(),
                guest: *guest,
                first: is_first,
                count: 1,
            }),
        }
    }
    let of_others = kinds.iter().filter(|kind| !kind.first).count();
    if kinds.len() > 1 {
        for kind in &mut kinds {
            kind.when.push(match (kind.first, of_others) {
                (true, _) => Condition::FirstVcpu,
                (false, 1) => Condition::OtherVcpus,
                (false, _) => Condition::SomeVcpus,
            });
        }
    }
    kinds.sort_by_key(|kind| core::cmp::Reverse(kind.count));
    kinds
}

/// Each guest that it may be. What an operator sets is what differs; that machine checks are on and no error lies there is taken
/// as given, which the report states.
fn possible(host: &HostFacts, vm: &VmFacts) -> Vec<Kind> {
    let plain = Guest {
        succor: false,
        overflow_recov: false,
        ..RECOVERING_AMD
    };
    let intel = Guest {
        amd: false,
        ser: true,
        defers: false,
        ..plain
    };
    let mut guests = Vec::new();
    let known_new = match &vm.qemu {
        _ if vm.kind != VmmKind::Qemu => Some(true),
        Known::Is(version) => Some(*version >= DEFERS_SINCE),
        Known::Not(_) => None,
    };
    // KVM on SVM shows no guest SER_P.
    if !host.svm.is(|svm| *svm) {
        guests.push((vec![Condition::IntelRecovers], intel));
    }
    if !host.svm.is(|svm| !*svm) {
        guests.push((vec![Condition::IntelPlain], Guest { ser: false, ..intel }));
    }
    if known_new != Some(false) {
        guests.push((vec![Condition::AmdRecovers], RECOVERING_AMD));
        guests.push((vec![Condition::AmdPlain], plain));
    }
    match known_new {
        Some(false) => guests.push((
            vec![Condition::AmdPlain],
            Guest {
                defers: false,
                ..plain
            },
        )),
        None => guests.push((
            vec![Condition::AmdPlain, Condition::QemuOld],
            Guest {
                defers: false,
                ..plain
            },
        )),
        Some(true) => {}
    }
    let single = vm.vcpu_count.is(|count| *count == 1);
    let kind = |(when, guest): &(Vec<Condition>, Guest), first| Kind {
        when: when.clone(),
        guest: *guest,
        first,
        count: 1,
    };
    let firsts = guests.iter().map(|guest| kind(guest, true));
    let others = guests.iter().filter(|_| !single).map(|guest| kind(guest, false));
    firsts.chain(others).collect()
}
