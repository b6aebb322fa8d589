//! poisontrace's sums beside those of the kernel's own recording of the same run, and what the probes add.

use std::{fmt, fs};

use anyhow::{Context, Result, ensure};
use lab_protocol::storm::{Counters, PERF_FILE};
use serde_json::Value;

use super::lab::StormRun;
use super::perf;
use super::trace::{self, Time, Times};

/// Allowed difference, as a share of exit to entry: of two probes at one place the second sees the moment later by the
/// cost of the first, which is nearly the same at both ends of an interval.
const SHARE: f64 = 0.02;

/// The vCPU's thread.
const VMM: &str = "storm-vmm";

/// One sum by both.
pub struct Row {
    pub name: &'static str,
    ftrace: Time,
    poisontrace: Time,
    /// Of the difference, what poisontrace's own programs take inside ftrace's bracket, nanoseconds an exit: what ftrace
    /// measures more of than in the same storm without poisontrace.
    inside: f64,
    /// Of the difference, at most so much is an interrupt's inside ftrace's bracket and outside poisontrace's, nanoseconds an exit.
    interrupted: f64,
    /// Of exit to entry: what a difference of the parts is held against.
    per_exit: f64,
}

impl Row {
    /// How much longer each one took by poisontrace's count, nanoseconds.
    pub fn difference(&self) -> f64 {
        self.poisontrace.each() - self.ftrace.each()
    }

    pub fn agrees(&self) -> bool {
        let unexplained = self.difference() + self.inside;
        let allowed = SHARE * self.per_exit;
        let explained = unexplained <= allowed && unexplained + self.interrupted >= -allowed;
        self.ftrace.count == self.poisontrace.count && explained
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let remark = if self.agrees() { "" } else { "  DIFFERENT" };
        write!(
            f,
            "{:24}{:>7}{:>12.0}{:>7}{:>12.0}{:>+11.0}{:>+11.0}{remark}",
            self.name,
            self.ftrace.count,
            self.ftrace.ns,
            self.poisontrace.count,
            self.poisontrace.ns,
            self.difference(),
            -self.inside
        )
    }
}

pub const HEADING: &str = "\
Same run, ns              ftrace: exits, sum  poisontrace: the same difference   of it its
                                                                     each exit own probes";

/// `incident` is one of `poisontrace explain --format json`; `alone`: the same storm without poisontrace.
pub fn compare(alone: &StormRun, run: &StormRun, incident: &Value) -> Result<Vec<Row>> {
    let sums = trace::read(&run.out, &run.result, VMM)?;
    let without = trace::read(&alone.out, &alone.result, VMM)?;
    // The kprobes of ftrace stand outside the fentry and fexit of poisontrace; the tracepoints are the same for both.
    // The programs take as long in each exit; a timer's interrupt in some of them is none of it.
    let inside = sums.gup.median() - without.gup.median();
    let reported = |pointer: &str| {
        let at = |what: &str| incident.pointer(&format!("/latency_ns/{pointer}/{what}"));
        Some(Time {
            count: at("count")?.as_u64()?,
            ns: at("sum")?.as_f64()?,
        })
    };
    let bare = sums
        .by_reason
        .iter()
        .find(|(reason, _)| reason.eq_ignore_ascii_case("cpuid"))
        .map(|(_, times)| times.clone())
        .context("the trace has no CPUID")?;
    let per_exit = sums.exit_to_entry.all().each();
    // Entries before kvm_entry was attached are not seen: the answer must name them, and it has those that follow.
    let unseen = incident["missing"]
        .as_array()
        .is_some_and(|missing| missing.iter().any(|entry| entry["kind"] == "first_exit_times"));
    let seen = |times: &Times, pointer: &str| {
        let count = incident.pointer(&format!("/latency_ns/{pointer}/count"));
        match count.and_then(Value::as_u64) {
            Some(count) if unseen && count >= times.all().count / 2 => times.last(count),
            _ => times.all(),
        }
    };
    let bare_exit = "baseline_exit/exit_to_entry";
    let rows = [
        (
            "exit to entry, poison",
            "exit_to_entry",
            seen(&sums.exit_to_entry, "exit_to_entry"),
            (0.0, 0.0),
        ),
        ("in kernel, poison", "in_kernel", sums.in_kernel, (0.0, 0.0)),
        (
            "gup, poison",
            "gup",
            sums.gup.all(),
            (inside, sums.gup.interrupted()),
        ),
        (
            "exit to entry, CPUID",
            bare_exit,
            seen(&bare, bare_exit),
            (0.0, 0.0),
        ),
    ];
    rows.into_iter()
        // A storm that was over before kvm_entry was attached.
        .filter(|(_, pointer, ..)| !(unseen && reported(pointer).is_none()))
        .map(|(name, pointer, ftrace, (inside, interrupted))| {
            let poisontrace = reported(pointer).with_context(|| format!("the report has no {pointer}"))?;
            Ok(Row {
                name,
                ftrace,
                poisontrace,
                inside,
                interrupted,
                per_exit,
            })
        })
        .collect()
}

/// At one tracepoint perf looks at the clock once ftrace has written its event, and that of kvm_exit is larger than that of
/// kvm_entry; perf rounds to 10 ns. In Bochs it was 27 to 30 ns with every reason.
const WRITTEN: f64 = 40.0;

/// All exits of one reason by ftrace and by `perf kvm stat`, of the same run.
pub struct Reason {
    pub name: String,
    ftrace: Time,
    perf: Time,
    /// At one tracepoint ftrace looks at the clock before poisontrace's program, and perf after it: perf's bracket has the
    /// program of kvm_entry in place of that of kvm_exit. No more than all of poisontrace's programs add, nanoseconds.
    between: f64,
}

impl Reason {
    pub fn agrees(&self) -> bool {
        let difference = self.perf.each() - self.ftrace.each();
        self.ftrace.count == self.perf.count
            && difference.abs() <= WRITTEN + self.between.max(0.0) + SHARE * self.ftrace.each()
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let remark = if self.agrees() { "" } else { "  DIFFERENT" };
        write!(
            f,
            "{:36}{:>7}{:>12.0}{:>7}{:>12.0}{:>+11.0}{remark}",
            self.name,
            self.ftrace.count,
            self.ftrace.each(),
            self.perf.count,
            self.perf.each(),
            self.perf.each() - self.ftrace.each(),
        )
    }
}

pub const REASONS: &str = "\
Exit to entry, by reason             ftrace: exits, ns each  perf kvm stat: the same, difference";

/// Of the storm without poisontrace, and of that with it.
pub fn reasons(alone: &StormRun, run: &StormRun) -> Result<Vec<Reason>> {
    let added = run.counters.run_ns as f64 - alone.counters.run_ns as f64;
    let mut reasons = reasons_of(alone, ", without poisontrace", 0.0)?;
    reasons.extend(reasons_of(run, ", with it", added)?);
    Ok(reasons)
}

fn reasons_of(run: &StormRun, which: &str, between: f64) -> Result<Vec<Reason>> {
    let path = run.out.join(PERF_FILE);
    let report = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut ftrace = trace::read(&run.out, &run.result, VMM)?.by_reason;
    let reasons: Vec<Reason> = perf::by_reason(&report)
        .into_iter()
        .map(|(name, perf)| Reason {
            ftrace: ftrace.remove(&name).unwrap_or_default().all(),
            name: format!("{name}{which}"),
            perf,
            between,
        })
        .collect();
    ensure!(
        !reasons.is_empty(),
        "perf reports no exits: see {}",
        path.display()
    );
    Ok(reasons)
}

/// KVM_RUN of one poison exit by the VMM's own clock, without and with poisontrace.
pub fn added(alone: &Counters, watched: &Counters) -> String {
    format!(
        "What the probes add: of KVM_RUN with one such exit half take no more than {} ns without poisontrace, and {} ns \
         with it (by the VMM's clock)",
        alone.run_ns, watched.run_ns
    )
}
