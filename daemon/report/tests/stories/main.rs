//! Constructed event sequences, one a fate. They say what the kernel would have stated; recordings of real
//! kernels are tested by `cargo xtask test`.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking; its helper functions too"
)]

mod claims;
mod fates;
mod hardware;
mod injections_skipped;
mod joins;
mod kernels;
mod late;
mod look_alikes;
mod preexisting;
mod properties;
mod refused;
mod restarts;
mod shared_pages;
mod storms;
mod vmm_ends;
mod walks;

use poisontrace_model::{
    correlate::*,
    event::{
        Access, Bank, Event, EventKind, Isa, PoisonExit, SigbusSeverity, Vmm, probe::ProbeId,
        session::Session,
    },
    hex::Hex,
    incident::mca,
};
use poisontrace_report::document::{Answer, Incident};

/// uapi `linux/kvm.h`.
pub const KVM_EXIT_SHUTDOWN: u32 = 8;
pub const QEMU: u32 = 221;
pub const VCPU0: u32 = 249;
pub const VCPU1: u32 = 250;
pub const WORKER: u32 = 50;
pub const PFN: u64 = 0xf7eb;
pub const HVA: u64 = 0x7fcc_ea9e_b000;
pub const GPA: u64 = 0x2be_b000;
pub const USER_RIP: u64 = 0x40_181f;
pub const KERNEL_RIP: u64 = 0xffff_ffff_8109_e6e8;
pub const MS: u64 = 1_000_000;

/// What QEMU writes into bank 9 of an AMD guest.
pub const AMD_AO: u64 = mca::VAL | mca::EN | mca::MISCV | mca::ADDRV | mca::DEFERRED | mca::POISON;
pub const AMD_AR: u64 = mca::VAL | mca::EN | mca::MISCV | mca::ADDRV | mca::UC | mca::POISON;
pub const INTEL_AO: u64 = mca::VAL | mca::UC | mca::EN | mca::MISCV | mca::ADDRV | mca::S | 0xc0;
pub const INTEL_AR: u64 = mca::VAL | mca::UC | mca::EN | mca::MISCV | mca::ADDRV | mca::S | mca::AR | 0x134;

/// A session with every probe at work.
pub fn session() -> Session {
    Session::constructed("test", false)
}

/// A sequence of events under construction; `now` is the time of the next.
#[derive(Clone, Debug)]
pub struct Story {
    pub now: u64,
    pub events: Vec<Event>,
}

impl Default for Story {
    fn default() -> Self {
        Self {
            now: 1_000 * MS,
            events: Vec::new(),
        }
    }
}

impl Story {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn at(&mut self, tid: u32, pid: u32, what: EventKind) -> &mut Self {
        let vcpu = match tid {
            VCPU0 => Some(0),
            VCPU1 => Some(1),
            _ => None,
        };
        self.events.push(Event {
            t: self.now,
            tid,
            pid,
            vcpu,
            what,
        });
        self.now += 10_000;
        self
    }

    pub fn wait(&mut self, ns: u64) -> &mut Self {
        self.now += ns;
        self
    }

    pub fn vm(&mut self) -> &mut Self {
        let vmm = Vmm {
            is_vmm: Some(true),
            name: Some("web01".into()),
            uuid: Some("uuid".into()),
            vmm: Some("qemu-system-x86_64".into()),
            start_ticks: Some(7),
            name_guess: None,
            container: None,
        };
        self.at(QEMU, QEMU, EventKind::Vmm(vmm))
    }

    pub fn sigbus(
        &mut self,
        tid: u32,
        target: u32,
        severity: SigbusSeverity,
        hva: u64,
        lsb: u32,
    ) -> &mut Self {
        self.at(
            tid,
            if tid == WORKER { WORKER } else { QEMU },
            EventKind::Sigbus {
                hva: Hex(hva),
                severity,
                lsb,
                target_tid: target,
                target_pid: QEMU,
                forced: false,
                comm: "qemu".into(),
            },
        )
    }

    /// The host loses the page; QEMU's main thread is notified early.
    pub fn poison(&mut self, lsb: u32) -> &mut Self {
        self.lose(PFN, |story| {
            story.sigbus(WORKER, QEMU, SigbusSeverity::ActionOptional, HVA, lsb);
        })
    }

    /// memory_failure() of a page, in whose course `signals` are sent.
    pub fn lose(&mut self, pfn: u64, signals: impl FnOnce(&mut Self)) -> &mut Self {
        self.lose_of_type(pfn, "dirty LRU page", signals)
    }

    /// The same of a page of another type, as the kernel names it.
    pub fn lose_of_type(&mut self, pfn: u64, page_type: &str, signals: impl FnOnce(&mut Self)) -> &mut Self {
        let pfn = Hex(pfn);
        self.at(
            WORKER,
            WORKER,
            EventKind::FailureBegin {
                pfn,
                flags: 0,
                in_kvm_run: None,
            },
        );
        signals(self);
        self.at(
            WORKER,
            WORKER,
            EventKind::FailureAction {
                pfn,
                page_type: page_type.into(),
                result: "Recovered".into(),
            },
        )
        .at(WORKER, WORKER, EventKind::FailureEnd { ret: 0 })
    }

    /// The application touches the page, and the #MC of it enters the guest.
    pub fn struck(&mut self, status: u64) -> &mut Self {
        self.touch(VCPU0, USER_RIP, GPA, Access::Read, true)
            .record_injection(VCPU0, status, GPA)
            .delivered(VCPU0)
    }

    /// Another page of the same guest is lost, `pages` behind the first.
    pub fn poison_other(&mut self, pages: u64) -> &mut Self {
        self.lose(PFN + pages, |story| {
            let hva = HVA + pages * 4096;
            story.sigbus(WORKER, QEMU, SigbusSeverity::ActionOptional, hva, 12);
        })
    }

    /// KVM_X86_SET_MCE.
    pub fn set_mce(&mut self, tid: u32, status: u64, gpa: u64) -> &mut Self {
        let bank = Bank {
            bank: 9,
            status: Hex(status),
            addr: Hex(gpa),
            misc: Hex(0x8c),
        };
        let mcg_status = Hex(7);
        self.at(tid, QEMU, EventKind::SetMce { mcg_status, bank })
    }

    /// The vCPU enters the guest again, after the exit that came last.
    pub fn back(&mut self, tid: u32) -> &mut Self {
        let exit_ns = self
            .events
            .iter()
            .rev()
            .find_map(|event| match &event.what {
                EventKind::PoisonExit(exit) if event.tid == tid => exit.exit_ns,
                _ => None,
            })
            .unwrap_or_default();
        let entry_ns = self.now;
        self.at(tid, QEMU, EventKind::Reentry { exit_ns, entry_ns })
    }

    pub fn reset(&mut self, tid: u32) -> &mut Self {
        self.at(tid, QEMU, EventKind::VcpuReset { rip: Hex(0xfff0) })
    }

    /// KVM_RUN returns with this exit reason.
    pub fn leaves(&mut self, tid: u32, reason: u32, errno: i32) -> &mut Self {
        self.at(
            tid,
            QEMU,
            EventKind::UserspaceExit {
                reason,
                errno,
                gpa: None,
            },
        )
    }

    /// QEMU writes bank 9 and, where that raises #MC, queues it; the state is put twice, as QEMU does.
    pub fn record_injection(&mut self, tid: u32, status: u64, gpa: u64) -> &mut Self {
        for _ in 0..2 {
            self.put(
                tid,
                &[Bank {
                    bank: 9,
                    status: Hex(status),
                    addr: Hex(gpa),
                    misc: Hex(0x8c),
                }],
            );
        }
        self
    }

    pub fn put(&mut self, tid: u32, banks: &[Bank]) -> &mut Self {
        let mcg_status = Some(Hex(if banks.iter().any(|b| mca::raises_mc(b.status.0)) {
            7
        } else {
            0
        }));
        self.at(
            tid,
            QEMU,
            EventKind::SetMsrs {
                mcg_status,
                banks: banks.to_vec(),
                truncated: false,
                unreadable: false,
            },
        );
        if banks.iter().any(|b| mca::raises_mc(b.status.0)) {
            self.at(
                tid,
                QEMU,
                EventKind::QueueException {
                    pending: true,
                    injected: false,
                },
            );
        }
        self
    }

    pub fn delivered(&mut self, tid: u32) -> &mut Self {
        self.at(tid, QEMU, EventKind::Delivered)
    }

    /// The handler on the vCPU that the thread `tid` drives now returns; the #MC entered it on the thread `mc_on`.
    pub fn handled_elsewhere(&mut self, tid: u32, mc_on: u32) -> &mut Self {
        self.at(
            tid,
            QEMU,
            EventKind::McgStatus {
                write: true,
                data: Hex(0),
                mc_on: Some(mc_on),
            },
        )
    }

    pub fn handled(&mut self, tid: u32) -> &mut Self {
        self.at(
            tid,
            QEMU,
            EventKind::McgStatus {
                write: false,
                data: Hex(7),
                mc_on: None,
            },
        )
        .at(
            tid,
            QEMU,
            EventKind::McgStatus {
                write: true,
                data: Hex(0),
                mc_on: None,
            },
        )
    }

    /// The guest touches the page: signal, exit record, and (if `back`) the next entry.
    pub fn touch(&mut self, tid: u32, rip: u64, gpa: u64, access: Access, back: bool) -> &mut Self {
        let exit_ns = self.now;
        let hva = HVA + (gpa - GPA);
        self.sigbus(tid, tid, SigbusSeverity::ActionRequired, hva & !0xfff, 12);
        let exit = PoisonExit {
            exit_ns: Some(exit_ns),
            fault_ns: Some(exit_ns + 500),
            gup_ns: Some(2_000),
            gup_ret: Some(-133),
            signal_ns: Some(exit_ns + 4_000),
            user_ns: Some(exit_ns + 8_000),
            entry_ns: None,
            rip: Some(Hex(rip)),
            gpa: Some(Hex(gpa)),
            hva: Some(Hex(hva & !0xfff)),
            access,
            isa: Isa::Svm,
            reason: 0x400,
            user_reason: Some(10),
            user_errno: Some(-4),
            insn: None,
            recovered: false,
            other_address: None,
        };
        self.at(tid, QEMU, EventKind::PoisonExit(exit));
        if back {
            let entry_ns = self.now;
            self.at(tid, QEMU, EventKind::Reentry { exit_ns, entry_ns });
        }
        self
    }

    pub fn pio(&mut self, tid: u32, port: u64, value: u64) -> &mut Self {
        self.at(
            tid,
            QEMU,
            EventKind::Pio {
                port: Hex(port),
                size: 1,
                value: Hex(value),
            },
        )
    }

    pub fn vmm_exit(&mut self, status: i32) -> &mut Self {
        self.at(
            QEMU,
            QEMU,
            EventKind::TaskExit {
                exit_code: status,
                live: Some(0),
                comm: "qemu".into(),
            },
        )
    }

    pub fn incidents(&self) -> Vec<Incident> {
        incidents(&self.events)
    }

    /// The only incident.
    pub fn only(&self) -> Incident {
        let mut incidents = self.incidents();
        assert_eq!(incidents.len(), 1, "{incidents:#?}");
        incidents.remove(0)
    }
}

/// The incidents as `explain` shows them.
pub fn documents(correlator: &mut Correlator) -> Vec<Incident> {
    correlator
        .incidents()
        .into_iter()
        .map(poisontrace_report::document)
        .collect()
}

pub fn incidents(events: &[Event]) -> Vec<Incident> {
    incidents_in(session(), events)
}

/// As [`incidents`], in another session.
pub fn incidents_in(session: Session, events: &[Event]) -> Vec<Incident> {
    let mut correlator = Correlator::new(session);
    for event in events {
        correlator.feed(event);
    }
    let incidents = documents(&mut correlator);
    conforms(&incidents);
    incidents
}

pub fn verdict(
    incident: &Incident,
) -> (
    poisontrace_model::incident::model::Outcome,
    poisontrace_model::incident::model::Cause,
    poisontrace_model::incident::model::Confidence,
) {
    (incident.outcome, incident.cause, incident.confidence)
}

/// The schema with every object closed: a key that the document writes and the schema does not have is found. The
/// published schema is open, as keys may be added.
fn closed(schema: &mut serde_json::Value) {
    match schema {
        serde_json::Value::Object(object) => {
            object.values_mut().for_each(closed);
            if object.contains_key("properties") {
                object.insert("additionalProperties".to_owned(), false.into());
            }
        }
        serde_json::Value::Array(all) => all.iter_mut().for_each(closed),
        _ => {}
    }
}

/// Every JSON that a test makes is held against the contract.
fn conforms(incidents: &[Incident]) {
    static SCHEMA: std::sync::LazyLock<jsonschema::Validator> = std::sync::LazyLock::new(|| {
        let mut schema = serde_json::from_str(include_str!("../../explain.schema.json")).unwrap();
        closed(&mut schema);
        jsonschema::validator_for(&schema).unwrap()
    });
    let answer = Answer::new(session().host, incidents.to_vec());
    let json = serde_json::to_value(&answer).unwrap();
    let errors: Vec<String> = SCHEMA
        .iter_errors(&json)
        .map(|e| format!("{e} at {}", e.instance_path))
        .collect();
    assert!(errors.is_empty(), "{errors:#?}");
}
