//! What the guest was told, register by register and bit by bit.

use maud::{Markup, html};

use crate::{count, hex, offset};
use poisontrace_model::{
    hex::Hex,
    incident::{
        mca::fields::{self, Field},
        model::{Incident, Severity, Told, Via},
    },
};

/// Tellings decoded on the page; the JSON has them all.
const MAX_TOLD: usize = 16;
/// Of them, unfolded.
const UNFOLDED: usize = 4;

pub fn section(i: &Incident) -> Markup {
    let told = &i.injections.told;
    html! {
        section {
            h2 { "What the guest was told" }
            @if told.is_empty() {
                p {
                    @match i.injections.action_required {
                        None => "Not known: no probe that would have shown it was there.",
                        Some(_) => "Nothing: the VMM wrote no machine check for this page.",
                    }
                }
            }
            @for (n, told) in told.iter().take(MAX_TOLD).enumerate() {
                details open[n < UNFOLDED] {
                    summary { (headline(told)) }
                    (register("STATUS", told.status, fields::status))
                    (register("MCG_STATUS", told.mcg_status, fields::mcg_status))
                    (register("MISC", told.misc, fields::misc))
                    p { "ADDR " code { (hex(told.addr)) } }
                }
            }
            @if told.len() > MAX_TOLD { p { "… and " (told.len() - MAX_TOLD) " more; explain --format json has them." } }
        }
    }
}

fn headline(told: &Told) -> Markup {
    let severity = match told.severity {
        Severity::Ao => "action optional",
        Severity::Ar => "action required",
        Severity::Broadcast => "copy for the other vCPUs",
        Severity::Other => "other",
    };
    let via = match told.via {
        Via::SetMsrs => "KVM_SET_MSRS",
        Via::SetMce => "KVM_X86_SET_MCE",
        Via::Log => "a log",
    };
    html! {
        (offset(told.t_ns)) " · vCPU " (count(told.vcpu.map(u64::from))) " · bank " (count(told.bank.map(u64::from)))
        " · " strong { (severity) } " · by " (via)
        @if told.overflow == Some(true) { " · " strong.bad { "OVERFLOW" } }
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
