//! Facts are taken away, and the plan says what is lost.

use super::*;
use crate::kernel::{btf::Member, format::Format};

/// A kernel as Debian's 6.12 is, cut to what the tests take away.
fn facts() -> Facts {
    let mut facts = Facts {
        release: "6.12".into(),
        kprobes: true,
        ..Facts::default()
    };
    let exit = "field:unsigned int exit_reason;	offset:8;	size:4;	signed:0;
field:unsigned long guest_rip;	offset:16;	size:8;	signed:0;
field:u32 isa;	offset:24;	size:4;	signed:0;
field:unsigned int vcpu_id;	offset:56;	size:4;	signed:0;";
    facts.events.insert("kvm/kvm_exit".into(), Format::parse(exit));
    facts
        .events
        .insert("ras/memory_failure_event".into(), Format::default());
    facts.btf_functions.insert("memory_failure".into());
    facts.symbols.insert("memory_failure".into());
    facts.members.insert(
        "task_struct.tgid".into(),
        Member {
            offset: 0x5b4,
            size: Some(4),
        },
    );
    facts
}

fn row<'a>(plan: &'a Plan, name: &str) -> &'a Row {
    plan.rows.iter().find(|row| row.name == name).unwrap()
}

#[test]
fn fentry_first_kprobe_where_there_is_no_btf_then_a_reason() {
    let plan = Plan::new(&facts(), false);
    let mf = row(&plan, "memory_failure");
    assert_eq!(mf.alternatives[0][0].binding, Binding::Fentry("memory_failure"));
    assert_eq!(mf.alternatives[1][0].binding, Binding::Kprobe("memory_failure"));

    let mut no_kprobes = facts();
    no_kprobes.kprobes = false;
    no_kprobes.btf_functions.clear();
    let plan = Plan::new(&no_kprobes, false);
    let mf = row(&plan, "memory_failure");
    assert!(mf.alternatives.is_empty());
    assert_eq!(
        mf.reasons,
        [
            "vmlinux BTF has no function memory_failure",
            "this kernel has no kprobes"
        ]
    );
}

#[test]
fn the_event_of_memory_failure_is_found_in_either_group() {
    let mut moved = facts();
    let format = moved.events.remove("ras/memory_failure_event").unwrap();
    moved
        .events
        .insert("memory_failure/memory_failure_event".into(), format);
    let plan = Plan::new(&moved, false);
    let row = row(&plan, "memory_failure_event");
    assert_eq!(
        row.alternatives[0][0].binding.to_string(),
        "tracepoint memory_failure:memory_failure_event"
    );
}

#[test]
fn a_field_that_changed_its_size_is_a_named_loss_and_never_a_wrong_offset() {
    let mut changed = facts();
    let exit = "field:unsigned int guest_rip;	offset:16;	size:4;	signed:0;";
    changed.events.insert("kvm/kvm_exit".into(), Format::parse(exit));
    let plan = Plan::new(&changed, false);
    assert_eq!(plan.offsets["EXIT_RIP"], ABSENT);
    let partial = &row(&plan, "kvm_exit").partial;
    assert!(
        partial.iter().any(|p| p.contains("guest_rip of 8 bytes")),
        "{partial:?}"
    );
    assert_eq!(plan.offsets["TASK_TGID"], 0x5b4);
    assert_eq!(plan.offsets["TASK_PID"], ABSENT);
}

#[test]
fn what_a_verdict_cannot_do_without_is_named() {
    assert_eq!(Plan::verdict_needs(|name| name != "kvm_exit"), ["kvm_exit"]);
    assert!(Plan::verdict_needs(|_| true).is_empty());
}
