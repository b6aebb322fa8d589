//! Synthetic loads: the events of a flood with the expected results. For the flood tests and the soak.

#![allow(dead_code, reason = "not every test uses every helper")]

use std::collections::BTreeMap;

use poisontrace_model::{
    event::{Access, Bank, Event, EventKind, Isa, PoisonExit, SigbusSeverity, Vmm, session::Session},
    hex::Hex,
};

const MS: u64 = 1_000_000;
const PAGE: u64 = 4096;
const GUEST_RIP: u64 = 0xffff_ffff_8109_e6e8;
/// Far above any process of this machine.
const FIRST_PID: u32 = 0x4000_0000;
/// Thread numbers of one VM.
const THREADS: u32 = 64;
const WORKER: u32 = 50;

/// VAL, UC, EN, MISCV, ADDRV, S, AR, data load.
const AR: u64 = 0xbd80_0000_0000_0134;

/// A session with every probe attached.
pub fn session() -> Session {
    Session::constructed("made up", true)
}

/// A page of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Page {
    pub vm: u32,
    pub no: u64,
}

impl Page {
    pub fn pid(self) -> u32 {
        FIRST_PID + self.vm * THREADS
    }

    pub fn vcpu_tid(self, vcpu: u32) -> u32 {
        self.pid() + 1 + vcpu
    }

    pub fn hva(self) -> u64 {
        0x7f00_0000_0000 + u64::from(self.vm) * (1 << 34) + self.no * PAGE
    }

    pub fn gpa(self) -> u64 {
        (1 << 30) + self.no * PAGE
    }

    pub fn pfn(self) -> u64 {
        u64::from(self.vm) * (1 << 20) + self.no + 0x1000
    }
}

/// A load under construction: events, and the expected exits of each page.
pub struct Load {
    pub now: u64,
    pub events: Vec<Event>,
    /// Exits on each page.
    pub exits: BTreeMap<Page, u64>,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            now: 1_000 * MS,
            events: Vec::new(),
            exits: BTreeMap::new(),
        }
    }
}

impl Load {
    pub fn at(&mut self, tid: u32, pid: u32, what: EventKind) {
        let vcpu = tid.checked_sub(pid + 1);
        self.events.push(Event {
            t: self.now,
            tid,
            pid,
            vcpu,
            what,
        });
        self.now += 1_000;
    }

    pub fn vm(&mut self, vm: u32) {
        let page = Page { vm, no: 0 };
        let vmm = Vmm {
            is_vmm: Some(true),
            name: Some(format!("vm{vm}")),
            uuid: None,
            vmm: Some("qemu-system-x86_64".into()),
            start_ticks: Some(7),
            name_guess: None,
            container: None,
        };
        self.at(page.pid(), page.pid(), EventKind::Vmm(vmm));
    }

    fn sigbus(&mut self, by: (u32, u32), target: u32, page: Page, severity: SigbusSeverity, lsb: u32) {
        let what = EventKind::Sigbus {
            hva: Hex(page.hva()),
            severity,
            lsb,
            target_tid: target,
            target_pid: page.pid(),
            forced: false,
            comm: "qemu".into(),
        };
        self.at(by.0, by.1, what);
    }

    /// The host poisons the page; the VMM's main thread gets an early SIGBUS.
    pub fn poison(&mut self, page: Page, lsb: u32) {
        let worker = (WORKER, WORKER);
        let pfn = Hex(page.pfn());
        self.at(
            WORKER,
            WORKER,
            EventKind::FailureBegin {
                pfn,
                flags: 0,
                in_kvm_run: None,
            },
        );
        self.sigbus(worker, page.pid(), page, SigbusSeverity::ActionOptional, lsb);
        let action = EventKind::FailureAction {
            pfn,
            page_type: "dirty LRU page".into(),
            result: "Recovered".into(),
        };
        self.at(WORKER, WORKER, action);
        self.at(WORKER, WORKER, EventKind::FailureEnd { ret: 0 });
        self.exits.entry(page).or_default();
    }

    /// A vCPU accesses line `line` of the page and re-enters the guest. `of`: the poisoned page, if that is a huge one.
    pub fn touch(&mut self, page: Page, of: Page, vcpu: u32, line: u64) {
        let (tid, exit_ns) = (page.vcpu_tid(vcpu), self.now);
        self.sigbus((tid, page.pid()), tid, page, SigbusSeverity::ActionRequired, 12);
        let exit = PoisonExit {
            exit_ns: Some(exit_ns),
            fault_ns: Some(exit_ns + 100),
            gup_ns: Some(200),
            gup_ret: Some(-133),
            signal_ns: Some(exit_ns + 400),
            user_ns: Some(exit_ns + 800),
            entry_ns: None,
            rip: Some(Hex(GUEST_RIP)),
            gpa: Some(Hex(page.gpa() + line * 64)),
            hva: Some(Hex(page.hva())),
            access: Access::Read,
            isa: Isa::Vmx,
            reason: 48,
            user_reason: Some(10),
            user_errno: Some(-4),
            insn: None,
            recovered: false,
            other_address: None,
        };
        self.at(tid, page.pid(), EventKind::PoisonExit(exit));
        let entry_ns = self.now;
        self.at(tid, page.pid(), EventKind::Reentry { exit_ns, entry_ns });
        *self.exits.entry(of).or_default() += 1;
    }

    /// The VMM injects into a vCPU, and the #MC enters the guest.
    pub fn inject(&mut self, page: Page, vcpu: u32) {
        let (tid, pid) = (page.vcpu_tid(vcpu), page.pid());
        let bank = Bank {
            bank: 9,
            status: Hex(AR),
            addr: Hex(page.gpa()),
            misc: Hex(0x8c),
        };
        let injection = EventKind::SetMsrs {
            mcg_status: Some(Hex(7)),
            banks: vec![bank],
            truncated: false,
            unreadable: false,
        };
        self.at(tid, pid, injection);
        let queued = EventKind::QueueException {
            pending: true,
            injected: false,
        };
        self.at(tid, pid, queued);
        self.at(tid, pid, EventKind::Delivered);
    }

    /// The guest's handler returns.
    pub fn handled(&mut self, page: Page, vcpu: u32) {
        let done = EventKind::McgStatus {
            write: true,
            data: Hex(0),
            mc_on: None,
        };
        self.at(page.vcpu_tid(vcpu), page.pid(), done);
    }

    /// The guest panics and its VMM ends.
    pub fn panics(&mut self, page: Page) {
        let pvpanic = EventKind::Pio {
            port: Hex(0x505),
            size: 1,
            value: Hex(1),
        };
        self.at(page.vcpu_tid(0), page.pid(), pvpanic);
        self.ends(page);
    }

    /// The VMM ends.
    pub fn ends(&mut self, page: Page) {
        let exit = EventKind::TaskExit {
            exit_code: 0,
            live: Some(0),
            comm: "qemu".into(),
        };
        self.at(page.pid(), page.pid(), exit);
        self.at(page.pid(), page.pid(), EventKind::VmDestroyed);
    }
}

/// Memory of this process, KiB: `VmRSS`, `VmHWM`.
pub fn memory_kib(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// The sum of a metric's samples.
pub fn metric(text: &str, name: &str) -> f64 {
    text.lines()
        .filter(|line| line.starts_with(name))
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
        .sum()
}
