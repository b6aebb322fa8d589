//! The text: VMs with the same facts and answers together.

use std::collections::BTreeMap;

use super::{Document, Entry, HostDocument, VmDocument, words};
use crate::{Look, size};
use poisontrace_model::{
    event::McVendor,
    forecast::terms::{Notice, Page},
};

/// VMs of a group that are named.
const NAMED: usize = 8;
/// Columns of the names on the left.
const NAMES: usize = 14;
/// The same within an answer.
const ANSWER: usize = 17;

/// The document as text.
pub fn text(document: &Document, look: Look) -> String {
    let mut out = String::new();
    paragraph(&mut out, "", "", &document.summary, look);
    out.push('\n');
    for (name, value) in host(&document.host_facts, document) {
        fact(&mut out, name, &value, look);
    }
    for limit in &document.limits {
        fact(&mut out, "note", limit, look);
    }
    for (body, vms) in grouped(&document.vms, |vm| body(vm, look)) {
        out.push('\n');
        let text = format!("{}: {}", names(&vms), verdict(&vms));
        paragraph(&mut out, "", "", &text, look);
        out.push_str(&body);
    }
    out
}

/// VMs with the same body together, in the order of the first of each.
pub(super) fn grouped(
    vms: &[VmDocument],
    body: impl Fn(&VmDocument) -> String,
) -> Vec<(String, Vec<&VmDocument>)> {
    let mut groups: BTreeMap<String, Vec<&VmDocument>> = BTreeMap::new();
    for vm in vms {
        groups.entry(body(vm)).or_default().push(vm);
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(_, vms)| vms.first().map(|vm| vm.pid));
    groups
}

/// The VMs of a group.
pub(super) fn names(vms: &[&VmDocument]) -> String {
    let name = |vm: &&VmDocument| match &vm.name {
        Some(name) => format!("{name} (pid {})", vm.pid),
        None => format!("pid {}", vm.pid),
    };
    let named: Vec<String> = vms.iter().take(NAMED).map(name).collect();
    let more = match vms.len() - named.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{}{more}", named.join(", "))
}

/// Their headline.
pub(super) fn verdict(vms: &[&VmDocument]) -> String {
    let verdict = vms.first().map(|vm| {
        let h = &vm.headline;
        match h.outcome == h.cause {
            true => "it depends, see below".to_owned(),
            false => format!("{}, cause {}", h.outcome, h.cause),
        }
    });
    verdict.unwrap_or_default()
}

const NOT_KNOWN: &str = "not known";

fn yes(value: Option<bool>) -> &'static str {
    match value {
        Some(true) => "yes",
        Some(false) => "no",
        None => NOT_KNOWN,
    }
}

const fn switch(value: Option<bool>) -> &'static str {
    match value {
        Some(true) => "1",
        Some(false) => "0",
        None => NOT_KNOWN,
    }
}

const fn vendor(vendor: Option<McVendor>) -> &'static str {
    match vendor {
        Some(McVendor::Amd) => "AMD",
        Some(McVendor::Intel) => "Intel",
        Some(McVendor::Other) | None => "unknown",
    }
}

pub(super) fn host(facts: &HostDocument, document: &Document) -> Vec<(&'static str, String)> {
    let number = |n: Option<u64>| n.map_or_else(|| NOT_KNOWN.to_owned(), |n| n.to_string());
    let kernel = document
        .host
        .kernel
        .as_deref()
        .unwrap_or("of a version not known");
    let mut lines = vec![
        (
            "host",
            format!(
                "{}, Linux {kernel}; {} processor, recovers from consumed errors: {}",
                document.host.hostname.as_deref().unwrap_or("of a name not known"),
                vendor(facts.processor_vendor),
                yes(facts.processor_recovers)
            ),
        ),
        (
            "settings",
            format!(
                "memory_failure_recovery {}, memory_failure_early_kill {}, panic_on_unrecoverable_memory_failure {}",
                switch(facts.recovery),
                switch(facts.early_kill),
                switch(facts.panic_on_unrecoverable)
            ),
        ),
        (
            "errors",
            format!(
                "EDAC memory controllers {}, firmware first {}, poisoned already {}",
                number(facts.edac_controllers.map(u64::from)),
                yes(facts.firmware_first),
                facts
                    .hardware_corrupted_bytes
                    .map_or_else(|| NOT_KNOWN.to_owned(), |bytes| size(Some(bytes)))
            ),
        ),
    ];
    let unknown: Vec<String> = facts
        .unknown
        .iter()
        .map(|absent| format!("{}: {}", words::fact(&absent.fact), absent.message))
        .collect();
    if !unknown.is_empty() {
        lines.push(("unknown", unknown.join("; ")));
    }
    lines
}

fn body(vm: &VmDocument, look: Look) -> String {
    let mut out = String::new();
    fact(&mut out, "vmm", &vmm(vm), look);
    fact(&mut out, "memory", &memory(vm), look);
    fact(&mut out, "vcpus", &vcpus(vm), look);
    for entry in vm.forecasts.iter().filter(|entry| entry.possible) {
        answer(&mut out, entry, look);
    }
    for (n, step) in next_steps(vm).iter().enumerate() {
        let name = if n == 0 { "next steps" } else { "" };
        fact_with(&mut out, name, "- ", step, look);
    }
    out
}

/// The VMM, and what SIGBUS does to it.
pub(super) fn vmm(vm: &VmDocument) -> String {
    let version = vm.qemu_version.as_ref();
    let version = version.map(|version| format!(" {version}")).unwrap_or_default();
    let sigbus = vm
        .sigbus
        .map_or("what it does with SIGBUS is not known", words::sigbus);
    format!("{}{version}; {sigbus}", words::vmm_kind(vm.vmm_kind))
}

/// What to change, of all answers, each once.
pub(super) fn next_steps(vm: &VmDocument) -> Vec<&str> {
    let mut steps: Vec<&str> = Vec::new();
    for step in vm.forecasts.iter().flat_map(|entry| {
        let cases = entry.cases.iter().flat_map(|case| &case.next_steps);
        entry.next_steps.iter().chain(cases)
    }) {
        if !steps.contains(&step.as_str()) {
            steps.push(step);
        }
    }
    steps
}

pub(super) fn memory(vm: &VmDocument) -> String {
    let Some(b) = &vm.backing else {
        return NOT_KNOWN.to_owned();
    };
    let mut parts = Vec::new();
    if b.hugetlb_bytes > 0 {
        let page = b
            .hugetlb_page_bytes
            .map(|page| format!(" in pages of {}", size(Some(page))));
        parts.push(format!("hugetlbfs{}", page.unwrap_or_default()));
    }
    if b.hugetlb_bytes == 0 {
        parts.push("4 KiB and transparent huge pages".to_owned());
    }
    for (is, name) in [
        (b.dax, "DAX device"),
        (b.guest_memfd, "private memory (guest_memfd)"),
        (b.vfio, "pinned by VFIO"),
    ] {
        if is {
            parts.push(name.to_owned());
        }
    }
    if let Some(first) = b.shared_with_pids.first() {
        let more = b.shared_with_pids.len() - 1;
        let more = if more == 0 {
            String::new()
        } else {
            format!(" and {more} more")
        };
        parts.push(format!("a file of it also mapped by the VM of pid {first}{more}"));
    }
    parts.join("; ")
}

pub(super) fn vcpus(vm: &VmDocument) -> String {
    let count = vm
        .vcpu_count
        .map_or_else(|| "a number not known".to_owned(), |n| n.to_string());
    let Some(vcpus) = &vm.vcpus else {
        return format!("{count}; their machine checks are not known");
    };
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for vcpu in vcpus {
        let mut text = vendor(vcpu.vendor).to_owned();
        if vcpu.vendor == Some(McVendor::Amd) {
            text.push_str(&format!(
                ", SUCCOR {}, overflow recovery {}",
                yes(vcpu.succor),
                yes(vcpu.overflow_recovery)
            ));
        }
        let cap = vcpu
            .mcg_cap
            .map_or_else(|| NOT_KNOWN.to_owned(), |cap| cap.to_string());
        text.push_str(&format!(
            ", MCG_CAP {cap}, machine checks on: {}",
            yes(vcpu.machine_checks_on)
        ));
        if vcpu.mcg_status.is_some_and(|status| status.0 & 1 << 2 != 0) {
            text.push_str(", a machine check in progress");
        }
        for bank in &vcpu.held_banks {
            text.push_str(&format!(", bank {} holds {}", bank.bank, bank.status));
        }
        *kinds.entry(text).or_default() += 1;
    }
    let kinds: Vec<String> = kinds
        .into_iter()
        .map(|(text, n)| format!("{n}: {text}"))
        .collect();
    kinds.join("; ")
}

fn answer(out: &mut String, entry: &Entry, look: Look) {
    let page = match entry.page {
        Page::GuestProcess => "process",
        Page::GuestKernel => "kernel",
        Page::Untouched => "untouched",
    };
    let notice = match entry.notice {
        Notice::ActionOptional => "found",
        Notice::ActionRequired => "consumed",
    };
    let name = format!("{page}, {notice}");
    let because = |basis: &[super::Worded]| {
        let all: Vec<&str> = basis.iter().map(|b| b.message.as_str()).collect();
        match all.is_empty() {
            true => String::new(),
            false => format!(": {}", all.join("; ")),
        }
    };
    let first = match (entry.outcome, entry.cause) {
        (Some(outcome), Some(cause)) => format!("{outcome}, cause {cause}{}", because(&entry.basis)),
        _ if !entry.unknowable.is_empty() => format!("cannot be known{}", because(&entry.unknowable)),
        _ => "it depends:".to_owned(),
    };
    let mut lines = vec![first];
    for case in &entry.cases {
        let when: Vec<&str> = case.when.iter().map(|c| c.message.as_str()).collect();
        lines.push(format!(
            "- {}: {}, cause {}",
            when.join(", "),
            case.outcome,
            case.cause
        ));
    }
    for (n, line) in lines.iter().enumerate() {
        let first = if n == 0 {
            format!("  {name:<ANSWER$}  ")
        } else {
            " ".repeat(ANSWER + 4)
        };
        paragraph(out, &first, &" ".repeat(ANSWER + 6), line, look);
    }
}

fn fact(out: &mut String, name: &str, value: &str, look: Look) {
    fact_with(out, name, "", value, look);
}

fn fact_with(out: &mut String, name: &str, mark: &str, value: &str, look: Look) {
    let first = format!("  {name:<NAMES$}{mark}");
    let rest = " ".repeat(NAMES + 2 + mark.len());
    paragraph(out, &first, &rest, value, look);
}

fn paragraph(out: &mut String, first: &str, rest: &str, text: &str, look: Look) {
    let options = textwrap::Options::new(look.width)
        .initial_indent(first)
        .subsequent_indent(rest)
        .word_splitter(textwrap::WordSplitter::NoHyphenation);
    out.push_str(&textwrap::fill(text, options));
    out.push('\n');
}
