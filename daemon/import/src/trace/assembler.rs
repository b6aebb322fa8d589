//! From trace records to events: the exit, the fault, the signal and the return that belong together fired on
//! one thread, between `kvm_exit` and the next `kvm_entry`.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{
    fields::{hex, hex_of, number_of, signed_of, value},
    groups::Groups,
    instructions::Instructions,
    reason::{self, Kind as Reason},
    record::Record,
    thread::{Exit, Thread, userspace_exit},
};
use poisontrace_model::{
    event::{Event, EventKind, Isa, SigbusSeverity, Vmm, log_statement::LogStatement},
    hex::Hex,
    text::from_c,
};

/// Threads whose state is kept; the trace of a host with more loses some.
const MAX_THREADS: usize = 65_536;

const MSR_MCG_STATUS: u64 = 0x17a;
const PANIC_PORT: u64 = 0x505;
const RESET_PORTS: [u64; 2] = [0x64, 0xcf9];
/// PM1a control of QEMU's machines, and with firmware before 2015.
const POWER_PORTS: [u64; 2] = [0x604, 0xb004];
const RESET_VECTOR: u64 = 0xfff0;
/// The VMM of a guest that ended by a port follows it so soon, nanoseconds.
const FOLLOWS_NS: u64 = 2_000_000_000;

/// Kinds of evidence that a trace can hold, by the names of the probe table.
pub type Kind = &'static str;

/// See the module.
#[derive(Default)]
pub struct Assembler {
    pub(super) threads: HashMap<u32, Thread>,
    pub(super) groups: Groups,
    /// Kinds of events that the trace has shown.
    pub seen: BTreeSet<Kind>,
    /// Whether the tracer lost events, and how many where it counts them.
    pub gaps: bool,
    /// How many.
    pub lost: u64,
    /// Records taken.
    pub records: u64,
    /// Failures of pages for which nobody was signalled.
    pub loose: Vec<(u64, LogStatement)>,
    /// Threads with signals that wait.
    pub(super) waiting: BTreeSet<u32>,
    /// Threads of VMMs that were signalled for poison, their processes, and when.
    pub(super) signalled: BTreeMap<u32, (u32, u64)>,
    /// Latest time.
    pub(super) now: u64,
    /// The clock of the trace counts something, and not seconds.
    pub unitless: bool,
    instructions: Instructions,
    out: Vec<Event>,
}

impl Assembler {
    /// Takes one record; what came of it is in [`Self::take`].
    pub fn record(&mut self, r: &Record<'_>) {
        self.records += 1;
        self.now = self.now.max(r.t);
        self.unitless |= !r.unit;
        match r.name {
            b"kvm_entry" => self.entry(r),
            b"kvm_exit" => self.exit(r),
            b"kvm_page_fault" => {
                self.saw("kvm_page_fault");
                self.kvm_thread(r).faulted(r.t, r.fields);
            }
            b"kvm_userspace_exit" => self.user(r),
            b"signal_generate" => self.signal(r),
            b"signal_deliver" => self.delivered(r),
            b"kvm_inj_exception" => self.injected(r),
            b"kvm_msr" => self.msr(r),
            b"kvm_pio" => self.pio(r),
            b"memory_failure_event" => self.failure(r),
            b"sched_process_exit" => self.ended(r),
            b"kvm_emulate_insn" => {
                self.kvm_thread(r);
                self.instructions.emulated(r.tid, r.fields);
            }
            // A kprobe is called what its owner likes; its fields begin with the place: "(function+0x0/0x40)".
            _ if r.fields.first() == Some(&b'(') => self.probe(r),
            _ => {}
        }
        if !self.waiting.is_empty() {
            self.expire();
        }
    }

    /// The events since the last call.
    pub fn take(&mut self) -> std::vec::Drain<'_, Event> {
        self.out.drain(..)
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.out.is_empty()
    }

    /// Events are missing here: as many as are known, but one at least.
    pub fn gap(&mut self, lost: u64) {
        self.gaps = true;
        self.lost = self.lost.saturating_add(lost);
        let mut tids: Vec<u32> = self.threads.keys().copied().collect();
        tids.sort_unstable();
        for tid in tids {
            self.say_exit(tid, None);
            if let Some(thread) = self.threads.get_mut(&tid) {
                thread.gap();
            }
        }
    }

    /// The trace is over: what was under way becomes events as far as it is known.
    pub fn finish(&mut self) {
        for tid in std::mem::take(&mut self.waiting) {
            self.say_signals(tid, None);
        }
        let mut tids: Vec<u32> = self.threads.keys().copied().collect();
        tids.sort_unstable();
        for tid in tids {
            if self.threads.get(&tid).is_some_and(|thread| thread.kvm) {
                self.pid(tid);
                self.say_exit(tid, None);
            }
        }
    }

    pub(super) fn saw(&mut self, kind: Kind) {
        self.seen.insert(kind);
    }

    pub(super) fn thread(&mut self, r: &Record<'_>) -> &mut Thread {
        if self.threads.len() >= MAX_THREADS && !self.threads.contains_key(&r.tid) {
            self.threads
                .retain(|_, thread| thread.exit.as_ref().is_some_and(|exit| exit.is_poison()));
        }
        let thread = self.threads.entry(r.tid).or_default();
        if thread.comm.is_empty() || thread.comm == b"<...>" {
            thread.comm = r.comm.to_vec();
        }
        thread.tgid = thread.tgid.or(r.tgid);
        thread
    }

    pub(super) fn kvm_thread(&mut self, r: &Record<'_>) -> &mut Thread {
        let thread = self.thread(r);
        thread.kvm = true;
        thread
    }

    /// The process of a thread, which is identified at its first event.
    pub(super) fn pid(&mut self, tid: u32) -> u32 {
        let Some(thread) = self.threads.get_mut(&tid) else {
            return tid;
        };
        if let Some(pid) = thread.pid {
            return pid;
        }
        let member = self.groups.join(tid, thread.tgid, &thread.comm, thread.vcpu);
        thread.pid = Some(member.pid);
        if member.new {
            let name = self.groups.name(member.pid).map(from_c);
            self.say(
                self.now,
                tid,
                member.pid,
                None,
                EventKind::Vmm(Vmm {
                    is_vmm: Some(true),
                    vmm: name,
                    ..Vmm::default()
                }),
            );
        }
        member.pid
    }

    pub(super) fn say(&mut self, t: u64, tid: u32, pid: u32, vcpu: Option<u32>, what: EventKind) {
        self.out.push(Event {
            t,
            tid,
            pid,
            vcpu,
            what,
        });
    }

    pub(super) fn say_on(&mut self, t: u64, tid: u32, what: EventKind) {
        let pid = self.pid(tid);
        let vcpu = self.threads.get(&tid).and_then(|thread| thread.vcpu);
        self.say(t, tid, pid, vcpu, what);
    }

    fn entry(&mut self, r: &Record<'_>) {
        self.saw("kvm_entry");
        let returns = self.seen.contains("kvm_userspace_exit");
        let thread = self.kvm_thread(r);
        if thread.vcpu.is_none() {
            thread.vcpu = number_of(r.fields, b"vcpu").or_else(|| number_of(r.fields, b"vcpu_id"));
        }
        let poison = thread.exit.as_ref().is_some_and(|exit| exit.is_poison());
        if poison {
            let stayed = thread.exit.as_ref().is_some_and(|exit| exit.user.is_none());
            // Without a return in the trace it stayed in the kernel only where returns are traced at all.
            self.say_exit(r.tid, (stayed && returns).then_some(r.t));
        }
        if let Some(thread) = self.threads.get_mut(&r.tid) {
            let open = thread.open_exit_ns.take();
            thread.exit = None;
            thread.in_guest = true;
            if let Some(exit_ns) = open {
                self.say_on(
                    r.t,
                    r.tid,
                    EventKind::Reentry {
                        exit_ns,
                        entry_ns: r.t,
                    },
                );
            }
        }
        if let Some(rip) = rip_of_entry(r.fields)
            && rip == RESET_VECTOR
        {
            self.say_on(r.t, r.tid, EventKind::VcpuReset { rip: Hex(rip) });
        }
    }

    fn exit(&mut self, r: &Record<'_>) {
        self.saw("kvm_exit");
        self.say_exit(r.tid, None);
        let thread = self.kvm_thread(r);
        if thread.vcpu.is_none() {
            thread.vcpu = number_of(r.fields, b"vcpu").or_else(|| number_of(r.fields, b"vcpu_id"));
        }
        thread.open_exit_ns = None;
        thread.in_guest = false;
        thread.exited(r.t, r.fields);
        // Reading the reason of every exit would cost much of the time; these are few.
        let (mc_open, begins) = (thread.mc_open, memchr::memmem::find(r.fields, b"reason"));
        let rare = begins.is_some_and(|at| {
            let word = r.fields.get(at + 7..at + 9).unwrap_or_default();
            matches!(word, [b'T' | b's' | b'0'..=b'9', _] | b"io" | b"IO")
        });
        if !mc_open && !rare {
            return;
        }
        if mc_open
            && let Some(rip) = reason::rip(r.fields)
            && self
                .threads
                .get_mut(&r.tid)
                .is_some_and(|thread| thread.back_in_user_space(rip))
        {
            self.handler_finished(r.t, r.tid);
        }
        match reason::read(r.fields) {
            (_, Reason::Port) => self.port_exit(r),
            (_, Reason::Msr) if mc_open => self.msr_exit(r),
            (isa, Reason::TripleFault) => {
                let what = EventKind::TripleFault {
                    rip: Hex(reason::rip(r.fields).unwrap_or(0)),
                    reason: if isa == Isa::Vmx { 2 } else { 0x7f },
                };
                self.say_on(r.t, r.tid, what);
            }
            _ => {}
        }
    }

    /// Where kvm_msr is not traced, the exit alone shows an MSR access; the one by which an earlier handler
    /// finished is known by its RIP.
    fn msr_exit(&mut self, r: &Record<'_>) {
        if self.seen.contains("kvm_msr") {
            return;
        }
        let rip = reason::rip(r.fields);
        let Some(thread) = self.threads.get_mut(&r.tid) else {
            return;
        };
        thread.msr_write_rip = rip.or(thread.msr_write_rip);
        if rip.is_some() && rip == thread.finishing_rip {
            self.handler_finished(r.t, r.tid);
        }
    }

    /// Where kvm_pio is not traced, the exit alone shows a write to a port; of the value it shows nothing.
    fn port_exit(&mut self, r: &Record<'_>) {
        if let Some(thread) = self.threads.get_mut(&r.tid)
            && let Some(port) = thread.exit.as_ref().and_then(Exit::out_port)
            && (port == PANIC_PORT || RESET_PORTS.contains(&port) || POWER_PORTS.contains(&port))
        {
            thread.last_words = Some((r.t, port));
        }
    }

    fn handler_finished(&mut self, t: u64, tid: u32) {
        if let Some(thread) = self.threads.get_mut(&tid) {
            thread.mc_open = false;
            thread.msr_write_rip = None;
            thread.in_kernel = false;
        }
        self.say_on(
            t,
            tid,
            EventKind::McgStatus {
                write: true,
                data: Hex(0),
                mc_on: None,
            },
        );
    }

    fn user(&mut self, r: &Record<'_>) {
        self.saw("kvm_userspace_exit");
        let (reason, errno) = userspace_exit(r.fields);
        let shows_exits = ["kvm_exit", "kvm_entry", "kvm_page_fault"]
            .iter()
            .any(|kind| self.seen.contains(kind));
        let thread = self.kvm_thread(r);
        thread.in_guest = false;
        if !shows_exits && let Some(t) = thread.take_own_signal(r.tid) {
            // A trace of signals and returns alone: KVM_RUN returns because of this one.
            thread.signalled(t);
        }
        if let Some(exit) = &mut thread.exit
            && exit.user.is_none()
        {
            exit.user = Some((r.t, reason, errno));
        }
        self.say_exit(r.tid, None);
        if matches!(reason, 8 | 9 | 17 | 24 | 39) {
            self.say_on(
                r.t,
                r.tid,
                EventKind::UserspaceExit {
                    reason,
                    errno,
                    gpa: None,
                },
            );
        }
    }

    /// Emits the exit under way, if it hit poison and was not emitted yet.
    pub(super) fn say_exit(&mut self, tid: u32, entry_ns: Option<u64>) {
        let Some(exit) = self.threads.get_mut(&tid).and_then(|thread| thread.exit.as_mut()) else {
            return;
        };
        if !exit.is_poison() || exit.entry {
            return;
        }
        exit.entry = true;
        let rip = exit.rip();
        let insn = rip.and_then(|rip| self.instructions.at(tid, rip).cloned());
        let poison = exit.poison(entry_ns, insn);
        let (t, gpa, signal) = (exit.t, poison.gpa, exit.signal_ns);
        let ends = entry_ns.or(poison.user_ns).unwrap_or(t);
        if let Some(thread) = self.threads.get_mut(&tid)
            && entry_ns.is_none()
        {
            thread.open_exit_ns = poison.exit_ns;
        }
        if let Some(thread) = self.threads.get_mut(&tid) {
            thread.poison_ns = Some(t);
            thread.touched_rip = rip;
        }
        let pid = self.pid(tid);
        if let Some(signal_ns) = signal {
            let what = EventKind::SigbusNoAddress {
                severity: SigbusSeverity::ActionRequired,
                target_tid: tid,
                target_pid: pid,
                comm: self
                    .threads
                    .get(&tid)
                    .map(|thread| from_c(&thread.comm))
                    .unwrap_or_default(),
                gpa,
                pfn: None,
            };
            self.say_on(signal_ns, tid, what);
        }
        self.say_on(ends, tid, EventKind::PoisonExit(poison));
    }

    fn injected(&mut self, r: &Record<'_>) {
        self.saw("kvm_inj_exception");
        let vector = r.fields.split(|b| *b == b' ').next().unwrap_or_default();
        let vector = value(r.fields, b"exception").unwrap_or(vector);
        let again = memchr::memmem::find(r.fields, b"reinjected]").is_some()
            || value(r.fields, b"reinjected").is_some_and(|v| !matches!(v, b"0" | b"]"));
        if !matches!(vector, b"#MC" | b"MC" | b"0x12" | b"18") || again {
            return;
        }
        // It is emitted on the way in: the exit before it is over, whether or not its return was traced.
        self.say_exit(r.tid, None);
        let thread = self.kvm_thread(r);
        let finishing = thread.msr_write_rip;
        let nested = thread.mc_open && finishing.is_some();
        if nested {
            // A second #MC while the first was in progress would have ended the guest instead: the first
            // one's handler finished, by the MSR write that came last.
            thread.finishing_rip = finishing;
            self.handler_finished(r.t, r.tid);
        }
        if let Some(thread) = self.threads.get_mut(&r.tid) {
            thread.mc_open = true;
            thread.in_kernel = false;
        }
        self.say_on(r.t, r.tid, EventKind::Delivered);
    }

    fn msr(&mut self, r: &Record<'_>) {
        self.saw("kvm_msr");
        if let Some(index) = number_of(r.fields, b"ecx") {
            return self.raw_msr(r, index);
        }
        let write = r.fields.starts_with(b"msr_write");
        let mut words = r.fields.split(|b| *b == b' ').filter(|word| !word.is_empty());
        let index = words.nth(1).and_then(hex);
        if index != Some(MSR_MCG_STATUS) {
            return;
        }
        let data = words.nth(1).and_then(hex).unwrap_or(u64::MAX);
        self.mcg_status(r, write, data);
    }

    /// `write=1 ecx=378 data=0`.
    fn raw_msr(&mut self, r: &Record<'_>, index: u32) {
        if u64::from(index) == MSR_MCG_STATUS {
            let data = hex_of(r.fields, b"data").unwrap_or(u64::MAX);
            self.mcg_status(r, number_of(r.fields, b"write") == Some(1), data);
        }
    }

    fn mcg_status(&mut self, r: &Record<'_>, write: bool, data: u64) {
        self.kvm_thread(r);
        let data = Hex(data);
        self.say_on(
            r.t,
            r.tid,
            EventKind::McgStatus {
                write,
                data,
                mc_on: None,
            },
        );
    }

    fn pio(&mut self, r: &Record<'_>) {
        self.saw("kvm_pio");
        let port = hex_of(r.fields, b"at").or_else(|| hex_of(r.fields, b"port"));
        let written = r.fields.starts_with(b"pio_write") || number_of(r.fields, b"rw") == Some(1);
        if !written || !matches!(port, Some(0x505 | 0xcf9 | 0x64 | 0x604)) {
            return;
        }
        self.kvm_thread(r);
        let what = EventKind::Pio {
            port: Hex(port.unwrap_or(0)),
            size: number_of(r.fields, b"size").unwrap_or(1),
            value: Hex(hex_of(r.fields, b"val").unwrap_or(0)),
        };
        self.say_on(r.t, r.tid, what);
    }

    fn ended(&mut self, r: &Record<'_>) {
        self.saw("sched_process_exit");
        let tid = number_of(r.fields, b"pid").unwrap_or(r.tid);
        if !self.threads.get(&tid).is_some_and(|thread| thread.kvm) {
            return self.signalled_ended(r.t, tid);
        }
        self.say_exit(tid, None);
        let pid = self.pid(tid);
        let last_words = self.threads.get(&tid).and_then(|thread| thread.last_words);
        let port = last_words
            .filter(|(t, _)| r.t.saturating_sub(*t) < FOLLOWS_NS)
            .map(|(_, port)| port);
        match port {
            Some(PANIC_PORT) if !self.seen.contains("kvm_pio") => {
                let what = EventKind::Pio {
                    port: Hex(PANIC_PORT),
                    size: 1,
                    value: Hex(1),
                };
                self.say_on(r.t, tid, what);
            }
            Some(port) if RESET_PORTS.contains(&port) => {
                self.say_on(r.t, tid, EventKind::ResetAsked { port: Hex(port) });
            }
            Some(port) if POWER_PORTS.contains(&port) => {
                // A guest that turns itself off in good order has dealt with its machine checks.
                if self.threads.get(&tid).is_some_and(|thread| thread.mc_open) {
                    self.handler_finished(r.t, tid);
                }
                let what = EventKind::Pio {
                    port: Hex(POWER_PORTS[0]),
                    size: 2,
                    value: Hex(0),
                };
                self.say_on(r.t, tid, what);
            }
            _ => {}
        }
        let gone = self.groups.ended(tid, pid);
        self.threads.remove(&tid);
        if let Some(pid) = gone {
            self.say(r.t, tid, pid, None, EventKind::VmmGone);
        }
    }

    /// A kprobe on the lookup of the page.
    fn probe(&mut self, r: &Record<'_>) {
        let place = memchr::memchr(b')', r.fields).map_or(r.fields, |end| &r.fields[..end]);
        let returns = memchr::memmem::find(place, b"<-").is_some();
        let gup = memchr::memmem::find(place, b"get_user_pages_unlocked").is_some();
        let lookup = returns
            && [&b"hva_to_pfn"[..], b"gfn_to_pfn", b"faultin_pfn"]
                .iter()
                .any(|name| memchr::memmem::find(place, name).is_some());
        if !gup && !lookup {
            return;
        }
        let ret = || {
            let keys = [&b"ret"[..], b"arg1", b"retval", b"rc"];
            keys.iter().find_map(|key| signed_of(r.fields, key))
        };
        if gup {
            self.saw("gup");
        }
        let Some(thread) = self.threads.get_mut(&r.tid) else {
            return;
        };
        match (gup, returns) {
            // "(hva_to_pfn+0x98/0x2f0 [kvm] <- get_user_pages_unlocked)": what returned stands last.
            (true, true) => thread.gup_ended(r.t, ret()),
            (true, false) => {
                let hva = [&b"start"[..], b"addr", b"hva"];
                thread.gup_began(r.t, hva.iter().find_map(|key| hex_of(r.fields, key)));
            }
            (false, _) => thread.lookup_ended(ret()),
        }
    }
}

/// RIP of `vcpu N, rip 0x…`; only short values are read, which is what a reset vector is.
fn rip_of_entry(fields: &[u8]) -> Option<u64> {
    let at = memchr::memmem::find(fields, b"rip")?;
    let digits = fields.get(at + 4..)?.strip_prefix(b"0x")?;
    let end = digits
        .iter()
        .take(17)
        .take_while(|b| b.is_ascii_hexdigit())
        .count();
    hex(&digits[..end])
}
