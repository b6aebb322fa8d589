//! The plan as it is printed: the same on the kernel itself and from its stored facts.

use poisontrace_kernel_facts::{
    btf::shape_name,
    facts::Facts,
    kvm::Kvm,
    plan::{Plan, ProbeSpec, hooks},
};
use poisontrace_probes::{ABSENT, layout::FIELDS};
use poisontrace_report::check;

/// One line for the kernel, one a row, one a field.
pub fn text(plan: &Plan, facts: &Facts) -> String {
    let mut text = kernel(facts);
    for row in &plan.rows {
        text += &planned(row);
    }
    for field in FIELDS {
        let offset = plan.offsets.get(field.global).copied();
        text += &check::field(&check::PlannedField {
            global: field.global,
            of: field.of,
            name: field.name,
            shape: &shape_name(field.shape),
            offset: offset.filter(|offset| *offset != ABSENT),
        });
    }
    text
}

fn planned(row: &ProbeSpec) -> String {
    let alternatives: Vec<_> = row.offered().map(|alternative| hooks(alternative)).collect();
    let refused = row.alternatives.iter().filter_map(|a| a.as_ref().err());
    let limitations = row.limitations.iter().filter(|_| !alternatives.is_empty());
    check::planned(&check::PlannedProbe {
        probe: &row.probe,
        standby: row.standby_binding(),
        reasons: refused.chain(limitations).cloned().collect(),
        alternatives,
    })
}

fn kernel(facts: &Facts) -> String {
    let users = facts.modules.get("kvm").and_then(|kvm| kvm.users.as_ref());
    check::kernel(&check::Kernel {
        release: &facts.release,
        kvm: match (facts.kvm(), users) {
            (Kvm::Absent, _) => check::Kvm::Absent,
            (Kvm::Idle, _) => check::Kvm::Idle,
            (Kvm::Ready, None) => check::Kvm::BuiltIn,
            (Kvm::Ready, Some(users)) => check::Kvm::LoadedWith(users),
        },
        nested_paging: facts.nested_paging(),
        btf: facts.btf.iter().map(String::as_str).collect(),
        kprobes: facts.kprobes,
        lockdown: facts.lockdown.as_deref(),
    })
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use super::*;

    #[test]
    fn the_plan_of_stored_facts_is_that_of_the_kernel_they_are_of() {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/facts");
        let kernels = fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path());
        let mut compared = 0;
        for kernel in kernels.filter(|path| path.is_dir()) {
            let facts = Facts::load(&kernel).unwrap();
            let live = fs::read_to_string(kernel.join("plan.txt")).unwrap();
            let text = text(&Plan::new(&facts, true), &facts);
            for (live, stored) in live.lines().zip(text.lines()) {
                assert_eq!(live, stored, "{}", kernel.display());
            }
            assert!(
                text.lines().count() <= live.lines().count(),
                "{}",
                kernel.display()
            );
            compared += 1;
        }
        assert!(compared > 0);
    }
}
