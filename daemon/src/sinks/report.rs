//! The report: one screen of text that can be pasted into a ticket. The sentence first.

use std::fmt::Write as _;

use crate::{
    host::Host,
    incident::model::{Distribution, Incident, Latency, Told},
};

/// Moments of the timeline that one screen holds; the JSON has them all.
const MAX_MOMENTS: usize = 14;
const MAX_TOLD: usize = 4;
/// The screen's width, characters.
const WIDTH: usize = 100;

/// One incident as text.
pub fn text(host: &Host, incident: &Incident) -> String {
    let mut out = String::new();
    write(&mut out, host, incident);
    out
}

fn write(out: &mut String, host: &Host, i: &Incident) {
    paragraph(out, "", &i.sentence);
    line(out, "");
    line(
        out,
        &format!(
            "  verdict     {}, cause {} ({})",
            i.outcome, i.cause, i.confidence
        ),
    );
    line(
        out,
        &format!("  incident    {}   began {}", i.id, or(i.started_at.as_deref())),
    );
    let emulated = match host.emulated {
        Some(true) => "   EMULATED: times say nothing about hardware",
        _ => "",
    };
    line(
        out,
        &format!(
            "  host        {}, Linux {}{emulated}",
            or(host.hostname.as_deref()),
            or(host.kernel.as_deref())
        ),
    );
    line(
        out,
        &format!(
            "  guest       {} (uuid {}), {} pid {}",
            or(i.vm.name.as_deref()),
            or(i.vm.uuid.as_deref()),
            or(i.vm.vmm.as_deref()),
            i.vm.pid.map_or_else(|| "?".to_owned(), |pid| pid.to_string())
        ),
    );
    line(
        out,
        &format!(
            "  host page   pfn {}, hva {}, {}: {}: {}",
            hex(i.page.pfn),
            hex(i.page.hva),
            size(i.page.size_bytes),
            or(i.page.kind.as_deref()),
            or(i.page.recovery.as_deref())
        ),
    );
    line(out, &format!("  guest page  gpa {}{}", hex(i.page.gpa), gpas(i)));
    line(
        out,
        &format!(
            "  signals     SIGBUS to the VMM: {} action optional, {} action required",
            count(i.signals.action_optional),
            count(i.signals.action_required)
        ),
    );
    told(out, i);
    exits(out, i);
    timeline(out, i);
    list(out, "missing", &i.missing);
    list(out, "what to do", &i.advice);
}

fn gpas(i: &Incident) -> String {
    if i.page.gpas.len() > 1 {
        format!(" and {} more 4 KiB pages touched", i.page.gpas.len() - 1)
    } else {
        String::new()
    }
}

fn told(out: &mut String, i: &Incident) {
    let n = &i.injections;
    line(
        out,
        &format!(
            "  guest told  {} action optional, {} action required; #MC entered the guest {} on {}",
            count(n.action_optional),
            count(n.action_required),
            many(n.delivered, "time"),
            many(n.vcpus, "vCPU")
        ),
    );
    for told in n.told.iter().take(MAX_TOLD) {
        line(out, &format!("    {}", one_told(told)));
    }
    if n.told.len() > MAX_TOLD {
        line(out, &format!("    … and {} more", n.told.len() - MAX_TOLD));
    }
}

fn one_told(t: &Told) -> String {
    let vcpu = t
        .vcpu
        .map_or_else(|| "vCPU ?".to_owned(), |vcpu| format!("vCPU {vcpu}"));
    let bank = t.bank.map_or_else(|| "?".to_owned(), |bank| bank.to_string());
    let overflow = if t.overflow == Some(true) { " OVERFLOW" } else { "" };
    format!(
        "{:>12} {vcpu} {} bank {bank} STATUS {} ADDR {} MISC {} MCG {}{overflow}",
        offset(t.t_ns),
        t.severity,
        hex(t.status),
        hex(t.addr),
        hex(t.misc),
        hex(t.mcg_status)
    )
}

fn exits(out: &mut String, i: &Incident) {
    let x = &i.exits;
    line(
        out,
        &format!(
            "  exits       {} on this page: {} of 64, {}; {}, {}, {}",
            count(x.count),
            many(x.distinct_lines, "line"),
            many(x.distinct_rips, "RIP"),
            many(x.by_access.read, "read"),
            many(x.by_access.write, "write"),
            many(x.by_access.fetch, "fetch"),
        ),
    );
    let instruction = i
        .flush
        .instruction
        .as_ref()
        .map(|text| format!(": {text}"))
        .unwrap_or_default();
    let confidence = i.flush.confidence.map(|c| format!(", {c}")).unwrap_or_default();
    line(
        out,
        &format!(
            "  flush       {} (by {}{confidence}){instruction}",
            i.flush.verdict, i.flush.basis
        ),
    );
    if let Some(storm) = &i.storm {
        let spin = storm.spin.map(|spin| format!(", {spin}")).unwrap_or_default();
        let took = storm
            .duration_ns
            .map(|ns| format!(" in {}", duration(ns)))
            .unwrap_or_default();
        line(
            out,
            &format!(
                "  storm       {}{spin}: {} over {}{took}",
                storm.kind,
                many(Some(storm.exits), "exit"),
                many(Some(storm.lines), "line")
            ),
        );
    }
    let l = &i.latency_ns;
    let rows = [
        ("exit to entry", &l.exit_to_entry),
        ("in kernel", &l.in_kernel),
        ("gup", &l.gup),
        ("in the VMM", &l.vmm),
    ];
    if rows.iter().all(|(_, d)| d.is_none()) {
        return;
    }
    line(
        out,
        &format!(
            "  latency     {:<14}{:>7}{:>12}{:>12}{:>12}{:>12}",
            "", "exits", "p50", "p99", "max", "sum"
        ),
    );
    for (name, distribution) in rows {
        if let Some(d) = distribution {
            line(out, &format!("              {name:<14}{}", latency_row(d)));
        }
    }
    if let Some(floor) = &l.floor {
        line(
            out,
            &format!(
                "              {:<14}{}",
                "bare exit",
                latency_row(&floor.exit_to_entry)
            ),
        );
    }
    shares(out, l);
    claim(out, l);
}

fn shares(out: &mut String, l: &Latency) {
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    if let (Some(kernel), Some(vmm)) = (l.in_kernel_share, l.vmm_share) {
        line(
            out,
            &format!(
                "              of exit to entry the kernel has {}, the VMM {}",
                percent(kernel),
                percent(vmm)
            ),
        );
    }
    if let Some(share) = l.gup_share {
        let basis = l.gup_basis.map_or("?", |basis| basis.word());
        line(
            out,
            &format!(
                "              the host-side gup is {} of the time in the kernel ({basis})",
                percent(share)
            ),
        );
    }
}

fn claim(out: &mut String, l: &Latency) {
    let Some(claim) = &l.claim_63_exits else { return };
    let with = claim
        .with_vmm_ns
        .map_or_else(String::new, |ns| format!(" ({} with the VMM)", duration(ns)));
    let holds = if claim.within_50us { "within" } else { "over" };
    line(
        out,
        &format!(
            "              63 such exits take {}{with}: {holds} the 50 µs claimed on LKML in 2020",
            duration(claim.in_kernel_ns)
        ),
    );
    if let (Some(ns), Some(floor)) = (claim.floor_ns, &l.floor) {
        line(
            out,
            &format!(
                "              63 bare exits ({}, no memory touched) take {} on this host",
                floor.exits_of,
                duration(ns)
            ),
        );
    }
}

fn latency_row(d: &Distribution) -> String {
    format!(
        "{:>7}{:>12}{:>12}{:>12}{:>12}",
        d.count,
        duration(d.p50),
        duration(d.p99),
        duration(d.max),
        duration(d.sum)
    )
}

fn timeline(out: &mut String, i: &Incident) {
    line(
        out,
        match i.page.pfn {
            Some(_) => "  timeline    (from the poisoning)",
            None => "  timeline    (from the first sign; the poisoning itself was not seen)",
        },
    );
    let moments = &i.timeline;
    let skipped = moments.len().saturating_sub(MAX_MOMENTS);
    for (n, moment) in moments.iter().enumerate() {
        // The beginning tells how it came, the end what became of it.
        let from_end = moments.len() - n;
        if skipped > 0 && n >= MAX_MOMENTS / 2 && from_end > MAX_MOMENTS - MAX_MOMENTS / 2 {
            if n == MAX_MOMENTS / 2 {
                line(
                    out,
                    &format!(
                        "    {:>12} … {skipped} moments are left out here; --format json has them",
                        ""
                    ),
                );
            }
            continue;
        }
        let lead = format!("    {:>12} ", offset(moment.t_ns));
        paragraph(out, &lead, &moment.event);
    }
}

fn list(out: &mut String, name: &str, items: &[String]) {
    for (n, item) in items.iter().enumerate() {
        let lead = if n == 0 {
            format!("  {name:<11} - ")
        } else {
            format!("  {:<11} - ", "")
        };
        paragraph(out, &lead, item);
    }
}

fn line(out: &mut String, text: &str) {
    let _ = writeln!(out, "{}", text.trim_end());
}

/// Writes `text` after `lead`, broken at words, later lines indented as far.
fn paragraph(out: &mut String, lead: &str, text: &str) {
    let indent = " ".repeat(lead.chars().count());
    let mut current = lead.to_owned();
    let mut empty = true;
    for word in text.split(' ') {
        if !empty && current.chars().count() + 1 + word.chars().count() > WIDTH {
            line(out, &current);
            current = indent.clone();
            empty = true;
        }
        if !empty {
            current.push(' ');
        }
        current.push_str(word);
        empty = false;
    }
    line(out, &current);
}

fn or(text: Option<&str>) -> &str {
    text.unwrap_or("?")
}

fn hex(value: Option<crate::hex::Hex>) -> String {
    value.map_or_else(|| "?".to_owned(), |value| value.to_string())
}

fn count(value: Option<u64>) -> String {
    value.map_or_else(|| "?".to_owned(), |value| value.to_string())
}

/// `1 line`, `2 lines`, `2 fetches`.
fn many(value: Option<u64>, one: &str) -> String {
    let plural = match (value, one.ends_with("ch")) {
        (Some(1), _) => "",
        (_, true) => "es",
        (_, false) => "s",
    };
    format!("{} {one}{plural}", count(value))
}

fn size(bytes: Option<u64>) -> String {
    match bytes {
        Some(bytes) if bytes >= 1 << 30 => format!("{} GiB", bytes >> 30),
        Some(bytes) if bytes >= 1 << 20 => format!("{} MiB", bytes >> 20),
        Some(bytes) => format!("{} KiB", bytes >> 10),
        None => "size ?".to_owned(),
    }
}

/// Nanoseconds in the unit that a person reads.
pub fn duration(ns: u64) -> String {
    match ns {
        0..10_000 => format!("{ns} ns"),
        10_000..10_000_000 => format!("{:.1} µs", ns as f64 / 1e3),
        10_000_000..10_000_000_000 => format!("{:.1} ms", ns as f64 / 1e6),
        _ => format!("{:.1} s", ns as f64 / 1e9),
    }
}

fn offset(ns: i64) -> String {
    let sign = if ns < 0 { '-' } else { '+' };
    format!("{sign}{:.6} s", ns.unsigned_abs() as f64 / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_in_the_unit_that_a_person_reads() {
        assert_eq!(duration(790), "790 ns");
        assert_eq!(duration(49_770), "49.8 µs");
        assert_eq!(duration(12_000_000), "12.0 ms");
        assert_eq!(offset(-1_500), "-0.000002 s");
    }

    #[test]
    fn long_text_is_broken_at_words_and_stays_within_the_screen() {
        let mut out = String::new();
        paragraph(&mut out, "  lead ", &"word ".repeat(60));
        assert!(out.lines().all(|line| line.chars().count() <= WIDTH), "{out}");
        assert!(
            out.lines().skip(1).all(|line| line.starts_with("       word")),
            "{out}"
        );
    }
}
