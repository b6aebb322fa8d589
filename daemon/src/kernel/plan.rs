//! The attach plan: a pure function from facts to what is to be attached, with its fallbacks, the offsets that
//! the programs get, and what is lost where something is missing.

use std::{collections::BTreeMap, fmt};

use poisontrace_probes::ABSENT;

use super::facts::Facts;

/// How one program is bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Binding {
    Tracepoint { group: String, name: String },
    Fentry(&'static str),
    Fexit(&'static str),
    Kprobe(&'static str),
    Kretprobe(&'static str),
}

impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tracepoint { group, name } => write!(f, "tracepoint {group}:{name}"),
            Self::Fentry(function) => write!(f, "fentry {function}"),
            Self::Fexit(function) => write!(f, "fexit {function}"),
            Self::Kprobe(function) => write!(f, "kprobe {function}"),
            Self::Kretprobe(function) => write!(f, "kretprobe {function}"),
        }
    }
}

/// A program and its binding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attach {
    pub program: &'static str,
    pub binding: Binding,
}

/// One row of the probe table: alternatives in order of preference, each a set that is attached as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub name: &'static str,
    pub alternatives: Vec<Vec<Attach>>,
    /// Why an alternative, or all of them, are not there.
    pub reasons: Vec<String>,
    /// What cannot be told without this row.
    pub lost: &'static str,
    /// Fields that the kernel's format does not have (in the size that the program reads), and what that costs.
    pub partial: Vec<String>,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub rows: Vec<Row>,
    /// Globals of the BPF object: offsets, or [`ABSENT`].
    pub offsets: BTreeMap<&'static str, u32>,
}

/// A field that a tracepoint program reads.
struct Want {
    global: &'static str,
    field: &'static str,
    size: u32,
    /// What it costs if the field is absent; empty where another field stands in.
    cost: &'static str,
}

const fn want(global: &'static str, field: &'static str, size: u32, cost: &'static str) -> Want {
    Want {
        global,
        field,
        size,
        cost,
    }
}

/// Rows without which no verdict can be had.
const NEEDED: [&str; 4] = [
    "kvm_exit",
    "kvm_page_fault",
    "send_sig_mceerr",
    "kvm_inj_exception",
];

impl Plan {
    /// Makes the plan. `guest_code`: guest code may be read, so attach what that needs.
    pub fn new(facts: &Facts, guest_code: bool) -> Self {
        let mut plan = Self::default();
        plan.function_pair(
            facts,
            "memory_failure",
            "memory_failure",
            ("failure_enter", "failure_exit"),
            ("failure_enter_kprobe", "failure_exit_kprobe"),
            "which pfn was poisoned, and the arming at that instant: exits before the first SIGBUS may be missed",
        );
        plan.memory_failure_event(facts);
        plan.function(
            facts,
            "send_sig_mceerr",
            "sigbus_send",
            "sigbus_send_kprobe",
            "which VMM was signalled and at which address, and that a guest touched poison",
        );
        plan.function(
            facts,
            "force_sig_mceerr",
            "sigbus_force",
            "sigbus_force_kprobe",
            "memory errors that a vCPU thread met itself, and the VMM's own accesses",
        );
        plan.tracepoint(
            facts,
            "kvm",
            "kvm_exit",
            "kvm_exit",
            "exits, their RIP and latency",
            &[
                want("EXIT_REASON", "exit_reason", 4, "the exit reason"),
                want("EXIT_RIP", "guest_rip", 8, "the guest's RIP"),
                want("EXIT_ISA", "isa", 4, "whether VMX or SVM: kind of access"),
                want("EXIT_VCPU", "vcpu_id", 4, "the vCPU's number"),
            ],
        );
        plan.tracepoint(
            facts,
            "kvm",
            "kvm_page_fault",
            "kvm_page_fault",
            "the GPA and the line that was touched",
            &[
                want("FAULT_GPA", "fault_address", 8, "the GPA"),
                want("FAULT_CODE_U64", "error_code", 8, ""),
                want("FAULT_CODE_U32", "error_code", 4, ""),
                want("FAULT_RIP", "guest_rip", 8, ""),
                want("FAULT_VCPU", "vcpu_id", 4, ""),
            ],
        );
        plan.function_pair(
            facts,
            "gup",
            "get_user_pages_unlocked",
            ("gup_enter", "gup_exit"),
            ("gup_enter_kprobe", "gup_exit_kprobe"),
            "the host-side gup: its time, its share of the exit, and its -EHWPOISON",
        );
        plan.tracepoint(
            facts,
            "kvm",
            "kvm_userspace_exit",
            "kvm_userspace_exit",
            "when an exit leaves the kernel, and KVM's own end of a guest",
            &[
                want("USER_REASON", "reason", 4, "the exit reason"),
                want("USER_ERRNO", "errno", 4, "the errno"),
            ],
        );
        plan.tracepoint(
            facts,
            "kvm",
            "kvm_entry",
            "kvm_entry",
            "exit-to-entry latency, and resets of a vCPU",
            &[
                want("ENTRY_VCPU", "vcpu_id", 4, ""),
                want(
                    "ENTRY_RIP",
                    "rip",
                    8,
                    "a vCPU that starts anew at the reset vector",
                ),
            ],
        );
        plan.injection(facts);
        plan.tracepoint(
            facts,
            "kvm",
            "kvm_inj_exception",
            "kvm_inj_exception",
            "whether a machine check entered the guest",
            &[
                want("INJ_VECTOR", "exception", 1, "which exception is injected"),
                want("INJ_REINJECTED", "reinjected", 1, ""),
            ],
        );
        plan.tracepoint(
            facts,
            "kvm",
            "kvm_msr",
            "kvm_msr",
            "whether the guest's #MC handler finished: survived and died look alike",
            &[
                want("MSR_WRITE", "write", 4, "reads and writes look alike"),
                want("MSR_INDEX", "ecx", 4, "which MSR"),
                want("MSR_DATA", "data", 8, "the value written"),
            ],
        );
        plan.tracepoint(
            facts,
            "kvm",
            "kvm_pio",
            "kvm_pio",
            "the guest's panic device and reset ports",
            &[
                want("PIO_WRITE", "rw", 4, "reads and writes look alike"),
                want("PIO_PORT", "port", 4, "which port"),
                want("PIO_SIZE", "size", 4, ""),
                want("PIO_VALUE", "val", 4, "the value written"),
            ],
        );
        plan.tracepoint(
            facts,
            "sched",
            "sched_process_exit",
            "process_exit",
            "when and how the VMM ended",
            &[],
        );
        plan.kprobe(
            facts,
            "vm_destroyed",
            "kvm_arch_destroy_vm",
            "vm_destroyed",
            "when the VM was destroyed",
        );
        plan.instruction(facts);
        plan.registers(facts, guest_code);
        plan.members(facts);
        plan
    }

    /// Whether what is attached (by row name) allows a verdict, else the rows that are missing.
    pub fn verdict_needs(attached: impl Fn(&str) -> bool) -> Vec<&'static str> {
        NEEDED.into_iter().filter(|name| !attached(name)).collect()
    }

    fn row(&mut self, name: &'static str, lost: &'static str) -> &mut Row {
        self.rows.push(Row {
            name,
            alternatives: Vec::new(),
            reasons: Vec::new(),
            lost,
            partial: Vec::new(),
        });
        let last = self.rows.len() - 1;
        &mut self.rows[last]
    }

    fn tracepoint(
        &mut self,
        facts: &Facts,
        group: &str,
        name: &'static str,
        program: &'static str,
        lost: &'static str,
        wanted: &[Want],
    ) {
        let event = facts.events.get(&format!("{group}/{name}"));
        for want in wanted {
            let offset = event.and_then(|event| event.offset(want.field, want.size));
            self.offsets.insert(want.global, offset.unwrap_or(ABSENT));
        }
        let row = self.row(name, lost);
        let Some(event) = event else {
            row.reasons
                .push(format!("this kernel has no tracepoint {group}:{name}"));
            return;
        };
        for want in wanted {
            if event.offset(want.field, want.size).is_none() && !want.cost.is_empty() {
                row.partial.push(format!(
                    "no field {} of {} bytes: lost is {}",
                    want.field, want.size, want.cost
                ));
            }
        }
        let binding = Binding::Tracepoint {
            group: group.to_owned(),
            name: name.to_owned(),
        };
        row.alternatives.push(vec![Attach { program, binding }]);
    }

    /// Group ras up to 6.18 and again from 7.2, memory_failure between: whichever is there.
    fn memory_failure_event(&mut self, facts: &Facts) {
        let groups = ["ras", "memory_failure"];
        let group = groups
            .into_iter()
            .find(|g| facts.events.contains_key(&format!("{g}/memory_failure_event")));
        self.tracepoint(
            facts,
            group.unwrap_or("ras"),
            "memory_failure_event",
            "failure_action",
            "the page's type and what the host kernel did about it",
            &[
                want("MFE_PFN", "pfn", 8, "the pfn"),
                want("MFE_TYPE", "type", 4, "the page's type"),
                want("MFE_RESULT", "result", 4, "the result"),
            ],
        );
    }

    fn function(
        &mut self,
        facts: &Facts,
        function: &'static str,
        fentry: &'static str,
        kprobe: &'static str,
        lost: &'static str,
    ) {
        let row = self.row(function, lost);
        if facts.btf_functions.contains(function) {
            row.alternatives.push(vec![Attach {
                program: fentry,
                binding: Binding::Fentry(function),
            }]);
        } else {
            row.reasons
                .push(format!("vmlinux BTF has no function {function}"));
        }
        match kprobe_problem(facts, function) {
            None => row.alternatives.push(vec![Attach {
                program: kprobe,
                binding: Binding::Kprobe(function),
            }]),
            Some(problem) => row.reasons.push(problem),
        }
    }

    fn function_pair(
        &mut self,
        facts: &Facts,
        name: &'static str,
        function: &'static str,
        (enter, exit): (&'static str, &'static str),
        (enter_kprobe, exit_kprobe): (&'static str, &'static str),
        lost: &'static str,
    ) {
        let row = self.row(name, lost);
        if facts.btf_functions.contains(function) {
            row.alternatives.push(vec![
                Attach {
                    program: enter,
                    binding: Binding::Fentry(function),
                },
                Attach {
                    program: exit,
                    binding: Binding::Fexit(function),
                },
            ]);
        } else {
            row.reasons
                .push(format!("vmlinux BTF has no function {function}"));
        }
        match kprobe_problem(facts, function) {
            None => row.alternatives.push(vec![
                Attach {
                    program: enter_kprobe,
                    binding: Binding::Kprobe(function),
                },
                Attach {
                    program: exit_kprobe,
                    binding: Binding::Kretprobe(function),
                },
            ]),
            Some(problem) => row.reasons.push(problem),
        }
    }

    fn kprobe(
        &mut self,
        facts: &Facts,
        name: &'static str,
        function: &'static str,
        program: &'static str,
        lost: &'static str,
    ) {
        let row = self.row(name, lost);
        match kprobe_problem(facts, function) {
            None => row.alternatives.push(vec![Attach {
                program,
                binding: Binding::Kprobe(function),
            }]),
            Some(problem) => row.reasons.push(problem),
        }
    }

    /// No kernel has a function `kvm_inject_mce`: what is meant are the ioctls by which a VMM injects.
    fn injection(&mut self, facts: &Facts) {
        self.kprobe(
            facts,
            "kvm_inject_mce",
            "kvm_arch_vcpu_ioctl",
            "vcpu_ioctl",
            "what the guest was told: bank, STATUS, ADDR, MISC",
        );
        let event = facts.events.get("syscalls/sys_enter_ioctl");
        let cmd = event.and_then(|event| event.offset("cmd", 8));
        let arg = event.and_then(|event| event.offset("arg", 8));
        self.offsets.insert("IOCTL_CMD", cmd.unwrap_or(ABSENT));
        self.offsets.insert("IOCTL_ARG", arg.unwrap_or(ABSENT));
        let Some(row) = self.rows.last_mut() else { return };
        if cmd.is_some() && arg.is_some() {
            let binding = Binding::Tracepoint {
                group: "syscalls".to_owned(),
                name: "sys_enter_ioctl".to_owned(),
            };
            row.alternatives.push(vec![Attach {
                program: "sys_enter_ioctl",
                binding,
            }]);
        } else {
            row.reasons
                .push("this kernel has no tracepoint syscalls:sys_enter_ioctl with cmd and arg".to_owned());
        }
    }

    /// kvm_mmu_page_fault is handed the instruction's bytes where the processor has them; on VMX it never is, and
    /// a kprobe on every page fault would cost for nothing.
    fn instruction(&mut self, facts: &Facts) {
        let lost = "the bytes of the instruction that touched the page: whether it was a CLFLUSH";
        if facts.svm {
            self.kprobe(
                facts,
                "instruction",
                "kvm_mmu_page_fault",
                "page_fault_insn",
                lost,
            );
        } else {
            let row = self.row("instruction", lost);
            row.reasons
                .push("only SVM hands out the bytes of an instruction that faults".to_owned());
        }
    }

    /// The guest's page-table root, as its VMM reads it. Every ioctl of the host passes these two, so they are
    /// attached only on demand.
    fn registers(&mut self, facts: &Facts, wanted: bool) {
        let offset = |event: &str, field: &str| facts.events.get(event).and_then(|e| e.offset(field, 8));
        let fields = [
            ("SREGS_CMD", offset("syscalls/sys_enter_ioctl", "cmd")),
            ("SREGS_ARG", offset("syscalls/sys_enter_ioctl", "arg")),
            ("SREGS_RET", offset("syscalls/sys_exit_ioctl", "ret")),
        ];
        let all = fields.iter().all(|(_, offset)| offset.is_some());
        for (global, offset) in fields {
            self.offsets.insert(global, offset.unwrap_or(ABSENT));
        }
        if !wanted {
            return;
        }
        let row = self.row(
            "guest_code",
            "the guest's page tables, and with them its code (--read-guest-code)",
        );
        if !all {
            row.reasons
                .push("this kernel has no tracepoints of the ioctl system call".to_owned());
            return;
        }
        let tracepoint = |name: &str| Binding::Tracepoint {
            group: "syscalls".to_owned(),
            name: name.to_owned(),
        };
        row.alternatives.push(vec![
            Attach {
                program: "sregs_enter",
                binding: tracepoint("sys_enter_ioctl"),
            },
            Attach {
                program: "sregs_exit",
                binding: tracepoint("sys_exit_ioctl"),
            },
        ]);
    }

    fn members(&mut self, facts: &Facts) {
        let members = [
            ("TASK_PID", "task_struct.pid", 4),
            ("TASK_TGID", "task_struct.tgid", 4),
            ("TASK_COMM", "task_struct.comm", 16),
            ("TASK_EXIT_CODE", "task_struct.exit_code", 4),
            ("TASK_SIGNAL", "task_struct.signal", 8),
            ("SIGNAL_LIVE", "signal_struct.live", 4),
            ("SIGNAL_GROUP_EXIT_CODE", "signal_struct.group_exit_code", 4),
        ];
        for (global, path, size) in members {
            let member = facts.members.get(path).filter(|member| member.size == Some(size));
            self.offsets
                .insert(global, member.map_or(ABSENT, |member| member.offset));
            if member.is_none() {
                let row = if global.starts_with("TASK_EXIT") || global.contains("SIGNAL") {
                    "sched_process_exit"
                } else {
                    "send_sig_mceerr"
                };
                if let Some(row) = self.rows.iter_mut().find(|r| r.name == row) {
                    row.partial.push(format!("BTF has no {path} of {size} bytes"));
                }
            }
        }
    }
}

fn kprobe_problem(facts: &Facts, function: &str) -> Option<String> {
    if !facts.kprobes {
        Some("this kernel has no kprobes".to_owned())
    } else if !facts.symbols.contains(function) {
        Some(format!("kallsyms lists no function {function}"))
    } else {
        None
    }
}

#[cfg(test)]
mod tests;
