//! Maps and globals.

use core::cell::UnsafeCell;

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns, generated::bpf_get_current_task},
    macros::map,
    maps::{Array, LruHashMap, PerCpuArray, RingBuf},
};
use aya_log_ebpf::debug;

use poisontrace_probes::{arming, lost, reported};

/// A word that programs on all CPUs read and write whole. Not an atomic type: LLVM's BPF back end has no
/// atomic load for the oldest instruction set, and a volatile access of an aligned word is one instruction.
#[repr(transparent)]
struct Word<T>(UnsafeCell<T>);

// SAFETY: only ever accessed by the aligned volatile word accesses below, which do not tear.
unsafe impl<T> Sync for Word<T> {}

impl<T: Copy> Word<T> {
    const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    #[inline(always)]
    fn get(&self) -> T {
        // SAFETY: the address of a global, aligned; see Word.
        unsafe { core::ptr::read_volatile(self.0.get()) }
    }

    #[inline(always)]
    fn set(&self, value: T) {
        // SAFETY: as in get().
        unsafe { core::ptr::write_volatile(self.0.get(), value) }
    }
}

/// Set by the first `memory_failure()`, or by the daemon when poison predates it. A global, so that reading it is one
/// load, without a map lookup; alone in its section, hence in its map, which a daemon's successor looks for.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.armed")]
static ARMED: Word<u32> = Word::new(0);

#[inline(always)]
fn arming() -> u32 {
    ARMED.get()
}

#[inline(always)]
pub fn armed() -> bool {
    !cfg!(feature = "empty") && arming() == arming::ARMED
}

/// Whether other programs are at work in place of these.
#[inline(always)]
pub fn held() -> bool {
    arming() == arming::QUIESCED
}

#[inline(always)]
pub fn arm() {
    if arming() == arming::IDLE {
        // SAFETY: a helper without arguments.
        let now = unsafe { bpf_ktime_get_ns() };
        ARMED_NS.set(now);
        ARMED.set(arming::ARMED);
    }
}

/// When the programs last armed themselves, CLOCK_MONOTONIC ns. The daemon disarms them once no VM holds poison: what was noted
/// before is of exits that have long ended.
static ARMED_NS: Word<u64> = Word::new(0);

/// Whether something that was noted at `ns` has been noted since the arming.
#[inline(always)]
pub fn since_arming(ns: u64) -> bool {
    ns >= ARMED_NS.get()
}

/// Since when kvm_exit and kvm_entry have both been attached, CLOCK_MONOTONIC ns: the daemon's alone, which attaches and detaches them;
/// later than any time while they are not. In a section of its own, as [`ARMED`].
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.attached")]
static ATTACHED_NS: Word<u64> = Word::new(0);

/// Whether kvm_exit and kvm_entry have been attached ever since `ns`.
#[inline(always)]
pub fn since_attached(ns: u64) -> bool {
    ns >= ATTACHED_NS.get()
}

/// Whether both are attached now.
#[inline(always)]
pub fn attached() -> bool {
    since_attached(u64::MAX - 1)
}

/// When [`VICTIMS`] or [`CLAIMANTS`] last got a new one: no two have the same.
static VICTIMS_CHANGED: Word<u64> = Word::new(0);

#[inline(always)]
pub fn victims_changed_ns() -> u64 {
    VICTIMS_CHANGED.get()
}

/// Remembers a process as one whose other doings are of interest.
#[inline(always)]
pub fn victim<C: EbpfContext>(ctx: &C, pid: u32) {
    remember(ctx, &VICTIMS, pid);
}

/// The same of a process that may have made its signal itself.
#[inline(always)]
pub fn claimant<C: EbpfContext>(ctx: &C, pid: u32) {
    if VICTIMS.get_ptr(pid).is_none() {
        remember(ctx, &CLAIMANTS, pid);
    }
}

#[inline(always)]
fn remember<C: EbpfContext>(ctx: &C, among: &LruHashMap<u32, u64>, pid: u32) {
    if among.get_ptr(pid).is_some() {
        return;
    }
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    if among.insert(pid, now, 0).is_err() {
        debug!(ctx, "no room to remember pid {}", pid);
    }
    victims_changed(now);
}

/// Forgets a process that ends.
#[inline(always)]
pub fn forget(pid: u32) {
    let _ = VICTIMS.remove(pid);
    let _ = CLAIMANTS.remove(pid);
}

/// After the new one is in its table, never before.
#[inline(always)]
fn victims_changed(now_ns: u64) {
    VICTIMS_CHANGED.set(now_ns);
}

/// Between two signals that a process may have made itself, ns: a flood of them must leave room in the ring for others.
const UNPROVED_EVERY_NS: u64 = 1_000_000;

/// When a signal that a process may have made itself was last reported, by process (ns). By process, so that one's flood
/// does not cover the signal of another.
#[map]
static UNPROVED: LruHashMap<u32, u64> = LruHashMap::with_max_entries(4096, 0);

/// Whether one more such signal of the current process is reported now; one that is not is counted.
#[inline(always)]
pub fn unproved_may_pass() -> bool {
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    let pid = current_pid();
    if let Some(last) = UNPROVED.get_ptr(pid) {
        // SAFETY: a map value of this size, checked by the verifier.
        if now.wrapping_sub(unsafe { *last }) < UNPROVED_EVERY_NS {
            count(lost::UNPROVED);
            return false;
        }
    }
    let _ = UNPROVED.insert(pid, now, 0);
    true
}

/// Records to the daemon. 1 MiB holds some 7,000 poison exits.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

/// uapi `linux/bpf.h`: flags of a record's submission.
const BPF_RB_NO_WAKEUP: u64 = 1;
const BPF_RB_FORCE_WAKEUP: u64 = 2;

/// Records were sent without waking the daemon, since it was last woken. The kernel wakes a reader only for a record that it finds
/// first in the ring (`bpf_ringbuf_commit()`): behind one of these it would not.
static UNANNOUNCED: Word<u32> = Word::new(0);

/// The flags of a record that the daemon is woken for.
#[inline(always)]
pub fn wake_up() -> u64 {
    if UNANNOUNCED.get() == 0 {
        return 0;
    }
    UNANNOUNCED.set(0);
    BPF_RB_FORCE_WAKEUP
}

/// The flags of a record that waits until the daemon looks again, which it does soon after the one before and each second of a storm
/// (to wake it takes an interrupt). To be called before there is room for it.
#[inline(always)]
pub fn no_wake_up() -> u64 {
    UNANNOUNCED.set(1);
    BPF_RB_NO_WAKEUP
}

/// What there was no room for ([`poisontrace_probes::lost`]), per CPU. Never reset: the daemon reports the difference.
#[map]
pub static LOST: PerCpuArray<u64> = PerCpuArray::with_max_entries(lost::ENTRIES, 0);

/// Counts what there was no room for.
#[inline(always)]
pub fn count(what: u32) {
    if let Some(lost) = LOST.get_ptr_mut(what) {
        // SAFETY: a per-CPU map value; tracing programs do not nest on one CPU.
        unsafe { *lost += 1 };
    }
}

/// Notes of daemons for their successors; see [`poisontrace_probes::reported`].
#[map]
static REPORTED: Array<u64> = Array::with_max_entries(reported::ENTRIES, 0);

/// Processes that were sent a SIGBUS for poison (tgid to time of the first, ns): the VMMs whose
/// other doings are of interest.
#[map]
static VICTIMS: LruHashMap<u32, u64> = LruHashMap::with_max_entries(4096, 0);

/// The same, where the process may have made the signal itself: any user can start as many as there is room for, and they must
/// push nobody out but each other.
#[map]
static CLAIMANTS: LruHashMap<u32, u64> = LruHashMap::with_max_entries(4096, 0);

/// Exits under way that are more than bare ones, by tid.
#[map]
pub static VCPUS: LruHashMap<u32, Vcpu> = LruHashMap::with_max_entries(65_536, 0);

/// An exit under way. Times in ns, 0: not seen.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Vcpu {
    pub exit_ns: u64,
    pub fault_ns: u64,
    pub gup_enter_ns: u64,
    pub gup_ns: u64,
    pub gup_ret: i64,
    pub signal_ns: u64,
    pub rip: u64,
    pub gpa: u64,
    pub fault_code: u64,
    pub hva: u64,
    pub exit_reason: u32,
    pub isa: u32,
    pub vcpu: u32,
    pub gup_calls: u32,
    /// Between `kvm_exit` and `kvm_entry`, or, without poison, the return to user space.
    pub in_exit: u32,
    /// This exit met poison.
    pub poison: u32,
    /// Its totals have been added: [`COUNTED`], or [`SENT`] where its record was sent as well.
    pub done: u32,
    pub insn_len: u32,
    /// The instruction's bytes in the VMCB (SVM decode assists), 0: none.
    pub insn: u64,
    /// When it left for user space.
    pub user_ns: u64,
    /// Where the VMM wants its vCPU's registers, during KVM_GET_SREGS after a poison exit.
    pub sregs: u64,
    /// What `gpa` is: one of `poisontrace_probes::record::address`.
    pub address: u32,
    /// The exit is that of a guest which the guest itself runs.
    pub nested: u32,
    /// kvm_exit did not see the exit: `last_guest_tsc` of the vCPU, by which it is known from the next one; else 0.
    pub exit_tsc: u64,
    /// `si_addr_lsb` of the SIGBUS that its record stands for as well; 0: the signal's own was sent.
    pub signal_lsb: u32,
    pad: u32,
    /// An exit before this one, whose way back into the guest the next record has to show; 0: none.
    pub before_exit_ns: u64,
    pub before_entry_ns: u64,
}

/// See [`Vcpu::done`].
pub const COUNTED: u32 = 1;
/// See [`Vcpu::done`].
pub const SENT: u32 = 2;

impl Vcpu {
    pub const fn new(vcpu: u32) -> Self {
        Self {
            exit_ns: 0,
            fault_ns: 0,
            gup_enter_ns: 0,
            gup_ns: 0,
            gup_ret: 0,
            signal_ns: 0,
            rip: 0,
            gpa: 0,
            fault_code: 0,
            hva: 0,
            exit_reason: 0,
            isa: 0,
            vcpu,
            gup_calls: 0,
            in_exit: 0,
            poison: 0,
            done: 0,
            insn_len: 0,
            insn: 0,
            user_ns: 0,
            sregs: 0,
            address: 0,
            nested: 0,
            exit_tsc: 0,
            signal_lsb: 0,
            pad: 0,
            before_exit_ns: 0,
            before_entry_ns: 0,
        }
    }
}

/// The current thread's `struct task_struct`.
#[inline(always)]
pub fn current_task() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_get_current_task() }
}

#[inline(always)]
pub fn current_tid() -> u32 {
    bpf_get_current_pid_tgid() as u32
}

#[inline(always)]
pub fn current_pid() -> u32 {
    (bpf_get_current_pid_tgid() >> 32) as u32
}

#[inline(always)]
pub fn current_is_victim() -> bool {
    current_standing() != NO_VICTIM
}

/// What [`current_standing`] returns.
const NO_VICTIM: u32 = 0;
const CLAIMANT: u32 = 1;
pub const VICTIM: u32 = 2;

/// Whether the current process is a victim, and whether that is proved.
#[inline(always)]
pub fn current_standing() -> u32 {
    let pid = current_pid();
    if VICTIMS.get_ptr(pid).is_some() {
        VICTIM
    } else if CLAIMANTS.get_ptr(pid).is_some() {
        CLAIMANT
    } else {
        NO_VICTIM
    }
}
