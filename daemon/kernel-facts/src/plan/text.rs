//! The plan in words: the same on the kernel itself and from its stored facts.

use std::fmt::Write as _;

use poisontrace_probes::{ABSENT, layout::FIELDS};

use super::Plan;
use crate::{btf::shape_name, facts::Facts, kvm::Kvm};

impl Plan {
    /// One line for the kernel, one a row, one a field.
    pub fn text(&self, facts: &Facts) -> String {
        let mut text = format!("kernel       {}\n", kernel(facts));
        for row in &self.rows {
            let ways: Vec<String> = row
                .offered()
                .map(|alternative| {
                    let bindings: Vec<String> = alternative.iter().map(|a| a.binding.to_string()).collect();
                    bindings.join(", ")
                })
                .collect();
            let missing = row.alternatives.iter().filter_map(|a| a.as_ref().err());
            let mut notes: Vec<String> = missing.cloned().collect();
            if ways.is_empty() {
                let _ = writeln!(
                    text,
                    "unavailable  {:<22} {}; lost: {}",
                    row.name,
                    notes.join("; "),
                    row.unavailable_info
                );
                continue;
            }
            notes.extend(row.limitations.iter().cloned());
            let notes = match notes.is_empty() {
                true => String::new(),
                false => format!(" ({})", notes.join("; ")),
            };
            let standby = row
                .standby_text()
                .map_or_else(String::new, |held| format!("{held}; then "));
            let _ = writeln!(
                text,
                "planned      {:<22} {standby}{}{notes}",
                row.name,
                ways.join("; else ")
            );
        }
        for field in FIELDS {
            let at = match self.offsets.get(field.global) {
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
