//! One page that needs nothing else: no network, no script, readable on a phone and on paper, light and dark.
//! Whatever comes from outside is escaped by the template.

mod exits;
mod injections;
mod list;
mod story;

pub use list::{ListFilter, list, no_page};

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::document::{Incident, TimelineEntry};
use super::{at, container::container, count, hex, many, or, size, summary::name_guess};
use poisontrace_model::{host::Host, incident::model::Outcome};

/// The style sheet of every page, as it stands in it.
pub const STYLE: &str = include_str!("style.css");

/// Incidents on one page; the JSON has them all.
const MAX_INCIDENTS: usize = 200;
/// Entries shown at once at either end of a timeline.
const ENTRIES: usize = 8;

/// Incidents of one host as a page.
pub fn html(host: &Host, incidents: &[Incident]) -> String {
    let title = match incidents {
        [one] => one.summary.clone(),
        more => format!("poisontrace: {} incidents", more.len()),
    };
    let content = html! {
        @if incidents.len() != 1 { (contents(incidents)) }
        @for incident in incidents.iter().take(MAX_INCIDENTS) { (article(host, incident)) }
    };
    page(&title, host, &content)
}

/// A whole page of this content.
pub(crate) fn page(title: &str, host: &Host, content: &Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                // Even markup that got in could load nothing and run nothing.
                meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="referrer" content="no-referrer";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                (content)
                footer {
                    "poisontrace " (host.poisontrace_version) " · host " (or(host.hostname.as_deref()))
                    ", Linux " (or(host.kernel.as_deref()))
                }
            }
        }
    };
    page.into_string()
}

fn contents(incidents: &[Incident]) -> Markup {
    html! {
        header {
            @if incidents.is_empty() {
                h1 { "No incident: nothing here is poison in a guest's memory." }
            } @else {
                h1 { (incidents.len()) " incidents" }
                ol {
                    @for incident in incidents.iter().take(MAX_INCIDENTS) {
                        li { a href={ "#" (incident.id) } { (incident.summary) } }
                    }
                }
            }
            @if incidents.len() > MAX_INCIDENTS {
                p { "The first " (MAX_INCIDENTS) " are on this page; explain --format json has all, explain ID one." }
            }
        }
    }
}

fn article(host: &Host, i: &Incident) -> Markup {
    html! {
        article id=(i.id) {
            h1 { (i.summary) }
            p.verdict {
                span class={ "badge " (mood(i.outcome)) } { (i.outcome) }
                span.badge { "cause: " (i.cause) }
                span class={ "badge " (i.confidence) } { (i.confidence) }
            }
            @if host.emulated == Some(true) {
                p.warning { "This host is emulated: counts, order and shares mean something, times say nothing about hardware." }
            }
            (story::figure(i))
            @if !i.next_steps.is_empty() {
                section.steps { h2 { "Next steps" } ol { @for step in &i.next_steps { li { (step) } } } }
            }
            (facts(host, i))
            section { h2 { "Timeline" } (timeline(i)) }
            (exits::section(i))
            (exits::latency(i))
            (injections::section(i))
            section {
                h2 { "Missing evidence" }
                @if i.missing.is_empty() { p { "Nothing that would have changed the answer." } }
                ul { @for missing in &i.missing { li { (missing.message) } } }
            }
        }
    }
}

pub(crate) fn mood(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::GuestPanicked
        | Outcome::HostPanicked
        | Outcome::GuestReset
        | Outcome::VmmKilled
        | Outcome::VmmExited => "dead",
        Outcome::Survived | Outcome::Unaffected => "alive",
        Outcome::Running | Outcome::Unknown => "open",
    }
}

fn facts(host: &Host, i: &Incident) -> Markup {
    let (signals, injections) = (&i.signals, &i.injections);
    let rows: [(&str, Markup); 8] = [
        ("Incident", html! { code { (i.id) } }),
        ("Began", html! { (or(i.started_at.as_deref())) }),
        (
            "Host",
            html! { (or(host.hostname.as_deref())) ", Linux " (or(host.kernel.as_deref())) },
        ),
        (
            "Guest",
            html! {
                (or(i.vm.name.as_deref())) " "
                @if let Some(guess) = i.vm.name_guess { "(" (name_guess(guess)) ") " }
                small { "uuid " (or(i.vm.uuid.as_deref())) "; "
                (or(i.vm.vmm.as_deref())) " pid " (count(i.vm.pid.map(u64::from)))
                @if let Some(container) = container(&i.vm) { br; (container) } }
            },
        ),
        (
            "Host page",
            html! {
                "pfn " code { (hex(i.page.pfn)) } ", hva " code { (hex(i.page.hva)) } ", " (size(i.page.size_bytes))
                br; (or(i.page.kind.as_deref())) ": " (or(i.page.action_result.as_deref()))
            },
        ),
        (
            "Guest page",
            html! {
                "gpa " code { (hex(i.page.gpa)) }
                @if i.page.gpas.len() > 1 { " and " (i.page.gpas.len() - 1) " more 4 KiB page" @if i.page.gpas.len() > 2 { "s" } " touched" }
            },
        ),
        (
            "SIGBUS to the VMM",
            html! { (count(signals.action_optional)) " action optional, " (count(signals.action_required)) " action required" },
        ),
        (
            "Machine checks",
            html! {
                (count(injections.action_optional)) " action optional, " (count(injections.action_required))
                " action required; #MC entered the guest " (many(injections.delivered, "time")) " on "
                (many(injections.vcpus, "vCPU"))
            },
        ),
    ];
    html! {
        section {
            h2 { "Evidence" }
            dl { @for (name, value) in rows { div { dt { (name) } dd { (value) } } } }
        }
    }
}

fn timeline(i: &Incident) -> Markup {
    let entries = i.timeline.as_slice();
    let (first, rest) = entries.split_at(entries.len().min(ENTRIES));
    let (middle, last) = rest.split_at(rest.len().saturating_sub(ENTRIES));
    html! {
        p.note {
            @if i.page.pfn.is_some() { "From the poisoning." }
            @else { "From the first event; the poisoning itself was not seen." }
        }
        (table(first))
        @if !middle.is_empty() {
            details.between { summary { (middle.len()) " entries between" } (table(middle)) }
        }
        (table(last))
    }
}

fn table(entries: &[TimelineEntry]) -> Markup {
    html! {
        @if !entries.is_empty() {
            table.timeline {
                @for entry in entries {
                    tr {
                        th scope="row" { (at(entry.t_ns)) }
                        td { @if let Some(source) = &entry.source { "[" (source) "] " } (entry.message) }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
