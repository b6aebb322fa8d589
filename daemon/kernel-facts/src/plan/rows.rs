//! The rows of the plan: what is asked of a kernel, best first.

use poisontrace_model::event::probe::{MissingField, ProbeId, ProbeReason};
use poisontrace_probes::ABSENT;

use super::{Attach, Binding, Plan, ProbeSpec, fields};
use crate::{
    facts::{Facts, MEMORY_FAILURE_EVENTS},
    functions::{
        DESTROY_VM, FORCE_SIG_MCEERR, Function, GET_SREGS, GUP, MEMORY_FAILURE, MMU_PAGE_FAULT, MSR,
        SEND_SIG_MCEERR, SIGNAL_GENERATE, USERSPACE_EXIT, VCPU_IOCTL,
    },
};

const SYS_ENTER_IOCTL: &str = "syscalls/sys_enter_ioctl";
const SYS_EXIT_IOCTL: &str = "syscalls/sys_exit_ioctl";

/// Adds all rows.
pub fn add(plan: &mut Plan, facts: &Facts, guest_code: bool) {
    let mut rows = Rows { plan, facts };
    rows.pair(
        ProbeId::MemoryFailure,
        &MEMORY_FAILURE,
        ["failure_enter", "failure_exit"],
        ["failure_enter_kprobe", "failure_exit_kprobe"],
    );
    rows.limitations(&["task_struct.preempt_notifiers", "kvm_vcpu.preempt_notifier"]);
    rows.tracepoint(
        ProbeId::MemoryFailureEvent,
        MEMORY_FAILURE_EVENTS[0],
        "failure_action",
    );
    rows.tracepoint(ProbeId::MceRecord, "mce/mce_record", "mce_record");
    rows.tracepoint(ProbeId::McEvent, "ras/mc_event", "mc_event");
    rows.tracepoint(
        ProbeId::ExtlogMemEvent,
        "ras/extlog_mem_event",
        "extlog_mem_event",
    );
    rows.signals();
    rows.tracepoint(ProbeId::KvmExit, "kvm/kvm_exit", "kvm_exit");
    rows.standby_at("kvm_exit", "kvm_exit_standby");
    rows.limitations(&[
        "kvm_vcpu_arch.last_guest_tsc",
        "kvm_vcpu_arch.l1_tsc_offset",
        "kvm_vcpu_arch.l1_tsc_scaling_ratio",
    ]);
    rows.tracepoint(ProbeId::KvmPageFault, "kvm/kvm_page_fault", "kvm_page_fault");
    rows.pair(
        ProbeId::Gup,
        &GUP,
        ["gup_enter", "gup_exit"],
        ["gup_enter_kprobe", "gup_exit_kprobe"],
    );
    rows.raw_or_tracepoint(
        ProbeId::KvmUserspaceExit,
        (&USERSPACE_EXIT, "kvm_userspace_exit_raw"),
        ("kvm/kvm_userspace_exit", "kvm_userspace_exit"),
    );
    rows.tracepoint(ProbeId::KvmEntry, "kvm/kvm_entry", "kvm_entry");
    rows.standby_at("kvm_entry", "kvm_entry_standby");
    rows.nested();
    rows.injection();
    rows.tracepoint(
        ProbeId::KvmInjException,
        "kvm/kvm_inj_exception",
        "kvm_inj_exception",
    );
    rows.limitations(&[
        "task_struct.preempt_notifiers",
        "kvm_vcpu.preempt_notifier",
        "kvm_vcpu.arch",
        "kvm_vcpu_arch.regs",
        "kvm_vcpu_arch.regs_avail",
    ]);
    rows.raw_or_tracepoint(ProbeId::KvmMsr, (&MSR, "kvm_msr_raw"), ("kvm/kvm_msr", "kvm_msr"));
    rows.tracepoint(ProbeId::KvmPio, "kvm/kvm_pio", "kvm_pio");
    rows.standby(Vec::new());
    rows.tracepoint(
        ProbeId::SchedProcessExit,
        "sched/sched_process_exit",
        "process_exit",
    );
    rows.limitations(&["task_struct.exit_code", "task_struct.signal", "signal_struct"]);
    rows.kprobe(ProbeId::VmDestroyed, &DESTROY_VM, "vm_destroyed");
    rows.instruction();
    if guest_code {
        rows.registers();
        rows.memslots();
    }
}

struct Rows<'a> {
    plan: &'a mut Plan,
    facts: &'a Facts,
}

impl Rows<'_> {
    fn row(&mut self, probe: ProbeId) -> &mut ProbeSpec {
        self.plan.rows.push(ProbeSpec {
            probe,
            alternatives: Vec::new(),
            limitations: Vec::new(),
            of_kvm: false,
            standby: None,
            first: Vec::new(),
        });
        self.last()
    }

    fn last(&mut self) -> &mut ProbeSpec {
        let last = self.plan.rows.len().saturating_sub(1);
        &mut self.plan.rows[last]
    }

    /// Fields of structures (or single members) that the last row's programs read.
    fn limitations(&mut self, of: &[&str]) {
        let missing: Vec<ProbeReason> = of
            .iter()
            .flat_map(|of| members_missing(self.facts, of))
            .map(ProbeReason::NoField)
            .collect();
        self.last().limitations.extend(missing);
    }

    /// A tracepoint of the kernel, as an alternative of the last row.
    fn or_tracepoint(&mut self, event: &str, program: &'static str) {
        let facts = self.facts;
        let row = self.last();
        row.of_kvm |= event.starts_with("kvm/");
        let found = facts.event(event).and_then(|(name, _)| name.split_once('/'));
        row.alternatives.push(match found {
            Some((group, name)) => Ok(vec![attach(
                program,
                Binding::Tracepoint {
                    group: group.to_owned(),
                    name: name.to_owned(),
                },
            )]),
            None => Err(ProbeReason::NoTracepoint(event.replace('/', ":"))),
        });
    }

    fn tracepoint(&mut self, probe: ProbeId, event: &str, program: &'static str) {
        self.row(probe);
        self.or_tracepoint(event, program);
        if self.facts.event(event).is_some() {
            self.limitations(&[event]);
        }
    }

    /// A raw tracepoint costs a fraction of one whose fields are laid out for each event, but only BTF has its
    /// arguments.
    fn raw_or_tracepoint(
        &mut self,
        probe: ProbeId,
        (raw, raw_program): (&'static Function, &'static str),
        (event, program): (&str, &'static str),
    ) {
        self.row(probe);
        self.or_raw(raw, raw_program);
        let raw_offered = self.last().offered().next().is_some();
        self.or_tracepoint(event, program);
        if !raw_offered && self.facts.event(event).is_some() {
            self.limitations(&[event]);
        }
    }

    /// A raw tracepoint, as an alternative of the last row.
    fn or_raw(&mut self, raw: &'static Function, program: &'static str) {
        let problem = match self.facts.raw_tracepoints.get(raw.name) {
            Some(known) => raw.mismatch(known),
            None => Some(ProbeReason::NoTracepointBtf(raw.name.to_owned())),
        };
        let alternative = vec![attach(program, Binding::RawTracepoint(raw.name))];
        self.last()
            .alternatives
            .push(problem.map_or(Ok(alternative), Err));
    }

    /// What the last row's place is held by until there is poison.
    fn standby(&mut self, programs: Vec<Attach>) {
        self.last().standby = Some(programs);
    }

    /// The last row's place is held by a raw tracepoint program that reads no argument. What it does not read must come
    /// from elsewhere: the RIP and the vCPU of an exit from kvm_page_fault, its kind from KVM's modules.
    fn standby_at(&mut self, tracepoint: &'static str, program: &'static str) {
        let has = |field: &str| self.plan.offsets.get(field).is_some_and(|at| *at != ABSENT);
        if self.plan.isa.is_some() && has("FAULT_RIP") && has("FAULT_VCPU") {
            self.standby(vec![attach(program, Binding::RawTracepoint(tracepoint))]);
        }
    }

    /// No argument is read.
    fn nested(&mut self) {
        let event = "kvm/kvm_nested_vmexit";
        self.row(ProbeId::KvmNestedVmexit);
        if self.facts.event(event).is_some() {
            let raw = attach(
                "kvm_nested_vmexit_raw",
                Binding::RawTracepoint("kvm_nested_vmexit"),
            );
            self.last().alternatives.push(Ok(vec![raw]));
        }
        self.or_tracepoint(event, "kvm_nested_vmexit");
    }

    /// Why nothing can bind to a function by fentry and fexit.
    fn fentry_problem(&self, function: &Function) -> Option<ProbeReason> {
        match self.facts.functions.get(function.name) {
            Some(known) if known.module.is_none() => function.mismatch(known),
            _ => Some(ProbeReason::NoFunctionBtf(function.name.to_owned())),
        }
    }

    fn kprobe_problem(&self, function: &Function) -> Option<ProbeReason> {
        if !self.facts.kprobes {
            return Some(ProbeReason::NoKprobes);
        }
        if !self.facts.symbols.contains(function.name) {
            return Some(ProbeReason::NoSymbol(function.name.to_owned()));
        }
        function.mismatch(self.facts.functions.get(function.name)?)
    }

    /// Programs by fentry and fexit, else by kprobe and kretprobe.
    fn or_function(&mut self, function: &Function, fentry: Vec<Attach>, kprobe: Vec<Attach>) {
        let problems = [self.fentry_problem(function), self.kprobe_problem(function)];
        let alternatives = problems.into_iter().zip([fentry, kprobe]);
        self.last()
            .alternatives
            .extend(alternatives.map(|(problem, alternative)| problem.map_or(Ok(alternative), Err)));
    }

    fn pair(
        &mut self,
        probe: ProbeId,
        function: &'static Function,
        [enter, exit]: [&'static str; 2],
        [enter_kprobe, exit_kprobe]: [&'static str; 2],
    ) {
        self.row(probe);
        let f = function.name;
        self.or_function(
            function,
            vec![attach(enter, Binding::Fentry(f)), attach(exit, Binding::Fexit(f))],
            vec![
                attach(enter_kprobe, Binding::Kprobe(f)),
                attach(exit_kprobe, Binding::Kretprobe(f)),
            ],
        );
    }

    /// A function of KVM, which is a module's where it counts: by kprobe.
    fn kprobe(&mut self, probe: ProbeId, function: &'static Function, program: &'static str) {
        self.row(probe).of_kvm = true;
        self.or_kprobe(function, program);
    }

    /// The same, as an alternative of the last row.
    fn or_kprobe(&mut self, function: &'static Function, program: &'static str) {
        let problem = self.kprobe_problem(function);
        if problem.is_none() && !self.facts.functions.contains_key(function.name) {
            let assumed = ProbeReason::PrototypeAssumed(function.name.to_owned());
            self.last().limitations.push(assumed);
        }
        let kprobe = vec![attach(program, Binding::Kprobe(function.name))];
        self.last().alternatives.push(problem.map_or(Ok(kprobe), Err));
    }

    /// SIGBUS for poison: from the functions that send it, else from the tracepoint of all signals, which shows no
    /// address unless a program gets its arguments raw.
    fn signals(&mut self) {
        self.row(ProbeId::SendSigMceerr);
        let by_function = |f: &'static Function, fentry, kprobe| {
            (
                vec![attach(fentry, Binding::Fentry(f.name))],
                vec![attach(kprobe, Binding::Kprobe(f.name))],
            )
        };
        let (fentry, kprobe) = by_function(&SEND_SIG_MCEERR, "sigbus_send", "sigbus_send_kprobe");
        self.or_function(&SEND_SIG_MCEERR, fentry, kprobe);
        let sent_seen = self.last().offered().next().is_some();
        self.or_raw(&SIGNAL_GENERATE, "signal_generate_raw");
        self.or_tracepoint("signal/signal_generate", "signal_generate");
        self.limitations(&["task_struct.pid", "task_struct.tgid", "task_struct.comm"]);
        if !sent_seen {
            self.limitations(&["signal/signal_generate"]);
        }
        self.row(ProbeId::ForceSigMceerr);
        if sent_seen {
            let (fentry, kprobe) = by_function(&FORCE_SIG_MCEERR, "sigbus_force", "sigbus_force_kprobe");
            self.or_function(&FORCE_SIG_MCEERR, fentry, kprobe);
        } else {
            // Both at once would count each such signal twice.
            self.last().alternatives.push(Err(ProbeReason::ShownBy {
                tracepoint: SIGNAL_GENERATE.name.to_owned(),
                of: ProbeId::SendSigMceerr,
            }));
        }
    }

    /// No kernel has a function `kvm_inject_mce`: what is meant are the ioctls by which a VMM injects.
    fn injection(&mut self) {
        self.kprobe(ProbeId::VcpuIoctlMce, &VCPU_IOCTL, "vcpu_ioctl");
        if fields::missing(self.facts, SYS_ENTER_IOCTL).is_empty() {
            self.or_tracepoint(SYS_ENTER_IOCTL, "sys_enter_ioctl");
        } else {
            let problem = no_ioctl_fields(&[SYS_ENTER_IOCTL], &["cmd", "arg"]);
            self.last().alternatives.push(Err(problem));
        }
    }

    /// The VMCB has the instruction's bytes where the processor gives them: they are read when an exit has met poison, without a
    /// hook. Where BTF does not lead to it, kvm_mmu_page_fault is handed them; on VMX it never is, and a kprobe on every page fault
    /// would cost for nothing.
    fn instruction(&mut self) {
        let svm = self.facts.svm();
        let row = self.row(ProbeId::Instruction);
        row.of_kvm = true;
        if !svm {
            row.alternatives.push(Err(ProbeReason::SvmOnly));
            return;
        }
        let way = [
            "task_struct.preempt_notifiers",
            "kvm_vcpu.preempt_notifier",
            "vcpu_svm",
            "vmcb",
            "vmcb_control_area",
        ];
        match self.no_member(&way) {
            None => self.last().alternatives.push(Ok(Vec::new())),
            Some(problem) => {
                self.last().alternatives.push(Err(problem));
                self.or_kprobe(&MMU_PAGE_FAULT, "page_fault_insn");
            }
        }
    }

    /// The first member of these structures (or single members) that is not as the programs read it.
    fn no_member(&self, of: &[&str]) -> Option<ProbeReason> {
        of.iter().find_map(|of| {
            let field = members_missing(self.facts, of).into_iter().next()?;
            let of = of.split_once('.').map_or(*of, |(of, _)| of).to_owned();
            Some(ProbeReason::NoMember { of, field })
        })
    }

    /// Where guest memory lies in the VMM. Memslots are in a tree from 5.17 on.
    fn memslots(&mut self) {
        let way = [
            "file.private_data",
            "kvm_vcpu.kvm",
            "kvm",
            "kvm_memslots",
            "kvm_memory_slot",
        ];
        let problem = self.no_member(&way).or_else(|| {
            let mut functions = [&GET_SREGS, &VCPU_IOCTL].into_iter();
            functions.find_map(|function| self.kprobe_problem(function))
        });
        let kprobes = vec![
            attach("memslots_sregs", Binding::Kprobe(GET_SREGS.name)),
            attach("memslots_sregs2", Binding::Kprobe(VCPU_IOCTL.name)),
        ];
        let row = self.row(ProbeId::Memslots);
        row.of_kvm = true;
        row.alternatives.push(problem.map_or(Ok(kprobes), Err));
    }

    /// The guest's page-table root, as its VMM reads it. Every ioctl of the host passes these two, so they are
    /// attached only on demand.
    fn registers(&mut self) {
        let events = [SYS_ENTER_IOCTL, SYS_EXIT_IOCTL];
        let complete = events
            .iter()
            .all(|event| fields::missing(self.facts, event).is_empty());
        let row = self.row(ProbeId::GuestCode);
        if !complete {
            let problem = no_ioctl_fields(&events, &["cmd", "arg", "ret"]);
            row.alternatives.push(Err(problem));
            return;
        }
        let tracepoint = |name: &str| Binding::Tracepoint {
            group: "syscalls".to_owned(),
            name: name.to_owned(),
        };
        row.alternatives.push(Ok(vec![
            attach("sregs_enter", tracepoint("sys_enter_ioctl")),
            attach("sregs_exit", tracepoint("sys_exit_ioctl")),
        ]));
    }
}

fn no_ioctl_fields(events: &[&str], fields: &[&str]) -> ProbeReason {
    ProbeReason::NoTracepointFields {
        tracepoints: events.iter().map(|event| event.replace('/', ":")).collect(),
        fields: fields.iter().map(|field| (*field).to_owned()).collect(),
    }
}

fn attach(program: &'static str, binding: Binding) -> Attach {
    Attach { program, binding }
}

/// Fields of a structure, or a single member of it, that this kernel does not have as the programs read them.
fn members_missing(facts: &Facts, of: &str) -> Vec<MissingField> {
    let (of, member) = of.split_once('.').map_or((of, None), |(of, m)| (of, Some(m)));
    let mut missing = fields::missing(facts, of);
    missing.retain(|field| member.is_none_or(|m| field.name == m));
    missing
}
