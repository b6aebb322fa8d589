//! One screen of text that can be pasted into a ticket. The sentence first.

use std::collections::{BTreeMap, BTreeSet};

use console::{Style, StyledObject};

use super::{count, duration, hex, latency, lines, many, offset, or, size};
use poisontrace_model::{
    host::Host,
    incident::model::{Confidence, Distribution, Incident, Moment, Outcome, Told},
};

/// Moments of the timeline that one screen holds, with as many between that came once; the JSON has them all.
const MAX_MOMENTS: usize = 14;
/// What comes more often is told at the beginning and at the end only.
const MAX_AGAIN: usize = 4;
const MAX_TOLD: usize = 4;
/// Columns of the names on the left.
const NAMES: usize = 14;

/// Whom the text is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Columns.
    pub width: usize,
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

struct Page {
    out: String,
    look: Look,
}

impl Page {
    fn incident(&mut self, host: &Host, i: &Incident) {
        let bold = Style::new().bold();
        self.paragraph("", "", &i.sentence, &bold);
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
        self.fact("host", &format!("{name}, Linux {kernel}{emulated}"));
        self.fact(
            "guest",
            &format!(
                "{} (uuid {}), {} pid {}",
                or(i.vm.name.as_deref()),
                or(i.vm.uuid.as_deref()),
                or(i.vm.vmm.as_deref()),
                count(i.vm.pid.map(u64::from))
            ),
        );
        self.fact(
            "host page",
            &format!(
                "pfn {}, hva {}, {}: {}: {}",
                hex(i.page.pfn),
                hex(i.page.hva),
                size(i.page.size_bytes),
                or(i.page.kind.as_deref()),
                or(i.page.recovery.as_deref())
            ),
        );
        let more = match i.page.gpas.len() {
            0 | 1 => String::new(),
            n => format!(" and {} more 4 KiB pages touched", n - 1),
        };
        self.fact("guest page", &format!("gpa {}{more}", hex(i.page.gpa)));
        self.fact(
            "signals",
            &format!(
                "SIGBUS to the VMM: {} action optional, {} action required",
                count(i.signals.action_optional),
                count(i.signals.action_required)
            ),
        );
        self.told(i);
        self.exits(i);
        self.latency(i);
        self.timeline(i);
        self.list("missing", &i.missing);
        self.list("what to do", &i.advice);
    }

    fn told(&mut self, i: &Incident) {
        let n = &i.injections;
        self.fact(
            "guest told",
            &format!(
                "{} action optional, {} action required; #MC entered the guest {} on {}",
                count(n.action_optional),
                count(n.action_required),
                many(n.delivered, "time"),
                many(n.vcpus, "vCPU")
            ),
        );
        for told in n.told.iter().take(MAX_TOLD) {
            let text = self.one_told(told);
            self.moment(told.t_ns, &text);
        }
        if n.told.len() > MAX_TOLD {
            let more = format!("… and {} more", n.told.len() - MAX_TOLD);
            self.paragraph("    ", "    ", &more, &Style::new());
        }
    }

    fn one_told(&self, t: &Told) -> String {
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
        self.fact(
            "exits",
            &format!(
                "{} on this page: {} of 64, {}; {}, {}, {}",
                count(x.count),
                many(x.distinct_lines, "line"),
                many(x.distinct_rips, "RIP"),
                many(x.by_access.read, "read"),
                many(x.by_access.write, "write"),
                many(x.by_access.fetch, "fetch"),
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
        self.fact(
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

    fn latency(&mut self, i: &Incident) {
        let l = &i.latency_ns;
        let rows = l.rows();
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
        let moments = &i.timeline;
        let again_and_again = repeated(moments);
        // The beginning tells how it came, the end what became of it; between them what happened once is told.
        let last = moments.len().saturating_sub(MAX_MOMENTS - MAX_MOMENTS / 2);
        let (mut left_out, mut shown) = (0, 0);
        for (n, moment) in moments.iter().enumerate() {
            let between = (MAX_MOMENTS / 2..last).contains(&n);
            if between && (shown == MAX_MOMENTS || again_and_again.contains(&kind(&moment.event))) {
                left_out += 1;
                continue;
            }
            shown += usize::from(between);
            self.left_out(std::mem::take(&mut left_out));
            self.moment(moment.t_ns, &moment.event);
        }
        self.left_out(left_out);
    }

    fn left_out(&mut self, moments: usize) {
        if moments > 0 {
            let lead = " ".repeat(17);
            let words = format!("… {moments} moments are left out here; --format json has them");
            self.paragraph(&lead, &lead, &words, &Style::new().dim());
        }
    }

    fn moment(&mut self, t_ns: i64, text: &str) {
        let at = format!("    {:>12} ", offset(t_ns));
        let rest = " ".repeat(at.len());
        let at = self.style(&Style::new().dim(), at).to_string();
        self.paragraph(&at, &rest, text, &Style::new());
    }

    fn list(&mut self, name: &str, items: &[String]) {
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

/// A moment's words without those that have a number in them.
fn kind(event: &str) -> String {
    let words = event
        .split(' ')
        .filter(|word| !word.contains(|c: char| c.is_ascii_digit()));
    words.collect::<Vec<_>>().join(" ")
}

/// Kinds of moments that come again and again.
fn repeated(moments: &[Moment]) -> BTreeSet<String> {
    let mut counts = BTreeMap::<String, usize>::new();
    for moment in moments {
        *counts.entry(kind(&moment.event)).or_default() += 1;
    }
    counts.retain(|_, count| *count > MAX_AGAIN);
    counts.into_keys().collect()
}

fn of_outcome(outcome: Outcome) -> Style {
    let style = Style::new().bold();
    match outcome {
        Outcome::GuestPanicked | Outcome::GuestReset | Outcome::VmmKilled | Outcome::VmmExited => style.red(),
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
