//! The plan in words: the same on the kernel itself and from its stored facts.

use std::fmt::Write as _;

use poisontrace_kernel_facts::{
    btf::shape_name,
    facts::Facts,
    kvm::Kvm,
    plan::{Plan, hooks},
};
use poisontrace_model::event::probe::ProbeReason;
use poisontrace_probes::{ABSENT, layout::FIELDS};
use poisontrace_report::probes;

/// One line for the kernel, one a row, one a field.
pub fn text(plan: &Plan, facts: &Facts) -> String {
    let mut text = format!("kernel       {}\n", kernel(facts));
    for row in &plan.rows {
        let ways: Vec<String> = row
            .offered()
            .map(|alternative| {
                let hooks: Vec<String> = hooks(alternative).iter().map(ToString::to_string).collect();
                hooks.join(", ")
            })
            .collect();
        let missing = row.alternatives.iter().filter_map(|a| a.as_ref().err());
        let mut notes: Vec<ProbeReason> = missing.cloned().collect();
        if ways.is_empty() {
            let _ = writeln!(
                text,
                "unavailable  {:<22} {}; lost: {}",
                row.probe,
                probes::reasons(&notes),
                probes::unavailable(&row.probe).unwrap_or_default()
            );
            continue;
        }
        notes.extend(row.limitations.iter().cloned());
        let notes = match notes.is_empty() {
            true => String::new(),
            false => format!(" ({})", probes::reasons(&notes)),
        };
        let standby = row
            .standby_binding()
            .map_or_else(String::new, |held| format!("{}; then ", probes::binding(&held)));
        let _ = writeln!(
            text,
            "planned      {:<22} {standby}{}{notes}",
            row.probe,
            ways.join("; else ")
        );
    }
    for field in FIELDS {
        let at = match plan.offsets.get(field.global) {
            Some(offset) if *offset != ABSENT => format!("at {offset}"),
            _ => "absent".to_owned(),
        };
        let _ = writeln!(
            text,
            "field        {:<22} {}.{} as {}: {at}",
            field.global,
            field.of.replace('/', ":"),
            field.name,
            shape_name(field.shape)
        );
    }
    text
}

fn kernel(facts: &Facts) -> String {
    let btf: Vec<&str> = facts.btf.iter().map(String::as_str).collect();
    let kvm = match facts.kvm() {
        Kvm::Absent => "KVM not loaded".to_owned(),
        Kvm::Idle => "KVM loaded, no processor's module on it".to_owned(),
        Kvm::Ready => {
            let users = facts.modules.get("kvm").and_then(|kvm| kvm.users.as_ref());
            users.map_or_else(
                || "KVM built in".to_owned(),
                |users| format!("KVM loaded with {}", users.join(", ")),
            )
        }
    };
    let paging = match facts.nested_paging() {
        Some(true) => "nested paging",
        Some(false) => "shadow paging",
        None => "kind of paging not known",
    };
    format!(
        "{}; {kvm}, {paging}; BTF of {}; {}; lockdown {}",
        facts.release,
        if btf.is_empty() {
            "nothing".to_owned()
        } else {
            btf.join(", ")
        },
        if facts.kprobes { "kprobes" } else { "no kprobes" },
        facts.lockdown.as_deref().unwrap_or("not seen")
    )
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
