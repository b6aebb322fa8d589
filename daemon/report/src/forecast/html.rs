//! The forecast as one page, in the style of the incident's: VMs with the same facts and answers together.

use maud::{Markup, PreEscaped, html};

use super::{Document, Entry, VmDocument, Worded, text};
use crate::html::{mood, page};
use poisontrace_model::forecast::terms::{Notice, Page};

/// Groups on the page; the JSON has all VMs.
const MAX_GROUPS: usize = 200;

/// The document as a page.
pub fn html(document: &Document) -> String {
    let groups = text::grouped(&document.vms, |vm| body(vm).into_string());
    let more = groups.len().saturating_sub(MAX_GROUPS);
    let content = html! {
        header {
            h1 { (document.summary) }
            dl {
                @for (name, value) in text::host(&document.host_facts, document) {
                    div { dt { (capital(name)) } dd { (value) } }
                }
            }
            @for limit in &document.limits { p.note { (limit) } }
        }
        @for (body, vms) in groups.iter().take(MAX_GROUPS) {
            section {
                h2 { (text::names(vms)) }
                p.verdict { span class={ "badge " (of_headline(vms)) } { (text::verdict(vms)) } }
                (PreEscaped(body))
            }
        }
        @if more > 0 { p { "Of " (more) " more groups of VMs the answers are in --format json." } }
    };
    page(&document.summary, &document.host, &content)
}

fn capital(name: &str) -> String {
    let mut chars = name.chars();
    let first = chars.next().map(|c| c.to_ascii_uppercase());
    first.into_iter().chain(chars).collect()
}

fn of_headline(vms: &[&VmDocument]) -> &'static str {
    match vms.first().map(|vm| &vm.headline) {
        Some(headline) if headline.lost => "dead",
        Some(headline) if headline.outcome == headline.cause => "open",
        _ => "alive",
    }
}

fn body(vm: &VmDocument) -> Markup {
    let steps = text::next_steps(vm);
    let facts = [
        ("VMM", text::vmm(vm)),
        ("Memory", text::memory(vm)),
        ("vCPUs", text::vcpus(vm)),
    ];
    html! {
        @if !steps.is_empty() { h3 { "Next steps" } ol { @for step in steps { li { (step) } } } }
        dl { @for (name, value) in facts { div { dt { (name) } dd { (value) } } } }
        div.wide { table.answers {
            thead { tr { th { "Error in" } th { "Answer" } } }
            @for entry in vm.forecasts.iter().filter(|entry| entry.possible) {
                tr { th scope="row" { (place(entry)) } td { (answer(entry)) } }
            }
        } }
    }
}

fn place(entry: &Entry) -> Markup {
    let page = match entry.page {
        Page::GuestProcess => "memory of a process",
        Page::GuestKernel => "memory of its kernel",
        Page::Untouched => "an untouched page",
    };
    let notice = match entry.notice {
        Notice::ActionOptional => "found before use",
        Notice::ActionRequired => "consumed",
    };
    html! { (page) br; small { (notice) } }
}

fn answer(entry: &Entry) -> Markup {
    html! {
        @match (entry.outcome, entry.cause) {
            (Some(outcome), Some(cause)) => {
                span class={ "badge " (mood(outcome)) } { (outcome) } " cause " strong { (cause) }
                @if !entry.basis.is_empty() { ": " (joined(&entry.basis)) }
            }
            _ if !entry.unknowable.is_empty() => { "It cannot be known: " (joined(&entry.unknowable)) }
            _ => { "It depends:" }
        }
        @if !entry.cases.is_empty() {
            ul {
                @for case in &entry.cases {
                    li { (joined(&case.when)) ": " strong { (case.outcome) } ", cause " (case.cause) }
                }
            }
        }
    }
}

fn joined(words: &[Worded]) -> String {
    let all: Vec<&str> = words.iter().map(|worded| worded.message.as_str()).collect();
    all.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use poisontrace_model::{
        forecast::{
            facts::{HostFacts, Known, VmFacts},
            forecast,
            terms::{Reason, Sigbus, VmmKind},
        },
        host::Host,
    };

    fn page_of(name: &str) -> String {
        let host = HostFacts {
            early_kill: Known::Is(false),
            recovery: Known::Is(true),
            panic_on_unrecoverable: Known::Not(Reason::NotShown),
            edac_controllers: Known::Is(1),
            firmware_first: Known::Is(false),
            vendor: Known::Not(Reason::NotShown),
            recovers: Known::Is(true),
            svm: Known::Is(true),
            hardware_corrupted: Known::Is(0),
        };
        let vm = VmFacts {
            pid: 7,
            name: Some(name.to_owned()),
            uuid: None,
            vmm: Some("own-vmm".to_owned()),
            kind: VmmKind::Other,
            qemu: Known::Not(Reason::NotShown),
            sigbus: Known::Is(Sigbus::Default),
            backing: Known::Not(Reason::NotPermitted),
            vcpu_count: Known::Is(1),
            mce_off: None,
            vcpus: Known::Not(Reason::NoIterator),
        };
        let answer = forecast(&host, &vm);
        html(&super::super::document(
            Host::default(),
            &host,
            &[(vm, answer)],
            Vec::new(),
            0,
        ))
    }

    #[test]
    fn a_page_has_the_headline_and_each_answer() {
        let page = page_of("web");
        assert!(page.contains("web (pid 7)"), "{page}");
        assert!(page.contains("vmm_killed, cause sigbus_unhandled"), "{page}");
        assert!(page.contains("memory of its kernel"), "{page}");
        for loads in ["http:", "https:", "src=", "@import", "url(", "<link", "<script"] {
            assert!(!page.contains(loads), "{loads}");
        }
    }

    #[test]
    fn a_name_that_is_markup_is_shown_and_not_obeyed() {
        let page = page_of("<script>alert(1)</script>");
        assert!(!page.contains("<script"), "{page}");
        assert!(page.contains("&lt;script&gt;alert(1)"), "{page}");
    }
}
