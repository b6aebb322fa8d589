//! Where a guest's memory lies in its VMM: the memslots, read when the VMM asks for its vCPU's registers after a poison
//! exit. Attached only where guest code may be read.

use aya_ebpf::{
    helpers::bpf_probe_read_kernel,
    macros::{kprobe, map},
    maps::LruHashMap,
    programs::ProbeContext,
};
use poisontrace_probes::{
    ioctl::KVM_GET_SREGS2,
    memslots::{MAX_DEPTH, MAX_SLOTS},
    record::MemSlot,
};

use super::fields::{
    FILE_PRIVATE, KVM_MEMSLOTS, KVM_MEMSLOTS_ONE, SLOT_GFN, SLOT_HVA, SLOT_NODES, SLOT_PAGES, SLOTS_SET,
    SLOTS_TREE, VCPU_KVM, member,
};
use crate::{
    emit::{emit, header},
    slot::current_vcpu,
    state::{SENT, armed, current_pid},
};

/// VMMs whose memslots were sent, and when: once a second is enough, as they hardly change.
#[map]
static LISTED: LruHashMap<u32, u64> = LruHashMap::with_max_entries(1024, 0);

const AGAIN_NS: u64 = 1_000_000_000;
/// `sizeof(struct rb_node)`, and its children in it (`include/linux/rbtree_types.h`).
const NODE: u64 = 24;
const RIGHT: u64 = 8;
const LEFT: u64 = 16;
const PAGE_SHIFT: u32 = 12;

/// `int kvm_arch_vcpu_ioctl_get_sregs(struct kvm_vcpu *vcpu, struct kvm_sregs *sregs)`, 4.19 to 7.3: KVM_GET_SREGS, which
/// kvm_vcpu_ioctl answers before the architecture's own ioctls.
#[kprobe]
pub fn memslots_sregs(ctx: ProbeContext) -> u32 {
    if armed() && asked_after_poison() {
        if let Some(vcpu) = ctx.arg::<u64>(0) {
            let _ = send(vcpu);
        }
    }
    0
}

/// `long kvm_arch_vcpu_ioctl(struct file *filp, unsigned int ioctl, unsigned long arg)`, 4.19 to 7.3: KVM_GET_SREGS2.
#[kprobe]
pub fn memslots_sregs2(ctx: ProbeContext) -> u32 {
    if armed() && ctx.arg::<u32>(1) == Some(KVM_GET_SREGS2) && asked_after_poison() {
        if let Some(vcpu) = ctx.arg::<u64>(0).and_then(|filp| member(filp, &FILE_PRIVATE)) {
            let _ = send(vcpu.0);
        }
    }
    0
}

/// Whether the exit on poison that this thread has just come from was sent: nothing else is of interest.
#[inline(always)]
fn asked_after_poison() -> bool {
    current_vcpu().is_some_and(|vcpu| vcpu.done == SENT)
}

/// The slots in order of their guest addresses. The set is in use while the vCPU's ioctl runs, but not locked: what a
/// change in between leaves is read fault-safe, and bounded.
#[inline(always)]
fn send(vcpu: u64) -> Option<()> {
    let h = header::<MemSlot>();
    let pid = current_pid();
    if let Some(listed) = LISTED.get_ptr(pid) {
        // SAFETY: a map value of this size, checked by the verifier.
        if h.t_ns.wrapping_sub(unsafe { *listed }) < AGAIN_NS {
            return None;
        }
    }
    LISTED.insert(pid, h.t_ns, 0).ok()?;
    let kvm = member(vcpu, &VCPU_KVM)?.0;
    let slots = match member(kvm, &KVM_MEMSLOTS) {
        Some(spaces) => spaces.0[0],
        None => member(kvm, &KVM_MEMSLOTS_ONE)?.0[0],
    };
    let root = member(slots, &SLOTS_TREE)?.0;
    // Two sets share the slots: in use is the one that the nodes of this number link.
    let set = member(slots, &SLOTS_SET)? as u64 & 1;
    let node_at = u64::from(SLOT_NODES.get()?) + set * NODE;
    let mut from = 0;
    for n in 0..MAX_SLOTS {
        let slot = first_from(root, from, node_at)?;
        let gfn = member(slot, &SLOT_GFN)?;
        emit(MemSlot {
            h,
            gpa: gfn << PAGE_SHIFT,
            bytes: member(slot, &SLOT_PAGES)? << PAGE_SHIFT,
            hva: member(slot, &SLOT_HVA)?,
            n,
            pad: 0,
        });
        from = gfn + 1;
    }
    None
}

/// The slot with the lowest frame number from `from` on: a search in the tree, which is ordered by it (gfn_to_memslot).
#[inline(always)]
fn first_from(root: u64, from: u64, node_at: u64) -> Option<u64> {
    let mut node = root;
    let mut found = None;
    for _ in 0..MAX_DEPTH {
        if node == 0 {
            break;
        }
        let slot = node - node_at;
        let child = if member(slot, &SLOT_GFN)? >= from {
            found = Some(slot);
            LEFT
        } else {
            RIGHT
        };
        // SAFETY: fault-safe read of kernel memory.
        node = unsafe { bpf_probe_read_kernel((node + child) as *const u64) }.ok()?;
    }
    found
}
