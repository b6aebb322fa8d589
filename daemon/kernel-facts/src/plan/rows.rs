//! The rows of the plan: what is asked of a kernel, best first.

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
        "memory_failure",
        &MEMORY_FAILURE,
        ["failure_enter", "failure_exit"],
        ["failure_enter_kprobe", "failure_exit_kprobe"],
        "which pfn was poisoned, and the arming at that instant: exits before the first SIGBUS may be missed",
    );
    rows.tracepoint(
        "memory_failure_event",
        MEMORY_FAILURE_EVENTS[0],
        "failure_action",
        "the page's type and what the host kernel did about it",
    );
    rows.signals();
    rows.tracepoint(
        "kvm_exit",
        "kvm/kvm_exit",
        "kvm_exit",
        "exits, their RIP and latency",
    );
    rows.standby_at("kvm_exit", "kvm_exit_standby");
    rows.tracepoint(
        "kvm_page_fault",
        "kvm/kvm_page_fault",
        "kvm_page_fault",
        "the GPA and the line that was touched",
    );
    rows.pair(
        "gup",
        &GUP,
        ["gup_enter", "gup_exit"],
        ["gup_enter_kprobe", "gup_exit_kprobe"],
        "the host-side gup: its time (what is shown in its place is a bound, from the fault to the signal) and its -EHWPOISON",
    );
    rows.raw_or_tracepoint(
        "kvm_userspace_exit",
        (&USERSPACE_EXIT, "kvm_userspace_exit_raw"),
        ("kvm/kvm_userspace_exit", "kvm_userspace_exit"),
        "when an exit leaves the kernel, and KVM's own end of a guest",
    );
    rows.tracepoint(
        "kvm_entry",
        "kvm/kvm_entry",
        "kvm_entry",
        "exit-to-entry latency, and resets of a vCPU",
    );
    rows.standby_at("kvm_entry", "kvm_entry_standby");
    rows.nested();
    rows.injection();
    rows.tracepoint(
        "kvm_inj_exception",
        "kvm/kvm_inj_exception",
        "kvm_inj_exception",
        "whether a machine check entered the guest",
    );
    rows.raw_or_tracepoint(
        "kvm_msr",
        (&MSR, "kvm_msr_raw"),
        ("kvm/kvm_msr", "kvm_msr"),
        "whether the guest's #MC handler finished: survived and died look alike",
    );
    rows.tracepoint(
        "kvm_pio",
        "kvm/kvm_pio",
        "kvm_pio",
        "the guest's panic device and reset ports",
    );
    rows.standby(Vec::new());
    rows.tracepoint(
        "sched_process_exit",
        "sched/sched_process_exit",
        "process_exit",
        "when and how the VMM ended",
    );
    rows.limitations(&["task_struct.exit_code", "task_struct.signal", "signal_struct"]);
    rows.kprobe(
        "vm_destroyed",
        &DESTROY_VM,
        "vm_destroyed",
        "when the VM was destroyed",
    );
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
    fn row(&mut self, name: &'static str, unavailable_info: &'static str) -> &mut ProbeSpec {
        self.plan.rows.push(ProbeSpec {
            name,
            alternatives: Vec::new(),
            unavailable_info,
            limitations: Vec::new(),
            of_kvm: false,
            standby: None,
        });
        self.last()
    }

    fn last(&mut self) -> &mut ProbeSpec {
        let last = self.plan.rows.len().saturating_sub(1);
        &mut self.plan.rows[last]
    }

    /// Fields of structures (or single members) that the last row's programs read.
    fn limitations(&mut self, of: &[&str]) {
        let losses: Vec<String> = of
            .iter()
            .flat_map(|of| {
                let (of, member) = of.split_once('.').map_or((*of, None), |(of, m)| (of, Some(m)));
                fields::losses(self.facts, of)
                    .into_iter()
                    .filter(move |loss| member.is_none_or(|m| loss.starts_with(&format!("no {m} as "))))
            })
            .collect();
        self.last().limitations.extend(losses);
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
            None => Err(format!(
                "this kernel has no tracepoint {}",
                event.replace('/', ":")
            )),
        });
    }

    fn tracepoint(
        &mut self,
        name: &'static str,
        event: &str,
        program: &'static str,
        unavailable_info: &'static str,
    ) {
        self.row(name, unavailable_info);
        self.or_tracepoint(event, program);
        if self.facts.event(event).is_some() {
            let losses = fields::losses(self.facts, event);
            self.last().limitations = losses;
        }
    }

    /// A raw tracepoint costs a fraction of one whose fields are laid out for each event, but only BTF has its
    /// arguments.
    fn raw_or_tracepoint(
        &mut self,
        name: &'static str,
        (raw, raw_program): (&'static Function, &'static str),
        (event, program): (&str, &'static str),
        unavailable_info: &'static str,
    ) {
        self.row(name, unavailable_info);
        self.or_raw(raw, raw_program);
        let raw_offered = self.last().offered().next().is_some();
        self.or_tracepoint(event, program);
        if !raw_offered && self.facts.event(event).is_some() {
            let losses = fields::losses(self.facts, event);
            self.last().limitations = losses;
        }
    }

    /// A raw tracepoint, as an alternative of the last row.
    fn or_raw(&mut self, raw: &'static Function, program: &'static str) {
        let problem = match self.facts.raw_tracepoints.get(raw.name) {
            Some(known) => raw.mismatch(known),
            None => Some(format!("no BTF describes the tracepoint {}", raw.name)),
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
        self.row(
            "kvm_nested_vmexit",
            "which exits are those of a guest's own guest, whose addresses are not the guest's",
        );
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
    fn fentry_problem(&self, function: &Function) -> Option<String> {
        match self.facts.functions.get(function.name) {
            Some(known) if known.module.is_none() => function.mismatch(known),
            _ => Some(format!("vmlinux BTF has no function {}", function.name)),
        }
    }

    fn kprobe_problem(&self, function: &Function) -> Option<String> {
        if !self.facts.kprobes {
            return Some("this kernel has no kprobes".to_owned());
        }
        if !self.facts.symbols.contains(function.name) {
            return Some(format!("kallsyms lists no function {}", function.name));
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
        name: &'static str,
        function: &'static Function,
        [enter, exit]: [&'static str; 2],
        [enter_kprobe, exit_kprobe]: [&'static str; 2],
        unavailable_info: &'static str,
    ) {
        self.row(name, unavailable_info);
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
    fn kprobe(
        &mut self,
        name: &'static str,
        function: &'static Function,
        program: &'static str,
        unavailable_info: &'static str,
    ) {
        self.row(name, unavailable_info).of_kvm = true;
        let problem = self.kprobe_problem(function);
        if problem.is_none() && !self.facts.functions.contains_key(function.name) {
            self.last().limitations.push(format!(
                "no BTF describes {}: its arguments are taken to be those of 4.19 to 7.3",
                function.name
            ));
        }
        let kprobe = vec![attach(program, Binding::Kprobe(function.name))];
        self.last().alternatives.push(problem.map_or(Ok(kprobe), Err));
    }

    /// SIGBUS for poison: from the functions that send it, else from the tracepoint of all signals, which shows no
    /// address unless a program gets its arguments raw.
    fn signals(&mut self) {
        self.row(
            "send_sig_mceerr",
            "which VMM was signalled and at which address, and that a guest touched poison",
        );
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
        self.row(
            "force_sig_mceerr",
            "which SIGBUS the kernel forced on a thread for an access of its own",
        );
        if sent_seen {
            let (fentry, kprobe) = by_function(&FORCE_SIG_MCEERR, "sigbus_force", "sigbus_force_kprobe");
            self.or_function(&FORCE_SIG_MCEERR, fentry, kprobe);
        } else {
            // Both at once would count each such signal twice.
            self.last().alternatives.push(Err(
                "signal_generate, which stands in for send_sig_mceerr, shows these signals too".to_owned(),
            ));
        }
    }

    /// No kernel has a function `kvm_inject_mce`: what is meant are the ioctls by which a VMM injects.
    fn injection(&mut self) {
        self.kprobe(
            "vcpu_ioctl_mce",
            &VCPU_IOCTL,
            "vcpu_ioctl",
            "the injected machine checks: bank, STATUS, ADDR, MISC",
        );
        let losses = fields::losses(self.facts, SYS_ENTER_IOCTL);
        if losses.is_empty() {
            self.or_tracepoint(SYS_ENTER_IOCTL, "sys_enter_ioctl");
        } else {
            self.last().alternatives.push(Err(
                "this kernel has no tracepoint syscalls:sys_enter_ioctl with cmd and arg".to_owned(),
            ));
        }
    }

    /// kvm_mmu_page_fault is handed the instruction's bytes where the processor has them; on VMX it never is, and
    /// a kprobe on every page fault would cost for nothing.
    fn instruction(&mut self) {
        let unavailable_info = "the bytes of the instruction that touched the page: whether it was a CLFLUSH";
        if self.facts.svm() {
            self.kprobe(
                "instruction",
                &MMU_PAGE_FAULT,
                "page_fault_insn",
                unavailable_info,
            );
        } else {
            let row = self.row("instruction", unavailable_info);
            row.of_kvm = true;
            row.alternatives.push(Err(
                "only SVM hands out the bytes of an instruction that faults".to_owned()
            ));
        }
    }

    /// Where guest memory lies in the VMM. Memslots are in a tree from 5.17 on.
    fn memslots(&mut self) {
        const UNAVAILABLE_INFO: &str = "where the guest's memory lies outside the poisoned page's own mapping in the VMM: its code may be there";
        let problem = ["file", "kvm_vcpu", "kvm", "kvm_memslots", "kvm_memory_slot"]
            .iter()
            .find_map(|of| {
                Some(format!(
                    "struct {of} has {}",
                    fields::losses(self.facts, of).first()?
                ))
            })
            .or_else(|| {
                let mut functions = [&GET_SREGS, &VCPU_IOCTL].into_iter();
                functions.find_map(|function| self.kprobe_problem(function))
            });
        let kprobes = vec![
            attach("memslots_sregs", Binding::Kprobe(GET_SREGS.name)),
            attach("memslots_sregs2", Binding::Kprobe(VCPU_IOCTL.name)),
        ];
        let row = self.row("memslots", UNAVAILABLE_INFO);
        row.of_kvm = true;
        row.alternatives.push(problem.map_or(Ok(kprobes), Err));
    }

    /// The guest's page-table root, as its VMM reads it. Every ioctl of the host passes these two, so they are
    /// attached only on demand.
    fn registers(&mut self) {
        let problems: Vec<String> = [SYS_ENTER_IOCTL, SYS_EXIT_IOCTL]
            .iter()
            .flat_map(|event| fields::losses(self.facts, event))
            .collect();
        let row = self.row(
            "guest_code",
            "the guest's page tables, and with them its code (--read-guest-code)",
        );
        if !problems.is_empty() {
            row.alternatives.push(Err(
                "this kernel has no tracepoints of the ioctl system call with cmd, arg and ret".to_owned(),
            ));
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

fn attach(program: &'static str, binding: Binding) -> Attach {
    Attach { program, binding }
}
