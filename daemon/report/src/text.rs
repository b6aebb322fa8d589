//! Text that can be pasted into a ticket: the first screen holds what a reader in a hurry needs, the rest stands below.

use std::collections::{BTreeMap, BTreeSet};

use console::{Style, StyledObject};

use super::document::{Answer, Incident, Missing, TimelineEntry};
use super::{
    at,
    container::container,
    count, duration, hex, latency, lines, many,
    origin::{origin, page_walks},
    size,
    summary::name_guess,
};
use poisontrace_model::text::counted;
use poisontrace_model::{
    hex::Hex,
    host::Host,
    incident::model::{Confidence, Distribution, FlushBasis, InjectionEvent, OriginKind, Outcome},
};

/// Entries of the timeline that one screen holds, with as many between that occur once; the JSON has them all.
const MAX_ENTRIES: usize = 14;
/// Kinds that occur more often are shown at the beginning and at the end only.
const MAX_AGAIN: usize = 4;
const MAX_INJECTIONS: usize = 4;
/// Lines that hold all that a reader in a hurry needs.
const FIRST_SCREEN: usize = 25;
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
}

/// One incident as text.
pub fn text(host: &Host, incident: &Incident, look: Look) -> String {
    let mut page = Page {
        out: String::new(),
        look,
    };
    let shown = page.first_screen(host, incident);
    page.rest(incident, shown);
    page.out
}

/// The first screen of [`text`]: what happened, why and how sure that is, which guest, which page and memory module, what to do.
pub fn brief(host: &Host, incident: &Incident, look: Look) -> String {
    let mut page = Page {
        out: String::new(),
        look,
    };
    let shown = page.first_screen(host, incident);
    let more = incident.next_steps.len().saturating_sub(shown);
    if more > 0 {
        page.item(
            "",
            &format!(
                "… {}; leave --brief out for them",
                many(Some(more as u64), "more step")
            ),
        );
    }
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
    /// At most [`FIRST_SCREEN`] lines; how many of the next steps found room.
    fn first_screen(&mut self, host: &Host, i: &Incident) -> usize {
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
        let began = i.started_at.as_deref().map(|at| format!("   began {at}"));
        self.fact("incident", &format!("{}{}", i.id, began.unwrap_or_default()));
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
        let kernel = host.kernel.as_deref().map(|kernel| format!("Linux {kernel}"));
        let machine = list([host.hostname.clone(), kernel]);
        self.fact_if(
            !machine.is_empty() || host.emulated == Some(true),
            "host",
            format!("{machine}{emulated}").trim_start(),
        );
        self.fact_known("guest", &of_vm(i));
        self.fact_known("runs in", &container(&i.vm).unwrap_or_default());
        self.fact_known("host page", &of_page(i));
        self.fact_if(
            !matches!(i.origin.how, OriginKind::Claimed | OriginKind::Unknown) || i.origin.dimm.is_some(),
            "origin",
            &origin(&i.origin),
        );
        let more = match i.page.gpas.len() {
            0 | 1 => String::new(),
            n => format!(
                " and {} more 4 KiB {} touched",
                n - 1,
                if n == 2 { "page" } else { "pages" }
            ),
        };
        self.fact_if(
            i.page.gpa.is_some(),
            "guest page",
            &format!("gpa {}{more}", hex(i.page.gpa)),
        );
        let mut shown = 0;
        for step in &i.next_steps {
            let before = self.out.len();
            self.item(if shown == 0 { "next steps" } else { "" }, step);
            // The line that names the steps left out needs room too.
            let last = shown + 1 == i.next_steps.len();
            if shown > 0 && self.out.lines().count() + usize::from(!last) > FIRST_SCREEN {
                self.out.truncate(before);
                break;
            }
            shown += 1;
        }
        shown
    }

    /// All that the first screen does not hold.
    fn rest(&mut self, i: &Incident, shown: usize) {
        let more: Vec<&str> = i.next_steps.iter().skip(shown).map(String::as_str).collect();
        self.list("", &more);
        let sigbus = by_severity(i.signals.action_optional, i.signals.action_required);
        self.fact_if(
            !sigbus.is_empty(),
            "signals",
            &format!("SIGBUS to the VMM: {sigbus}"),
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
    }

    fn injections(&mut self, i: &Incident) {
        let n = &i.injections;
        let injected = by_severity(n.action_optional, n.action_required);
        let delivered = n
            .delivered
            .map(|_| format!("#MC entered the guest {}", many(n.delivered, "time")));
        let on = n
            .vcpus
            .filter(|_| n.delivered.is_some())
            .map(|_| format!(" on {}", many(n.vcpus, "vCPU")));
        let delivered = delivered.map(|text| format!("{text}{}", on.unwrap_or_default()));
        let parts: Vec<String> = [Some(injected).filter(|text| !text.is_empty()), delivered]
            .into_iter()
            .flatten()
            .collect();
        let text = match (parts.is_empty(), n.events.is_empty()) {
            (true, false) => "as the logs show it".to_owned(),
            _ => parts.join("; "),
        };
        self.fact_known("injected", &text);
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
        let number = |name: &str, value: Option<u32>| value.map(|value| format!("{name} {value}"));
        let register = |name: &str, value: Option<Hex>| value.map(|value| format!("{name} {value}"));
        let overflow = t.overflow == Some(true);
        let overflow = overflow.then(|| self.style(&Style::new().red(), "OVERFLOW").to_string());
        let parts = [
            number("vCPU", t.vcpu),
            Some(t.severity.to_string()),
            number("bank", t.bank),
            register("STATUS", t.status),
            register("ADDR", t.addr),
            register("MISC", t.misc),
            register("MCG", t.mcg_status),
            overflow,
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }

    fn exits(&mut self, i: &Incident) {
        let x = &i.exits;
        let number = |value: Option<u64>, one: &str| value.map(|_| many(value, one));
        let lines = x
            .distinct_lines
            .map(|_| format!("{} of 64", many(x.distinct_lines, "line")));
        let place = list([lines, number(x.distinct_rips, "RIP")]);
        let by = &x.by_access;
        let access = list([
            number(by.read, "read"),
            number(by.write, "write"),
            number(by.fetch, "fetch"),
        ]);
        let access = match access.is_empty() {
            true => access,
            false => format!("; {access}{}", page_walks(by)),
        };
        let place = match place.is_empty() {
            true => place,
            false => format!(": {place}"),
        };
        self.fact_if(
            x.count.is_some(),
            "exits",
            &format!("{} on this page{place}{access}", count(x.count)),
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
            let key = match join.key.as_str() {
                "clock" => "clocks alone: a guess",
                "bare_pid" => "pid of a host that nothing names: a guess,",
                key => key,
            };
            self.fact(name, &format!("{key}{value}  [{}{line}]", join.source));
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
            let words = format!(
                "… {} omitted; --format json has them",
                counted(entries as u64, "entry is", "entries are")
            );
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
        for (n, item) in items.iter().enumerate() {
            self.item(if n == 0 { name } else { "" }, item);
        }
    }

    fn item(&mut self, name: &str, item: &str) {
        let lead = format!("{}- ", self.name(name));
        self.paragraph(&lead, &" ".repeat(NAMES + 2), item, &Style::new());
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

    /// A fact, unless nothing of it is known.
    fn fact_known(&mut self, name: &str, text: &str) {
        self.fact_if(!text.is_empty(), name, text);
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

/// What is known of these, with commas between.
fn list<const N: usize>(parts: [Option<String>; N]) -> String {
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn by_severity(optional: Option<u64>, required: Option<u64>) -> String {
    list([
        optional.map(|n| format!("{n} action optional")),
        required.map(|n| format!("{n} action required")),
    ])
}

/// The guest and its VMM, as far as they have names.
fn of_vm(i: &Incident) -> String {
    let vm = &i.vm;
    let uuid = vm.uuid.as_ref().map(|uuid| format!("uuid {uuid}"));
    let guess = vm.name_guess.map(|guess| name_guess(guess).to_owned());
    let more = list([guess.filter(|_| vm.name.is_some()), uuid]);
    let guest = match &vm.name {
        Some(name) if !more.is_empty() => Some(format!("{name} ({more})")),
        Some(name) => Some(name.clone()),
        None => Some(more).filter(|more| !more.is_empty()),
    };
    let pid = vm.pid.map(|pid| format!("pid {pid}"));
    let vmm = match (&vm.vmm, pid) {
        (Some(vmm), Some(pid)) => Some(format!("{vmm} {pid}")),
        (Some(vmm), None) => Some(vmm.clone()),
        (None, pid) => pid,
    };
    list([guest, vmm])
}

/// The host's page: its addresses and size, its type, what the kernel did.
fn of_page(i: &Incident) -> String {
    let page = &i.page;
    let pfn = page.pfn.map(|pfn| format!("pfn {pfn}"));
    let hva = page.hva.map(|hva| format!("hva {hva}"));
    let known = pfn.is_some() || hva.is_some() || page.kind.is_some();
    let bytes = page.size_bytes.filter(|_| known).map(|bytes| size(Some(bytes)));
    let parts = [
        Some(list([pfn, hva, bytes])).filter(|text| !text.is_empty()),
        page.kind.clone(),
        page.action_result.clone(),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(": ")
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
