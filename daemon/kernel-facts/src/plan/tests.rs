//! Facts are taken away, and the plan names what is lost.

use std::{fs, path::PathBuf};

use poisontrace_probes::layout::{FIELDS, Field, Shape};

use super::*;
use crate::facts::Module;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/facts")
}

/// Every kernel whose facts are kept.
fn kernels() -> Vec<(String, Facts)> {
    let entries = fs::read_dir(folder()).unwrap().flatten();
    let mut kernels: Vec<(String, Facts)> = entries
        .filter(|entry| entry.path().is_dir())
        .map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            (name, Facts::load(&entry.path()).unwrap())
        })
        .collect();
    kernels.sort_by(|(a, _), (b, _)| a.cmp(b));
    assert!(!kernels.is_empty());
    kernels
}

/// Debian's 6.12 in the lab: it has everything.
fn facts() -> Facts {
    Facts::load(&folder().join("6.12-amd")).unwrap()
}

fn row<'a>(plan: &'a Plan, name: &str) -> &'a ProbeSpec {
    plan.rows.iter().find(|row| row.probe.name() == name).unwrap()
}

/// The bindings of each alternative that is offered.
fn offered(plan: &Plan, name: &str) -> Vec<String> {
    row(plan, name)
        .offered()
        .map(|alternative| {
            let all: Vec<String> = alternative.iter().map(|a| a.binding.to_string()).collect();
            all.join(", ")
        })
        .collect()
}

fn reasons(plan: &Plan, name: &str) -> Vec<ProbeReason> {
    let all = row(plan, name).alternatives.iter();
    all.filter_map(|a| a.as_ref().err().cloned()).collect()
}

fn names(reason: &ProbeReason, field: &Field) -> bool {
    match reason {
        ProbeReason::NoField(missing) | ProbeReason::NoMember { field: missing, .. } => {
            missing.name == field.name
        }
        _ => false,
    }
}

/// Whether some row names this field as missing.
fn loss_is_named(plan: &Plan, field: &Field) -> bool {
    plan.rows
        .iter()
        .any(|row| row.limitations.iter().any(|loss| names(loss, field)) || row.offered().next().is_none())
}

/// The same of a structure's member, of which there is no other row to speak.
fn member_is_named(plan: &Plan, field: &Field) -> bool {
    plan.rows.iter().any(|row| {
        let problems = row.alternatives.iter().filter_map(|a| a.as_ref().err());
        problems.chain(&row.limitations).any(|loss| names(loss, field))
    })
}

#[test]
fn each_field_that_is_gone_or_changed_is_a_named_loss_and_never_a_wrong_offset() {
    for (name, facts) in kernels() {
        let whole = Plan::new(&facts, true);
        let there = |field: &&Field| whole.offsets[field.global] != ABSENT && field.of.contains('/');
        for field in FIELDS.iter().filter(there) {
            let event = facts.event(field.of).unwrap().0.to_owned();
            for change in ["gone", "larger", "smaller", "of the other sign", "an array"] {
                let mut facts = facts.clone();
                // Where it is the last resort that reads the field, it must be the one that is planned.
                facts.functions.clear();
                facts.symbols.clear();
                facts.raw_tracepoints.clear();
                let fields = &mut facts.events.get_mut(&event).unwrap().fields;
                let changed = fields.get_mut(field.name).unwrap();
                match change {
                    "larger" => changed.size *= 2,
                    "smaller" => changed.size /= 2,
                    "of the other sign" if changed.array || changed.dynamic => continue,
                    "of the other sign" => changed.signed = !changed.signed,
                    "an array" => changed.array = !changed.array,
                    _ => {
                        fields.remove(field.name);
                    }
                }
                let plan = Plan::new(&facts, true);
                assert_eq!(
                    plan.offsets[field.global], ABSENT,
                    "{name}: {} {change}",
                    field.global
                );
                // An error code of 32 bits is read as such: nothing is lost.
                let stand_in = plan.offsets["FAULT_CODE_U32"] != ABSENT && field.name == "error_code";
                assert!(
                    stand_in || loss_is_named(&plan, field),
                    "{name}: {} {change}",
                    field.global
                );
            }
        }
    }
}

/// What the iterator over vCPUs alone reads, which is attached nowhere.
const OF_THE_ITERATOR: [&str; 17] = [
    "FILE_OPERATIONS",
    "OPERATIONS_IOCTL",
    "FILE_INODE",
    "FILE_PATH",
    "INODE_SUPER",
    "SUPER_MAGIC",
    "PATH_DENTRY",
    "DENTRY_NAME",
    "NAME_TEXT",
    "VCPU_NUMBER",
    "ARCH_CR4",
    "ARCH_MCG_CAP",
    "ARCH_MCG_STATUS",
    "ARCH_MCG_CTL",
    "ARCH_BANKS",
    "ARCH_CPUID_COUNT",
    "ARCH_CPUID",
];

#[test]
fn each_member_that_is_gone_or_changed_is_a_named_loss_and_never_a_wrong_offset() {
    for (name, facts) in kernels() {
        let whole = Plan::new(&facts, true);
        let there = |field: &&Field| whole.offsets[field.global] != ABSENT && !field.of.contains('/');
        let of_a_row = |field: &&Field| !OF_THE_ITERATOR.contains(&field.global);
        for field in FIELDS.iter().filter(there).filter(of_a_row) {
            let path = format!("{}.{}", field.of, field.name);
            for change in ["gone", "u16"] {
                // Only the place of what lies within it is read.
                if field.shape == Shape::Any && change != "gone" {
                    continue;
                }
                let mut facts = facts.clone();
                match change {
                    "gone" => {
                        facts.members.remove(&path);
                    }
                    other => facts.members.get_mut(&path).unwrap().is = other.to_owned(),
                }
                let plan = Plan::new(&facts, true);
                assert_eq!(plan.offsets[field.global], ABSENT, "{name}: {path} {change}");
                // On 5.10 memslots are not found whatever else it has.
                let found = whole.offsets["SLOTS_TREE"] != ABSENT
                    || matches!(field.of, "task_struct" | "signal_struct");
                assert!(member_is_named(&plan, field) || !found, "{name}: {path} {change}");
            }
        }
    }
}

#[test]
fn fentry_first_then_kprobe_then_the_tracepoint_of_all_signals() {
    let mut facts = facts();
    assert_eq!(
        offered(&Plan::new(&facts, false), "send_sig_mceerr"),
        [
            "fentry send_sig_mceerr",
            "kprobe send_sig_mceerr",
            "raw_tracepoint signal_generate",
            "tracepoint signal:signal_generate"
        ]
    );
    // No fentry: the kernel's BTF does not have the function.
    facts.functions.clear();
    let plan = Plan::new(&facts, false);
    assert_eq!(
        offered(&plan, "gup"),
        ["kprobe get_user_pages_unlocked, kretprobe get_user_pages_unlocked"]
    );
    assert_eq!(
        offered(&plan, "memory_failure"),
        ["kprobe memory_failure, kretprobe memory_failure"]
    );
    // No kprobes either.
    facts.kprobes = false;
    let plan = Plan::new(&facts, false);
    assert_eq!(
        offered(&plan, "send_sig_mceerr"),
        [
            "raw_tracepoint signal_generate",
            "tracepoint signal:signal_generate"
        ]
    );
    assert!(offered(&plan, "gup").is_empty() && offered(&plan, "memory_failure").is_empty());
    assert_eq!(
        reasons(&plan, "gup"),
        [
            ProbeReason::NoFunctionBtf("get_user_pages_unlocked".into()),
            ProbeReason::NoKprobes
        ]
    );
    assert_eq!(
        offered(&plan, "vcpu_ioctl_mce"),
        ["tracepoint syscalls:sys_enter_ioctl"]
    );
    assert!(Plan::verdict_needs(|probe| !offered(&plan, probe.name()).is_empty()).is_empty());
}

#[test]
fn no_signal_is_counted_by_two_probes() {
    let mut facts = facts();
    facts.functions.remove("send_sig_mceerr");
    facts.symbols.remove("send_sig_mceerr");
    let plan = Plan::new(&facts, false);
    assert_eq!(offered(&plan, "send_sig_mceerr").len(), 2);
    assert!(offered(&plan, "force_sig_mceerr").is_empty());
}

#[test]
fn disabled_attach_types_are_named() {
    let mut facts = facts();
    facts.disabled_attach_types = ["kprobe".to_owned(), "fentry".to_owned()].into();
    let plan = Plan::new(&facts, false);
    assert_eq!(
        reasons(&plan, "gup"),
        [
            ProbeReason::Disabled("fentry".into()),
            ProbeReason::Disabled("kprobe".into())
        ]
    );
    assert_eq!(
        offered(&plan, "send_sig_mceerr"),
        [
            "raw_tracepoint signal_generate",
            "tracepoint signal:signal_generate"
        ]
    );
}

#[test]
fn a_function_with_other_arguments_is_not_bound_to() {
    let mut facts = facts();
    facts
        .functions
        .get_mut("memory_failure")
        .unwrap()
        .takes
        .push("pointer".into());
    let plan = Plan::new(&facts, false);
    assert!(offered(&plan, "memory_failure").is_empty());
    let [ProbeReason::Prototype { function, known, .. }, ..] = &reasons(&plan, "memory_failure")[..] else {
        panic!("{:?}", reasons(&plan, "memory_failure"));
    };
    assert_eq!(
        (function.as_str(), known.takes.join(", ").as_str()),
        ("memory_failure", "u64, i32, pointer")
    );
    // A module's BTF is believed as well.
    facts
        .functions
        .get_mut("kvm_arch_vcpu_ioctl")
        .unwrap()
        .takes
        .clear();
    let plan = Plan::new(&facts, false);
    assert_eq!(
        offered(&plan, "vcpu_ioctl_mce"),
        ["tracepoint syscalls:sys_enter_ioctl"]
    );
}

#[test]
fn without_the_modules_btf_the_kprobe_is_taken_on_trust_and_that_is_stated() {
    let mut facts = facts();
    facts.btf.remove("kvm");
    facts.functions.retain(|_, function| function.module.is_none());
    let plan = Plan::new(&facts, false);
    assert_eq!(offered(&plan, "vcpu_ioctl_mce")[0], "kprobe kvm_arch_vcpu_ioctl");
    assert_eq!(
        row(&plan, "vcpu_ioctl_mce").limitations,
        [ProbeReason::PrototypeAssumed("kvm_arch_vcpu_ioctl".into())]
    );
}

#[test]
fn the_event_of_memory_failure_is_found_in_either_group() {
    let mut facts = facts();
    assert_eq!(
        offered(&Plan::new(&facts, false), "memory_failure_event"),
        ["tracepoint ras:memory_failure_event"]
    );
    let format = facts.events.remove("ras/memory_failure_event").unwrap();
    facts
        .events
        .insert("memory_failure/memory_failure_event".into(), format);
    let plan = Plan::new(&facts, false);
    assert_eq!(
        offered(&plan, "memory_failure_event"),
        ["tracepoint memory_failure:memory_failure_event"]
    );
    assert_eq!(plan.offsets["MFE_PFN"], 8);
}

#[test]
fn a_kernel_without_kvm_says_so_and_one_with_shadow_paging_gives_no_gpa() {
    let mut facts = facts();
    facts
        .modules
        .get_mut("kvm_amd")
        .unwrap()
        .parameters
        .insert("npt".into(), "N".into());
    assert!(Plan::new(&facts, false).shadow_paging);
    facts.modules.clear();
    let plan = Plan::new(&facts, false);
    assert_eq!(reasons(&plan, "kvm_exit"), [ProbeReason::KvmAbsent]);
    assert!(offered(&plan, "kvm_exit").is_empty() && !offered(&plan, "memory_failure").is_empty());
    // Built in, or loaded with nothing on it: both have their tracepoints.
    facts.modules.insert("kvm".into(), Module::default());
    assert!(!offered(&Plan::new(&facts, false), "kvm_exit").is_empty());
}

#[test]
fn nothing_is_planned_where_the_kernel_is_locked_down() {
    let mut facts = facts();
    facts.lockdown = Some("confidentiality".into());
    let plan = Plan::new(&facts, false);
    assert!(plan.rows.iter().all(|row| row.offered().next().is_none()));
    assert_eq!(reasons(&plan, "kvm_exit"), [ProbeReason::LockedDown]);
}

#[test]
fn what_a_verdict_cannot_do_without_is_named() {
    assert_eq!(
        Plan::verdict_needs(|probe| *probe != ProbeId::KvmExit),
        [ProbeId::KvmExit]
    );
    assert!(Plan::verdict_needs(|_| true).is_empty());
}

/// 5.10's verifier warns of such maps in the kernel's log, with a call trace.
#[test]
fn totals_are_preallocated_where_the_kernel_warns_of_maps_that_allocate() {
    for (name, facts) in kernels() {
        let plan = Plan::new(&facts, false);
        assert_eq!(plan.preallocated_totals, name.starts_with("5."), "{name}");
        assert_eq!(plan.page_totals.is_some(), plan.preallocated_totals, "{name}");
    }
}

/// What may be lost until kvm_exit is attached is that alone which the answer names.
#[test]
fn nothing_is_on_the_exits_until_there_is_poison_where_kvm_notes_them_itself() {
    let mut facts = facts();
    facts.clocksource = Some("tsc".to_owned());
    let plan = Plan::new(&facts, false).on_poison(&facts, false);
    assert_eq!(plan.hot_path, HotPath::OnPoison);
    for name in ["kvm_exit", "kvm_entry", "kvm_msr", "kvm_pio"] {
        assert_eq!(row(&plan, name).standby.as_deref(), Some(&[][..]), "{name}");
    }
    for name in ["kvm_exit", "kvm_entry"] {
        assert!(matches!(
            row(&plan, name).first.as_slice(),
            [Attach { binding: Binding::RawTracepoint(at), .. }] if *at == name
        ));
    }
    // Returns to a VMM: what stands by shows the same of an exit on poison, and is elsewhere.
    let stands_by = |name: &str| -> Vec<String> {
        let programs = row(&plan, name).standby.iter().flatten();
        programs.map(|attach| attach.binding.to_string()).collect()
    };
    assert_eq!(stands_by("kvm_userspace_exit"), ["raw_tracepoint signal_deliver"]);
    assert_eq!(
        offered(&plan, "instruction"),
        [""],
        "the instruction's bytes take no hook"
    );
    // All else that sees an exit on poison without them is attached from the start.
    for name in ["memory_failure", "kvm_page_fault", "gup", "send_sig_mceerr"] {
        assert_eq!(row(&plan, name).standby, None, "{name}");
    }
}

#[test]
fn what_would_lose_exits_keeps_the_programs_attached_and_says_why() {
    let mut facts = facts();
    facts.clocksource = Some("tsc".to_owned());
    let why = |facts: &Facts, gives_up_admin| {
        let plan = Plan::new(facts, false);
        let rows = plan.rows.clone();
        let plan = plan.on_poison(facts, gives_up_admin);
        let HotPath::Always(why) = plan.hot_path else {
            panic!("on poison");
        };
        assert_eq!(plan.rows, rows);
        why
    };
    let mut other_clock = facts.clone();
    other_clock.clocksource = Some("hpet".to_owned());
    assert_eq!(
        why(&other_clock, false),
        [ProbeReason::Clocksource("hpet".to_owned())]
    );
    let mut no_note = facts.clone();
    no_note.members.remove("kvm_vcpu_arch.last_guest_tsc");
    assert!(
        matches!(why(&no_note, false).as_slice(), [ProbeReason::NoMember { of, .. }] if of == "kvm_vcpu_arch")
    );
    let mut no_rip = facts.clone();
    let fault = no_rip.events.get_mut("kvm/kvm_page_fault").unwrap();
    fault.fields.remove("guest_rip");
    assert_eq!(
        why(&no_rip, false),
        [
            ProbeReason::Needs(ProbeId::KvmExit),
            ProbeReason::Needs(ProbeId::KvmEntry)
        ]
    );
    let mut no_end = facts.clone();
    no_end.raw_tracepoints.remove("signal_deliver");
    assert_eq!(
        why(&no_end, false),
        [ProbeReason::NoTracepointBtf("signal_deliver".to_owned())]
    );
    facts.perf_event_paranoid = Some(3);
    assert_eq!(why(&facts, true), [ProbeReason::PerfEventParanoid(3)]);
    facts.perfmon_suffices = Some(false);
    assert_eq!(why(&facts, true), [ProbeReason::PerfEventParanoid(3)]);
    facts.perfmon_suffices = Some(true);
    assert_eq!(
        Plan::new(&facts, false).on_poison(&facts, true).hot_path,
        HotPath::OnPoison
    );
    facts.perfmon_suffices = None;
    assert_eq!(
        Plan::new(&facts, false).on_poison(&facts, false).hot_path,
        HotPath::OnPoison
    );
}
