//! Machine checks injected into the guest, register by register and bit by bit.

use maud::{Markup, html};

use crate::{
    at, count,
    document::Incident,
    hex,
    mca_fields::{self as fields, Field},
};
use poisontrace_model::{
    hex::Hex,
    incident::model::{InjectionEvent, Severity, Via},
};

/// Injections decoded on the page; the JSON has them all.
const MAX_INJECTIONS: usize = 16;
/// Of them, unfolded.
const UNFOLDED: usize = 4;

pub fn section(i: &Incident) -> Markup {
    let events = &i.injections.events;
    html! {
        section {
            h2 { "Machine checks injected into the guest" }
            @if events.is_empty() {
                p {
                    @match i.injections.action_required {
                        None => "Unknown: no probe that shows injections was attached.",
                        Some(_) => "None: the VMM injected no machine check for this page.",
                    }
                }
            }
            @for (n, injection) in events.iter().take(MAX_INJECTIONS).enumerate() {
                details open[n < UNFOLDED] {
                    summary { (headline(injection)) }
                    (register("STATUS", injection.status, fields::status))
                    (register("MCG_STATUS", injection.mcg_status, fields::mcg_status))
                    (register("MISC", injection.misc, fields::misc))
                    p { "ADDR " code { (hex(injection.addr)) } }
                }
            }
            @if events.len() > MAX_INJECTIONS { p { "… and " (events.len() - MAX_INJECTIONS) " more; explain --format json has them." } }
        }
    }
}

fn headline(injection: &InjectionEvent) -> Markup {
    let severity = match injection.severity {
        Severity::Ao => "action optional",
        Severity::Ar => "action required",
        Severity::Broadcast => "copy for the other vCPUs",
        Severity::Other => "other",
    };
    let via = match injection.via {
        Via::SetMsrs => "KVM_SET_MSRS",
        Via::SetMce => "KVM_X86_SET_MCE",
        Via::Log => "a log",
    };
    html! {
        (at(injection.t_ns)) " · vCPU " (count(injection.vcpu.map(u64::from))) " · bank " (count(injection.bank.map(u64::from)))
        " · " strong { (severity) } " · by " (via)
        @if injection.overflow == Some(true) { " · " strong.bad { "OVERFLOW" } }
    }
}

fn register(name: &str, value: Option<Hex>, fields: fn(u64) -> Vec<Field>) -> Markup {
    let Some(value) = value else {
        return html! { p { (name) " is not known." } };
    };
    html! {
        table.register {
            caption { (name) " " code { (value) } }
            thead { tr { th { "bit" } th { "name" } th { "value" } th { "meaning" } } }
            @for field in fields(value.0) {
                tr.clear[field.is_flag() && field.value == 0] {
                    td {
                        @if field.is_flag() { (field.bits.0) } @else { (field.bits.0) "–" (field.bits.1) }
                    }
                    th scope="row" { (field.name) }
                    td { @if field.is_flag() { (field.value) } @else { (Hex(field.value)) } }
                    td { (field.meaning) }
                }
            }
        }
    }
}
