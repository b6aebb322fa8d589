//! SIGBUS for poison: that of an exit, and those of a `memory_failure()`, whose page its event names afterwards
//! on the same thread.

use super::{
    assembler::Assembler,
    fields::{hex, hex_of, number_of, signed_of, value},
    groups::is_vcpu,
    record::Record,
    thread::{Failure, Signal},
};
use crate::text::program;
use poisontrace_model::{
    event::{EventKind, SigbusSeverity, Vmm, log_statement::LogStatement},
    hex::Hex,
    text::from_c,
};

/// A SIGBUS that waits longer for its memory_failure_event becomes an event without it.
const SIGNAL_WAITS_NS: u64 = 2_000_000_000;
/// A signal that comes behind the event of its page comes at once.
const FAILED_BEFORE_NS: u64 = 100_000_000;
const MAX_WAITING: usize = 64;
const MAX_SIGNALLED: usize = 4096;
const MAX_LOOSE: usize = 4096;
const SIGBUS: u32 = 7;
/// Wait status.
const KILLED_BY_SIGBUS: i32 = 7;
/// `si_code` of raise() and of kill().
const SI_TKILL: i64 = -6;
const SI_USER: i64 = 0;
/// A VMM raises SIGBUS again so soon after the poison's.
const RAISED_WITHIN_NS: u64 = 1_000_000_000;
const BUS_MCEERR_AR: u32 = 4;
const BUS_MCEERR_AO: u32 = 5;

impl Assembler {
    pub(super) fn signal(&mut self, r: &Record<'_>) {
        self.saw("send_sig_mceerr");
        if number_of(r.fields, b"sig") != Some(SIGBUS) {
            return;
        }
        let required = match number_of(r.fields, b"code") {
            Some(BUS_MCEERR_AR) => true,
            Some(BUS_MCEERR_AO) => false,
            // BUS_ADRERR and the like: a shortage, not poison.
            _ => return,
        };
        let Some(target) = number_of(r.fields, b"pid") else {
            return;
        };
        let comm = memchr::memmem::find(r.fields, b"comm=").map_or(&b""[..], |at| {
            let rest = &r.fields[at + 5..];
            let end = memchr::memmem::find(rest, b" pid=").unwrap_or(rest.len());
            &rest[..end]
        });
        let comm = comm[..comm.len().min(64)].to_vec();
        if !required {
            self.groups.signalled(target, &comm);
        }
        let thread = self.thread(r);
        let in_exit = required
            && target == r.tid
            && thread
                .exit
                .as_ref()
                .is_some_and(|exit| exit.user.is_none() && exit.may_be_fault());
        if in_exit && let Some(exit) = &mut thread.exit {
            exit.signal_ns = Some(r.t);
            return;
        }
        if required && target == r.tid && thread.in_guest && thread.exit.is_none() {
            // The exit itself was lost: the thread was in the guest.
            thread.signalled(r.t);
            return;
        }
        if thread.signals.len() < MAX_WAITING {
            thread.signals.push(Signal {
                t: r.t,
                required,
                target,
                comm,
            });
        }
        self.waiting.insert(r.tid);
    }

    /// SIGBUS that meets no handler kills the process: its wait status follows from that. It is poison's by its
    /// code, or because the VMM, which cannot go on, raises it again itself.
    pub(super) fn delivered(&mut self, r: &Record<'_>) {
        if number_of(r.fields, b"sig") != Some(SIGBUS) || hex_of(r.fields, b"sa_handler") != Some(0) {
            return;
        }
        let code = signed_of(r.fields, b"code");
        let poison = matches!(code, Some(4 | 5));
        if poison {
            self.say_signals_to(r.tid);
        }
        let kvm = self.threads.get(&r.tid).filter(|thread| thread.kvm);
        let Some(thread) = kvm else {
            // A trace of signals alone: whose death it is shows whom the kernel signalled.
            let ids = [Some(r.tid), r.tgid];
            let known = ids
                .iter()
                .flatten()
                .find_map(|id| self.signalled.get(id).copied());
            let raised =
                |t: u64| matches!(code, Some(SI_TKILL | SI_USER)) && r.t.saturating_sub(t) < RAISED_WITHIN_NS;
            if let Some((pid, _)) = known.filter(|(_, t)| poison || raised(*t)) {
                self.signalled.retain(|_, (known, _)| *known != pid);
                self.say(r.t, r.tid, pid, None, killed(r.comm));
            }
            return;
        };
        let since = thread
            .exit
            .as_ref()
            .filter(|exit| exit.is_poison())
            .map(|exit| exit.t);
        let since = since.or(thread.poison_ns);
        let raised = matches!(code, Some(SI_TKILL | SI_USER))
            && since.is_some_and(|t| r.t.saturating_sub(t) < RAISED_WITHIN_NS);
        if !poison && !raised {
            return;
        }
        self.say_exit(r.tid, None);
        self.say_on(r.t, r.tid, killed(r.comm));
    }

    /// States the signals that wait and were sent to this thread.
    fn say_signals_to(&mut self, target: u32) {
        let to = |tid: &u32| {
            let signals = self.threads.get(tid).map(|thread| &thread.signals);
            signals.is_some_and(|signals| signals.iter().any(|signal| signal.target == target))
        };
        let of: Vec<u32> = self.waiting.iter().copied().filter(to).collect();
        for tid in of {
            self.waiting.remove(&tid);
            self.say_signals(tid, None);
        }
    }

    /// A process ended of which the trace shows nothing but a SIGBUS for poison.
    pub(super) fn signalled_ended(&mut self, t: u64, tid: u32) {
        self.say_signals_to(tid);
        let signalled = self.signalled.remove(&tid).map(|(pid, _)| pid);
        let signalled = signalled.filter(|pid| *pid == tid);
        // Where its vCPUs are in the trace, they show its end.
        if let Some(pid) = signalled.filter(|pid| !self.groups.is_known(*pid)) {
            self.say(t, tid, pid, None, EventKind::VmmGone);
        }
    }

    /// States the signals of a `memory_failure()` on this thread.
    pub(super) fn say_signals(&mut self, tid: u32, pfn: Option<u64>) {
        let Some(thread) = self.threads.get_mut(&tid) else {
            return;
        };
        let signals = std::mem::take(&mut thread.signals);
        let failed = thread.failed.take().filter(|_| pfn.is_none());
        let failed = failed.filter(|(t, _)| {
            let near = |signal: &Signal| signal.t >= *t && signal.t - t < FAILED_BEFORE_NS;
            !signals.is_empty() && signals.iter().all(near)
        });
        let pfn = pfn.or(failed.as_ref().map(|(_, failed)| failed.pfn));
        for signal in signals {
            let known = self.threads.get(&signal.target);
            let vcpu_thread = known.is_some_and(|thread| thread.kvm);
            let injected = known.and_then(|thread| thread.tgid);
            let name = from_c(&signal.comm);
            // Any program's thread may have that name.
            let of_vmm = program::is_vmm(&name) && name != "vmm";
            let of_vcpu = vcpu_thread && (signal.required || is_vcpu(&signal.comm));
            let pid = match injected {
                Some(tgid) => tgid,
                None if of_vcpu || of_vmm && is_vcpu(&signal.comm) => self.pid(signal.target),
                None => signal.target,
            };
            // Of a vCPU's thread that is known the process has been introduced.
            let named = !is_vcpu(&signal.comm);
            let introduced = vcpu_thread || injected.is_none() && self.threads.contains_key(&signal.target);
            if of_vmm && (named || !introduced) {
                let vmm = Vmm {
                    is_vmm: Some(true),
                    vmm: named.then_some(name),
                    ..Vmm::default()
                };
                self.say(signal.t, tid, pid, None, EventKind::Vmm(vmm));
            }
            let severity = if signal.required {
                SigbusSeverity::ActionRequired
            } else {
                SigbusSeverity::ActionOptional
            };
            let what = EventKind::SigbusNoAddress {
                severity,
                target_tid: signal.target,
                target_pid: pid,
                comm: from_c(&signal.comm),
                gpa: None,
                pfn: pfn.map(Hex),
            };
            if (vcpu_thread || of_vmm) && self.signalled.len() < MAX_SIGNALLED {
                self.signalled.insert(signal.target, (pid, signal.t));
            }
            self.say(signal.t, tid, tid, None, what);
        }
        if let Some((t, failed)) = failed {
            let of = |(at, statement): &(u64, LogStatement)| {
                *at == t && matches!(statement, LogStatement::HostAction { pfn, .. } if pfn.0 == failed.pfn)
            };
            self.loose.retain(|loose| !of(loose));
            self.say(t, tid, tid, None, failed.event());
        }
    }

    pub(super) fn expire(&mut self) {
        let now = self.now;
        let late: Vec<u32> = self
            .waiting
            .iter()
            .copied()
            .filter(|tid| {
                self.threads.get(tid).is_none_or(|thread| {
                    thread
                        .signals
                        .first()
                        .is_none_or(|signal| now.saturating_sub(signal.t) > SIGNAL_WAITS_NS)
                })
            })
            .collect();
        for tid in late {
            self.waiting.remove(&tid);
            self.say_signals(tid, None);
        }
    }

    pub(super) fn failure(&mut self, r: &Record<'_>) {
        self.saw("memory_failure_event");
        let Some((pfn, page_type, result)) = action(r.fields) else {
            return;
        };
        let signalled = self.waiting.remove(&r.tid);
        if !signalled && self.loose.len() < MAX_LOOSE {
            self.loose.push((
                r.t,
                LogStatement::HostAction {
                    pfn: Hex(pfn),
                    page_type: page_type.clone(),
                    result: result.clone(),
                },
            ));
        }
        self.say_signals(r.tid, Some(pfn));
        let failure = Failure {
            pfn,
            page_type,
            result,
        };
        self.say(r.t, r.tid, r.tid, None, failure.event());
        if !signalled {
            self.thread(r).failed = Some((r.t, failure));
        }
    }
}

fn killed(comm: &[u8]) -> EventKind {
    EventKind::TaskExit {
        exit_code: KILLED_BY_SIGBUS,
        live: Some(0),
        comm: from_c(comm),
    }
}

/// `pfn 0x…: recovery action for TYPE: RESULT`; raw, `pfn=… type=9 result=3`; or
/// `pfn=0x… page_type=TYPE action_result=RESULT` (rasdaemon).
pub fn action(fields: &[u8]) -> Option<(u64, String, String)> {
    let pfn = hex_of(fields, b"pfn").or_else(|| {
        let text = value(fields, b"pfn")?;
        hex(text.strip_suffix(b":").unwrap_or(text))
    })?;
    let text = String::from_utf8_lossy(fields);
    let (page_type, result) = if let Some((_, rest)) = text.split_once("recovery action for ") {
        rest.split_once(": ")?
    } else if let Some((_, rest)) = text.split_once("page_type=") {
        rest.split_once(" action_result=")?
    } else {
        // What the number of a type means depends on the kernel (`enum mf_action_page_type`).
        let page_type = format!("page type {}", number_of(fields, b"type")?);
        return Some((
            pfn,
            page_type,
            result_word(&number_of(fields, b"result")?.to_string()),
        ));
    };
    let words = |text: &str| poisontrace_model::text::sanitise(text.trim(), 64);
    Some((pfn, words(page_type), result_word(&words(result))))
}

/// `enum mf_result` of mm/memory-failure.c, unchanged since 4.19, where a tool printed the number.
fn result_word(result: &str) -> String {
    let word = match result.trim_start_matches("0x") {
        "0" => "Ignored",
        "1" => "Failed",
        "2" => "Delayed",
        "3" => "Recovered",
        _ => result,
    };
    word.to_owned()
}
