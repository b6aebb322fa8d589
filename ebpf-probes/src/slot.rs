//! What every exit of every guest writes and every entry reads, once armed: as little as can be, at a place that needs
//! no hashing. An exit that turns out to be more than a bare one gets a [`Vcpu`] besides.

use aya_ebpf::{macros::map, maps::Array};
use poisontrace_probes::{NO_VCPU, lost};

use crate::{
    recovery,
    state::{
        VCPUS, VICTIM, Vcpu, attached, count, current_is_victim, current_standing, current_tid, since_arming,
        since_attached, victims_changed_ns,
    },
};

/// A thread's last exit. Two threads can share a place: each takes it over in turn and finds what it needs again.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Slot {
    /// 0: free.
    pub tid: u32,
    pub vcpu: u32,
    /// CLOCK_MONOTONIC, ns.
    pub exit_ns: u64,
    pub rip: u64,
    /// [`victims_changed_ns`] when `victim` was looked up.
    victims_ns: u64,
    /// 0 where it was not read.
    pub exit_reason: u32,
    pub isa: u32,
    /// Between `kvm_exit` and `kvm_entry`.
    pub in_exit: u32,
    /// The exit under way has a [`Vcpu`].
    pub open: u32,
    /// Whether the thread's process was sent a SIGBUS for poison: its [`current_standing`].
    victim: u32,
    /// The exit is that of a guest which the guest itself runs: [`NESTED`], or, where kvm_exit is not attached, KVM's note of the exit
    /// ([`note`]); else 0.
    nested: u32,
    /// The exit's fields were read: what stands by for the program that does so has nothing to add.
    pub read: u32,
    /// The [`Vcpu`] has the way back into the guest of an exit before, which no record has shown yet.
    pub reentry: u32,
}

/// See [`Slot::nested`].
const NESTED: u32 = 1;

/// By which one exit is known from the next, where no kvm_exit separates them; never 0 or [`NESTED`].
#[inline(always)]
fn note() -> u32 {
    recovery::exit_tsc() as u32 | 2
}

/// A power of two; 3.5 MiB.
const SLOTS_BITS: u32 = 16;

#[map]
static SLOTS: Array<Slot> = Array::with_max_entries(1 << SLOTS_BITS, 0);

/// The threads of one VM have adjacent numbers: their places are far from each other, lest their processors
/// contend for one cache line.
#[inline(always)]
fn index(tid: u32) -> u32 {
    (tid & 0xff) << 8 | (tid >> 8) & 0xff
}

#[inline(always)]
fn at(tid: u32) -> Option<&'static mut Slot> {
    let slot = SLOTS.get_ptr_mut(index(tid))?;
    // SAFETY: a map value of this size, checked by the verifier. Threads that share a slot may write at once; each
    // word is whole, and a slot is believed only if it names the thread.
    Some(unsafe { &mut *slot })
}

/// The current thread's slot, if it is its own.
#[inline(always)]
pub fn mine() -> Option<&'static mut Slot> {
    let tid = current_tid();
    at(tid).filter(|slot| slot.tid == tid)
}

/// The current thread's slot, taken over where another had it.
#[inline(always)]
pub fn take() -> Option<&'static mut Slot> {
    let tid = current_tid();
    let slot = at(tid)?;
    if slot.tid != tid {
        if slot.tid != 0 && slot.in_exit != 0 && since_arming(slot.exit_ns) {
            count(lost::SLOTS);
        }
        let open = u32::from(state(tid).is_some_and(|vcpu| vcpu.in_exit != 0));
        *slot = Slot {
            tid,
            vcpu: NO_VCPU,
            exit_ns: 0,
            rip: 0,
            // Not looked up; a daemon's successor finds victims that it never saw signalled.
            victims_ns: u64::MAX,
            exit_reason: 0,
            isa: 0,
            in_exit: open,
            open,
            victim: 0,
            nested: 0,
            read: 0,
            reentry: 0,
        };
    }
    Some(slot)
}

/// The vCPU of the thread, or [`NO_VCPU`].
#[inline(always)]
pub fn number(tid: u32) -> u32 {
    match at(tid) {
        Some(slot) if slot.tid == tid => slot.vcpu,
        _ => state(tid).map_or(NO_VCPU, |vcpu| vcpu.vcpu),
    }
}

/// Forgets the current thread, which ends: its number may come again.
#[inline(always)]
pub fn free() {
    if let Some(slot) = mine() {
        slot.tid = 0;
    }
    // What it has not finished is none of its successor's.
    let _ = VCPUS.remove(current_tid());
}

impl Slot {
    /// An exit begins.
    #[inline(always)]
    pub fn begin(&mut self, exit_ns: u64) {
        self.exit_ns = exit_ns;
        self.rip = 0;
        self.exit_reason = 0;
        self.in_exit = 1;
        self.open = 0;
        self.nested = 0;
        self.read = 0;
    }

    /// The exit under way is that of a guest which the guest itself runs.
    #[inline(always)]
    pub fn nest(&mut self) {
        self.nested = if attached() { NESTED } else { note() };
    }

    #[inline(always)]
    fn is_nested(&self) -> bool {
        match self.nested {
            0 => false,
            NESTED => true,
            noted => noted == note(),
        }
    }

    /// Whether the current thread's process is a victim; one look-up a thread and new victim.
    #[inline(always)]
    pub fn victim(&mut self) -> bool {
        let changed = victims_changed_ns();
        if self.victims_ns != changed {
            self.victims_ns = changed;
            self.victim = current_standing();
        }
        self.victim != 0
    }

    /// Whether its process is one that is proved, as far as that was looked up.
    #[inline(always)]
    pub fn is_proved_victim(&self) -> bool {
        self.victims_ns == victims_changed_ns() && self.victim == VICTIM
    }

    /// Whether the thread is a vCPU of a VM without poison, with nothing under way: neither its exit nor its entry is looked at. Should
    /// the exit meet poison, its begin is found then.
    #[inline(always)]
    pub fn is_bystander(&self) -> bool {
        recovery::late_begin()
            && self.in_exit | self.open | self.nested == 0
            && self.victims_ns == victims_changed_ns()
            && self.victim == 0
    }

    /// Whether `exit_ns` is that of the exit under way: kvm_exit has been attached, and the programs armed, ever since.
    #[inline(always)]
    pub fn is_dated(&self) -> bool {
        since_arming(self.exit_ns) && since_attached(self.exit_ns)
    }

    /// As [`current_vcpu`].
    #[inline(always)]
    pub fn vcpu(&self) -> Option<&'static mut Vcpu> {
        if self.open == 0 {
            None
        } else {
            state(self.tid).filter(|vcpu| !recovery::is_over(vcpu))
        }
    }

    /// The same. Where it is the state of an exit whose end nobody saw (kvm_exit and kvm_entry were not attached yet, and the vCPU has
    /// been in its guest since, or, `at_exit`, leaves it now), that goes to `unended`, and the slot is free for another exit.
    #[inline(always)]
    pub fn vcpu_or(&mut self, at_exit: bool, unended: impl FnOnce(&mut Vcpu)) -> Option<&'static mut Vcpu> {
        if self.open == 0 {
            return None;
        }
        let vcpu = state(self.tid)?;
        if vcpu.exit_tsc == 0 || !(at_exit || recovery::is_over(vcpu)) {
            return Some(vcpu);
        }
        self.in_exit = 0;
        self.open = 0;
        vcpu.in_exit = 0;
        unended(vcpu);
        None
    }

    /// The state of the exit under way, begun where there is none.
    #[inline(always)]
    pub fn open_vcpu(&mut self) -> Option<&'static mut Vcpu> {
        let known = state(self.tid);
        if self.open != 0 && known.is_some() {
            return known;
        }
        let vcpu = match known {
            Some(vcpu) => {
                let before = (vcpu.before_exit_ns, vcpu.before_entry_ns);
                *vcpu = Vcpu::new(self.vcpu);
                (vcpu.before_exit_ns, vcpu.before_entry_ns) = before;
                vcpu
            }
            None => {
                // A full LRU map makes room; an error here loses this exit's times, not its signal.
                let _ = VCPUS.insert(self.tid, Vcpu::new(self.vcpu), 0);
                state(self.tid)?
            }
        };
        vcpu.nested = u32::from(self.is_nested());
        if self.in_exit != 0 && self.is_dated() {
            vcpu.exit_ns = self.exit_ns;
            vcpu.rip = self.rip;
            vcpu.exit_reason = self.exit_reason;
            vcpu.isa = self.isa;
        } else {
            recovery::begin(vcpu);
        }
        vcpu.in_exit = 1;
        self.in_exit = 1;
        self.open = 1;
        Some(vcpu)
    }
}

/// Whether the current thread's process is a victim.
#[inline(always)]
pub fn victim() -> bool {
    match mine() {
        Some(slot) => slot.victim(),
        None => current_is_victim(),
    }
}

/// The state of the exit under way of the current thread, if it is more than a bare one.
#[inline(always)]
pub fn current_vcpu() -> Option<&'static mut Vcpu> {
    let tid = current_tid();
    match at(tid) {
        Some(slot) if slot.tid == tid => slot.vcpu(),
        // Another thread has taken the slot over since.
        _ => state(tid).filter(|vcpu| vcpu.in_exit != 0),
    }
}

#[inline(always)]
fn state(tid: u32) -> Option<&'static mut Vcpu> {
    let vcpu = VCPUS.get_ptr_mut(tid)?;
    // SAFETY: the verifier knows the pointer as a map value of this size, and a thread's entry is only touched by
    // programs on that thread, so there is no second reference at work.
    Some(unsafe { &mut *vcpu })
}

/// The state of the thread's last exit that was more than a bare one.
#[inline(always)]
pub fn last() -> Option<&'static mut Vcpu> {
    state(current_tid())
}

/// The same for a signal: it is KVM's answer to an exit only if the thread is in one.
#[inline(always)]
pub fn exit_under_way(slot: Option<&'static mut Slot>) -> Option<&'static mut Vcpu> {
    match slot {
        Some(slot) if slot.in_exit == 0 => None,
        Some(slot) => slot.open_vcpu(),
        None => last().filter(|vcpu| vcpu.in_exit != 0),
    }
}
