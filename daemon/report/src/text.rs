//! One screen of text that can be pasted into a ticket. The sentence first.

use std::collections::{BTreeMap, BTreeSet};

use console::{Style, StyledObject};

use super::document::{Answer, Incident, Missing, TimelineEntry};
use super::{
    at, count, duration, hex, latency, lines, many, or,
    origin::{origin, page_walks},
    size,
};
use poisontrace_model::{
    host::Host,
    incident::model::{Confidence, Distribution, FlushBasis, InjectionEvent, OriginKind, Outcome},
};

/// Entries of the timeline that one screen holds, with as many between that occur once; the JSON has them all.
const MAX_ENTRIES: usize = 14;
/// Kinds that occur more often are shown at the beginning and at the end only.
const MAX_AGAIN: usize = 4;
const MAX_INJECTIONS: usize = 4;
/// Columns of the names on the left.
const NAMES: usize = 14;

/// Whom the text is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Columns.
    pub width: usize,
    /// Colour is wanted.
    pub colour: bool,
}

impl Look {
    /// For a file, a pipe, a ticket.
    pub const PLAIN: Self = Self {
        width: 100,
        colour: false,
    };

    /// For standard output as it is now: a terminal's own width within reason, colours unless NO_COLOR is set.
    pub fn of_stdout() -> Self {
        let terminal = console::Term::stdout();
        if !terminal.is_term() {
            return Self::PLAIN;
        }
        // A terminal without a size (a serial line, script(1)) is still one.
        let columns = terminal.size_checked().map(|(_, columns)| usize::from(columns));
        Self {
            width: columns.map_or(Self::PLAIN.width, |columns| columns.clamp(80, 120)),
            colour: console::colors_enabled(),
        }
    }
}

/// One incident as text.
pub fn text(host: &Host, incident: &Incident, look: Look) -> String {
    let mut page = Page {
        out: String::new(),
        look,
    };
    page.incident(host, incident);
    page.out
}

/// That there is no incident of a VM. That nothing is poison is claimed only of files whose lines are whole (`cut`: some
/// look cut).
pub fn no_incident(answer: &Answer, cut: bool) -> &'static str {
    match (answer.host_events.is_empty(), cut) {
        (false, _) => "no incident of a VM; what the host lost besides:",
        (true, true) => "no incident was recognised, but lines look cut or wrapped",
        (true, false) => "no incident: nothing in these files is poison in a guest's memory",
    }
}

struct Page {
    out: String,
    look: Look,
}

impl Page {
    fn incident(&mut self, host: &Host, i: &Incident) {
        let bold = Style::new().bold();
        self.paragraph("", "", &i.summary, &bold);
        self.out.push('\n');
        let verdict = format!(
            "{}, cause {} ({})",
            self.style(&of_outcome(i.outcome), i.outcome),
            self.style(&bold, i.cause),
            self.style(&of_confidence(i.confidence), i.confidence)
        );
        self.fact("verdict", &verdict);
        let began = or(i.started_at.as_deref());
        self.fact("incident", &format!("{}   began {began}", i.id));
        let emulated = match host.emulated {
            Some(true) => format!(
                "   {}",
                self.style(
                    &Style::new().yellow(),
                    "EMULATED: times say nothing about hardware"
                )
            ),
            _ => String::new(),
        };
        let (name, kernel) = (or(host.hostname.as_deref()), or(host.kernel.as_deref()));
        if host.hostname.is_some() || host.kernel.is_some() || host.emulated == Some(true) {
            self.fact("host", &format!("{name}, Linux {kernel}{emulated}"));
        }
        let vm = &i.vm;
        let known = vm.name.is_some() || vm.uuid.is_some() || vm.vmm.is_some() || vm.pid.is_some();
        self.fact_if(
            known,
            "guest",
            &format!(
                "{} (uuid {}), {} pid {}",
                or(i.vm.name.as_deref()),
                or(i.vm.uuid.as_deref()),
                or(i.vm.vmm.as_deref()),
                count(i.vm.pid.map(u64::from))
            ),
        );
        let page = &i.page;
        let known = page.pfn.is_some() || page.hva.is_some() || page.kind.is_some();
        self.fact_if(
            known,
            "host page",
            &format!(
                "pfn {}, hva {}, {}: {}: {}",
                hex(i.page.pfn),
                hex(i.page.hva),
                size(i.page.size_bytes),
                or(i.page.kind.as_deref()),
                or(i.page.action_result.as_deref())
            ),
        );
        self.fact_if(
            !matches!(i.origin.how, OriginKind::Claimed | OriginKind::Unknown) || i.origin.dimm.is_some(),
            "origin",
            &origin(&i.origin),
        );
        let more = match i.page.gpas.len() {
            0 | 1 => String::new(),
            n => format!(" and {} more 4 KiB pages touched", n - 1),
        };
        self.fact_if(
            i.page.gpa.is_some(),
            "guest page",
            &format!("gpa {}{more}", hex(i.page.gpa)),
        );
        let known = i.signals.action_optional.is_some() || i.signals.action_required.is_some();
        self.fact_if(
            known,
            "signals",
            &format!(
                "SIGBUS to the VMM: {} action optional, {} action required",
                count(i.signals.action_optional),
                count(i.signals.action_required)
            ),
        );
        self.injections(i);
        self.exits(i);
        self.latency(i);
        self.timeline(i);
        let missing: Vec<&str> = i
            .missing
            .iter()
            .map(|Missing { message, .. }| message.as_str())
            .collect();
        self.joins(i);
        self.why(i);
        self.list("missing", &missing);
        let next_steps: Vec<&str> = i.next_steps.iter().map(String::as_str).collect();
        self.list("next steps", &next_steps);
    }

    fn injections(&mut self, i: &Incident) {
        let n = &i.injections;
        let counted = [n.action_optional, n.action_required, n.delivered, n.vcpus];
        self.fact_if(
            counted.iter().any(Option::is_some),
            "injected",
            &format!(
                "{} action optional, {} action required; #MC entered the guest {} on {}",
                count(n.action_optional),
                count(n.action_required),
                many(n.delivered, "time"),
                many(n.vcpus, "vCPU")
            ),
        );
        for injection in n.events.iter().take(MAX_INJECTIONS) {
            let text = self.one_injection(injection);
            self.entry(injection.t_ns, &text);
        }
        if n.events.len() > MAX_INJECTIONS {
            let more = format!("… and {} more", n.events.len() - MAX_INJECTIONS);
            self.paragraph("    ", "    ", &more, &Style::new());
        }
    }

    fn one_injection(&self, t: &InjectionEvent) -> String {
        let overflow = match t.overflow {
            Some(true) => format!(" {}", self.style(&Style::new().red(), "OVERFLOW")),
            _ => String::new(),
        };
        format!(
            "vCPU {} {} bank {} STATUS {} ADDR {} MISC {} MCG {}{overflow}",
            count(t.vcpu.map(u64::from)),
            t.severity,
            count(t.bank.map(u64::from)),
            hex(t.status),
            hex(t.addr),
            hex(t.misc),
            hex(t.mcg_status)
        )
    }

    fn exits(&mut self, i: &Incident) {
        let x = &i.exits;
        self.fact_if(
            x.count.is_some(),
            "exits",
            &format!(
                "{} on this page: {} of 64, {}; {}, {}, {}{}",
                count(x.count),
                many(x.distinct_lines, "line"),
                many(x.distinct_rips, "RIP"),
                many(x.by_access.read, "read"),
                many(x.by_access.write, "write"),
                many(x.by_access.fetch, "fetch"),
                page_walks(&x.by_access),
            ),
        );
        if let Some(touched) = lines::touched(x) {
            let mut cells = String::new();
            for (line, touched) in touched.enumerate() {
                // A gap at the half: lines are counted by eye.
                if line == 32 {
                    cells.push(' ');
                }
                cells.push(if touched { '█' } else { '·' });
            }
            let cells = self.style(&Style::new().red(), cells).to_string();
            self.fact("lines", &cells);
        }
        let instruction = i.flush.instruction.as_deref().map(|text| format!(": {text}"));
        let confidence = i.flush.confidence.map(|c| format!(", {c}"));
        self.fact_if(
            x.count.is_some() || i.flush.basis != FlushBasis::None,
            "flush",
            &format!(
                "{} (by {}{}){}",
                i.flush.verdict,
                i.flush.basis,
                confidence.unwrap_or_default(),
                instruction.unwrap_or_default()
            ),
        );
        if let Some(storm) = &i.storm {
            let spin = storm.spin.map(|spin| format!(", {spin}")).unwrap_or_default();
            let took = storm.duration_ns.map(|ns| format!(" in {}", duration(ns)));
            let whole = storm.missing_lines.is_none() && storm.unknown_addresses.is_none();
            let holes = storm.confidence.filter(|_| !whole);
            let holes = holes.map(|sure| format!(" with holes ({sure})"));
            let text = format!(
                "{}{}{spin}: {} over {}{}",
                storm.kind,
                holes.unwrap_or_default(),
                many(Some(storm.exits), "exit"),
                many(Some(storm.lines), "line"),
                took.unwrap_or_default()
            );
            self.fact("storm", &text);
        }
    }

    /// By what the sources were joined.
    fn joins(&mut self, i: &Incident) {
        for (n, join) in i.joins.iter().enumerate() {
            let value = join
                .value
                .as_deref()
                .map(|value| format!(" {value}"))
                .unwrap_or_default();
            let line = join.line.map(|line| format!(":{line}")).unwrap_or_default();
            let name = if n == 0 { "joined by" } else { "" };
            self.fact(name, &format!("{}{value}  [{}{line}]", join.key, join.source));
        }
    }

    /// The statements that the answer rests on.
    fn why(&mut self, i: &Incident) {
        for (n, why) in i.why.iter().enumerate() {
            let line = why.line.map(|line| format!(":{line}")).unwrap_or_default();
            let joined = why.joined_by.as_deref().map(|key| format!(", joined by {key}"));
            let text = format!(
                "{}{line}  {}{}: {}  -> {}",
                why.source,
                why.speaker,
                joined.unwrap_or_default(),
                why.message,
                why.supports
            );
            let name = if n == 0 { "why" } else { "" };
            self.fact(name, &text);
            if !why.text.is_empty() {
                let lead = " ".repeat(NAMES + 2);
                self.paragraph(&lead, &lead, &why.text, &Style::new().dim());
            }
        }
    }

    fn latency(&mut self, i: &Incident) {
        let l = &i.latency_ns;
        let rows = latency::rows(l);
        if rows.is_empty() {
            return;
        }
        self.fact(
            "latency",
            &format!(
                "{:<14}{:>7}{:>11}{:>11}{:>11}{:>11}",
                "", "exits", "p50", "p99", "max", "sum"
            ),
        );
        for (name, distribution) in rows {
            self.fact("", &format!("{name:<14}{}", latency_row(distribution)));
        }
        for sentence in latency::words(l) {
            self.fact("", &sentence);
        }
    }

    fn timeline(&mut self, i: &Incident) {
        self.fact(
            "timeline",
            match i.page.pfn {
                Some(_) => "(from the poisoning)",
                None => "(from the first sign; the poisoning itself was not seen)",
            },
        );
        let entries = &i.timeline;
        let repeated = repeated(entries);
        // The beginning shows how it came, the end how it ended; between them what happened once.
        let last = entries.len().saturating_sub(MAX_ENTRIES - MAX_ENTRIES / 2);
        let (mut left_out, mut shown) = (0, 0);
        for (n, entry) in entries.iter().enumerate() {
            let between = (MAX_ENTRIES / 2..last).contains(&n);
            if between && (shown == MAX_ENTRIES || repeated.contains(entry.kind.as_str())) {
                left_out += 1;
                continue;
            }
            shown += usize::from(between);
            self.left_out(std::mem::take(&mut left_out));
            self.entry(entry.t_ns, &line(entry));
        }
        self.left_out(left_out);
    }

    fn left_out(&mut self, entries: usize) {
        if entries > 0 {
            let lead = " ".repeat(17);
            let words = format!("… {entries} entries are omitted; --format json has them");
            self.paragraph(&lead, &lead, &words, &Style::new().dim());
        }
    }

    fn entry(&mut self, t_ns: Option<i64>, text: &str) {
        let at = format!("    {:>12} ", at(t_ns));
        let rest = " ".repeat(at.len());
        let at = self.style(&Style::new().dim(), at).to_string();
        self.paragraph(&at, &rest, text, &Style::new());
    }

    fn list(&mut self, name: &str, items: &[&str]) {
        let rest = " ".repeat(NAMES + 2);
        for (n, item) in items.iter().enumerate() {
            let lead = format!("{}- ", self.name(if n == 0 { name } else { "" }));
            self.paragraph(&lead, &rest, item, &Style::new());
        }
    }

    /// What is known by a name.
    fn fact(&mut self, name: &str, text: &str) {
        let lead = self.name(name);
        self.paragraph(&lead, &" ".repeat(NAMES), text, &Style::new());
    }

    /// A fact, where anything of it is known.
    fn fact_if(&mut self, known: bool, name: &str, text: &str) {
        if known {
            self.fact(name, text);
        }
    }

    fn name(&self, name: &str) -> String {
        let padded = format!("  {name:<12}");
        self.style(&Style::new().cyan(), padded).to_string()
    }

    fn style<D>(&self, style: &Style, what: D) -> StyledObject<D> {
        style.apply_to(what).force_styling(self.look.colour)
    }

    /// Writes `text` after `first`, broken at words, its other lines after `rest`.
    fn paragraph(&mut self, first: &str, rest: &str, text: &str, style: &Style) {
        let options = textwrap::Options::new(self.look.width)
            // Flags and names are pasted from here: they stay whole.
            .word_splitter(textwrap::WordSplitter::NoHyphenation)
            .initial_indent(first)
            .subsequent_indent(rest);
        for line in textwrap::wrap(text, options) {
            let line = self.style(style, line.trim_end()).to_string();
            self.out.push_str(&line);
            self.out.push('\n');
        }
    }
}

/// An entry with the file that it is read from.
fn line(entry: &TimelineEntry) -> String {
    match &entry.source {
        Some(source) => format!("[{source}] {}", entry.message),
        None => entry.message.clone(),
    }
}

/// Kinds of entries that occur again and again.
fn repeated(entries: &[TimelineEntry]) -> BTreeSet<&str> {
    let mut counts = BTreeMap::<&str, usize>::new();
    for entry in entries {
        *counts.entry(&entry.kind).or_default() += 1;
    }
    counts.retain(|_, count| *count > MAX_AGAIN);
    counts.into_keys().collect()
}

fn of_outcome(outcome: Outcome) -> Style {
    let style = Style::new().bold();
    match outcome {
        Outcome::GuestPanicked
        | Outcome::HostPanicked
        | Outcome::GuestReset
        | Outcome::VmmKilled
        | Outcome::VmmExited => style.red(),
        Outcome::Survived | Outcome::Unaffected => style.green(),
        Outcome::Running | Outcome::Unknown => style.yellow(),
    }
}

fn of_confidence(confidence: Confidence) -> Style {
    match confidence {
        Confidence::Certain => Style::new().green(),
        Confidence::Likely => Style::new(),
        Confidence::Possible => Style::new().yellow(),
    }
}

fn latency_row(d: &Distribution) -> String {
    format!(
        "{:>7}{:>11}{:>11}{:>11}{:>11}",
        d.count,
        duration(d.p50),
        duration(d.p99),
        duration(d.max),
        duration(d.sum)
    )
}
