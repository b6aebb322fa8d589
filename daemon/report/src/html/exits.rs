//! The exits: their plot, their lines, their latencies.

use maud::{Markup, PreEscaped, html};

use crate::{count, document::Incident, duration, latency, lines, many, origin::page_walks, plots};

pub fn section(i: &Incident) -> Markup {
    let x = &i.exits;
    html! {
        section {
            h2 { @if i.storm.is_some() { "The storm" } @else { "Exits on the page" } }
            p {
                @match x.count {
                    None => "Whether the guest left to the host on this page is not known: no probe that would have shown it was there.",
                    Some(0) => "The guest did not touch the page: no VM exit on it was seen.",
                    Some(_) => {
                        (many(x.count, "exit")) " on " (many(x.distinct_lines, "line")) " by "
                        (many(x.distinct_rips, "RIP")) ": " (many(x.by_access.read, "read")) ", "
                        (many(x.by_access.write, "write")) ", " (many(x.by_access.fetch, "fetch")) (page_walks(&x.by_access)) "."
                    }
                }
                @if let Some(storm) = &i.storm {
                    " As a whole: " strong { (storm.kind) }
                    @if let Some(spin) = storm.spin { " (" (spin) ")" }
                    @if let Some(ns) = storm.duration_ns { ", in " (duration(ns)) }
                    "."
                }
            }
            (plot(i))
            (cells(i))
            @if x.count.is_none_or(|count| count > 0) {
                p {
                    "Flush: " strong { (i.flush.verdict) } ", by " (i.flush.basis)
                    @if let Some(confidence) = i.flush.confidence { ", " (confidence) }
                    "."
                    @if let Some(instruction) = &i.flush.instruction { " " code { (instruction) } }
                }
            }
        }
    }
}

fn plot(i: &Incident) -> Markup {
    let Some(plot) = plots::storm(&i.exit_samples) else {
        return html! {};
    };
    let all = i.exits.count == Some(plot.points as u64);
    html! {
        figure {
            div role="img" aria-label={ "Time of " (plot.points) " exits against the " (plot.of) } {
                (PreEscaped(plot.svg))
            }
            figcaption {
                @if all { "Every exit" } @else { (plot.points) " of " (count(i.exits.count)) " exits: the first, then ever fewer" }
                ": when, and on which " (plot.of) ". A walk of the page, as by CLFLUSH, is a diagonal."
                @if plot.logarithmic { " The time is logarithmic." }
                @if let Some((coloured, scale)) = plot.scale {
                    @let steps = scale.steps();
                    span.legend {
                        "Time " (coloured) ": "
                        @for (step, ns) in steps.iter().enumerate() {
                            span.key { i class={ "s" (step) } {} @if steps.len() == 1 { (duration(*ns)) } @else { "from " (duration(*ns)) } }
                        }
                    }
                }
            }
        }
    }
}

fn cells(i: &Incident) -> Markup {
    let Some(touched) = lines::touched(&i.exits) else {
        return html! {};
    };
    html! {
        figure {
            div.cells role="img" aria-label={ (count(i.exits.distinct_lines)) " lines touched" } {
                @for (line, touched) in touched.enumerate() {
                    i.touched[touched] title={ "line " (line) } {}
                }
            }
            figcaption { "The " (lines::of_what(i)) ", 0 to 63: touched ones are filled." }
        }
    }
}

pub fn latency(i: &Incident) -> Markup {
    let l = &i.latency_ns;
    let rows = latency::rows(l);
    html! {
        @if !rows.is_empty() {
            section {
                h2 { "Latency" }
                div.wide { table.numbers {
                    thead { tr { th { } th { "exits" } th { "p50" } th { "p99" } th { "max" } th { "sum" } } }
                    @for (name, d) in &rows {
                        tr {
                            th scope="row" { (name) } td { (d.count) } td { (duration(d.p50)) } td { (duration(d.p99)) }
                            td { (duration(d.max)) } td { (duration(d.sum)) }
                        }
                    }
                } }
                @for sentence in latency::words(l) { p { (sentence) } }
                @if let Some(svg) = plots::histograms(&rows) {
                    figure {
                        div role="img" aria-label="Histograms of the latencies" { (PreEscaped(svg)) }
                        figcaption {
                            "How many exits took how long. The lines: 50 µs, claimed for 63 exits in 2020, and the 63rd part of it, an exit's share."
                        }
                    }
                }
            }
        }
    }
}
