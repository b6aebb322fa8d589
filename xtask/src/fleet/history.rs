//! The fleet's past, as OpenMetrics for `promtool tsdb create-blocks-from`: what the recording rules have left of each
//! incident over the whole time, and the counters themselves for the hour that the rules look back.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};

use super::body::Body;
use super::schedule::{DAY, Schedule};
use xtask_support::command;

/// Of scrapes and rules, in seconds.
const INTERVAL: u64 = 30;
const HOUR: u64 = 3600;
/// How long a guest is at risk before it meets its poison; the recordings' seconds would fall between two scrapes.
const AT_RISK: u64 = 300;
/// The one rule without an instance.
const OF_ALL_HOSTS: &str = "outcome:poisontrace_incidents:increase1h";
const LOST: [&str; 4] = ["guest_panicked", "guest_reset", "vmm_killed", "vmm_exited"];
/// What the rules look back at for an hour; the last shows them that a host was scraped.
const LOOKED_BACK_AT: [&str; 8] = [
    "poisontrace_incident_verdicts_total",
    "poisontrace_storms_total",
    "poisontrace_events_lost_total",
    "poisontrace_memory_failures_missed_total",
    "poisontrace_hook_runs_total",
    "poisontrace_poison_exits_total",
    "poisontrace_memory_failures_total",
    "poisontrace_build_info",
];

/// Samples written, by kind of past.
#[derive(Default)]
pub struct Written {
    pub recorded: u64,
    pub counters: u64,
}

/// A series that a recording rule leaves after an incident.
#[derive(Debug, PartialEq)]
pub struct Recorded {
    name: &'static str,
    labels: String,
    value: f64,
    seconds: u64,
}

/// Guests that an incident cost, by outcome and cause.
pub fn lost(body: &Body, healthy: &Body) -> BTreeMap<(String, String), f64> {
    let verdicts = body.above(healthy, "poisontrace_incident_verdicts_total");
    let lost = verdicts
        .filter(|verdict| LOST.contains(&verdict.label("outcome")) && verdict.label("cause") != "not_poison");
    lost.map(|verdict| {
        let key = (
            verdict.label("outcome").to_owned(),
            verdict.label("cause").to_owned(),
        );
        (key, verdict.value)
    })
    .collect()
}

fn at_risk(body: &Body, healthy: &Body) -> Option<f64> {
    body.above(healthy, "poisontrace_incident_verdicts_total")
        .find(|verdict| verdict.label("cause") == "not_touched")
        .map(|verdict| verdict.value)
}

/// The upper end of the bucket of the 99th percentile.
fn exit_to_entry(body: &Body, healthy: &Body) -> Option<f64> {
    let buckets = body.above(healthy, "poisontrace_exit_to_entry_seconds_bucket");
    let mut buckets: Vec<(f64, f64)> = buckets
        .filter_map(|bucket| Some((bucket.label("le").parse().ok()?, bucket.value)))
        .collect();
    buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (_, all) = *buckets.last()?;
    let (end, _) = buckets.iter().find(|(_, count)| *count >= 0.99 * all)?;
    Some(*end)
}

fn recorded(body: &Body, healthy: &Body) -> Vec<Recorded> {
    let mut left = Vec::new();
    let mut rule = |counter: &str, keys: &[&str], name, per: f64, seconds| {
        let mut sums = BTreeMap::<String, f64>::new();
        for sample in body.above(healthy, counter) {
            let labels = keys
                .iter()
                .map(|key| format!(",{key}=\"{}\"", sample.label(key)))
                .collect();
            *sums.entry(labels).or_default() += sample.value;
        }
        left.extend(sums.into_iter().map(|(labels, sum)| Recorded {
            name,
            labels,
            value: sum / per,
            seconds,
        }));
    };
    let verdicts = "poisontrace_incident_verdicts_total";
    rule(
        verdicts,
        &["outcome", "cause"],
        "instance_outcome_cause:poisontrace_incidents:increase1h",
        1.0,
        HOUR,
    );
    rule(verdicts, &["outcome"], OF_ALL_HOSTS, 1.0, HOUR);
    rule(
        "poisontrace_memory_failures_total",
        &["result"],
        "instance_result:poisontrace_memory_failures:increase1h",
        1.0,
        HOUR,
    );
    rule(
        "poisontrace_storms_total",
        &["kind"],
        "instance_kind:poisontrace_storms:increase1h",
        1.0,
        HOUR,
    );
    rule(
        "poisontrace_poison_exits_total",
        &[],
        "instance:poisontrace_poison_exits:rate1m",
        60.0,
        60,
    );
    for (name, value, seconds) in [
        (
            "instance:poisontrace_guests_at_risk:max",
            at_risk(body, healthy),
            AT_RISK,
        ),
        (
            "instance:poisontrace_exit_to_entry_seconds:p99_5m",
            exit_to_entry(body, healthy),
            300,
        ),
    ] {
        left.extend(value.map(|value| Recorded {
            name,
            labels: String::new(),
            value,
            seconds,
        }));
    }
    let guests: f64 = lost(body, healthy).values().sum();
    if guests > 0.0 {
        left.push(Recorded {
            name: "instance:poisontrace_guests_lost:increase1h",
            labels: String::new(),
            value: guests,
            seconds: HOUR,
        });
    }
    left
}

/// The past of a fleet.
pub struct Past<'a> {
    pub schedule: &'a Schedule,
    /// Of a host that never had an incident.
    pub healthy: &'a Body,
    /// By recording.
    pub bodies: &'a [Body],
}

impl Past<'_> {
    /// Writes it into `data`, of the incidents a day at a time.
    pub fn write(&self, promtool: &Path, data: &Path) -> Result<Written> {
        let Schedule { now, days, .. } = *self.schedule;
        let mut written = Written::default();
        let bodies = self.bodies.iter();
        let left: Vec<Vec<Recorded>> = bodies.map(|body| recorded(body, self.healthy)).collect();
        for day in 0..days {
            let from = now - (days - day) * DAY;
            let mut file = Metrics::create(promtool, data)?;
            self.rules(&left, from, &mut file)?;
            written.recorded += file.finish()?;
        }
        let mut file = Metrics::create(promtool, data)?;
        self.counters(&mut file)?;
        written.counters = file.finish()?;
        Ok(written)
    }

    /// What the rules leave of each incident, within the day that begins at `from`.
    fn rules(&self, left: &[Vec<Recorded>], from: u64, file: &mut Metrics<'_>) -> Result<()> {
        let mut of_all_hosts = BTreeMap::<&str, BTreeMap<u64, f64>>::new();
        for incident in &self.schedule.incidents {
            let instance = Schedule::instance(incident.host);
            for series in &left[incident.recording] {
                let start = incident.at.max(from);
                let end = (incident.at + series.seconds).min(from + DAY);
                let times = every(INTERVAL, start, end);
                if series.name == OF_ALL_HOSTS {
                    let sums = of_all_hosts
                        .entry(series.labels.trim_start_matches(','))
                        .or_default();
                    times.for_each(|time| *sums.entry(time).or_default() += series.value);
                    continue;
                }
                let labels = format!("instance=\"{instance}\"{}", series.labels);
                file.series(series.name, &labels, times, |_| series.value)?;
            }
        }
        for (labels, sums) in of_all_hosts {
            let value = |time| sums.get(&time).copied().unwrap_or_default();
            file.series(OF_ALL_HOSTS, labels, sums.keys().copied(), value)?;
        }
        Ok(())
    }

    /// Counters of all hosts over the last hour: a healthy host's until its last incident, then those of the recording.
    fn counters(&self, file: &mut Metrics<'_>) -> Result<()> {
        let (now, begin) = (self.schedule.now, self.schedule.now - HOUR);
        for host in 0..self.schedule.hosts {
            let last = self.schedule.last(host);
            let (at, body) = last.map_or((u64::MAX, self.healthy), |last| {
                (last.at, &self.bodies[last.recording])
            });
            let counters = body.samples.iter();
            for sample in counters.filter(|sample| LOOKED_BACK_AT.contains(&sample.name.as_str())) {
                let before = self.healthy.value(&sample.name, &sample.labels);
                // A series that a healthy host does not have begins with the incident.
                let start = before.map_or(at.max(begin), |_| begin);
                let mut labels = format!("instance=\"{}\",job=\"poisontrace\"", Schedule::instance(host));
                if !sample.labels.is_empty() {
                    labels = format!("{labels},{}", sample.labels);
                }
                file.series(&sample.name, &labels, every(INTERVAL, start, now), |time| {
                    let before = before.filter(|_| time < at);
                    before.unwrap_or(sample.value)
                })?;
            }
        }
        Ok(())
    }
}

/// Multiples of `interval`, all counters at the same time.
fn every(interval: u64, start: u64, end: u64) -> impl Iterator<Item = u64> {
    (start.div_ceil(interval)..end.div_ceil(interval)).map(move |no| no * interval)
}

/// A file of OpenMetrics that becomes blocks.
struct Metrics<'a> {
    promtool: &'a Path,
    data: &'a Path,
    file: tempfile::NamedTempFile,
    out: BufWriter<File>,
    samples: u64,
}

impl<'a> Metrics<'a> {
    fn create(promtool: &'a Path, data: &'a Path) -> Result<Self> {
        std::fs::create_dir_all(data)?;
        let file = tempfile::NamedTempFile::new_in(data.parent().context("no folder")?)?;
        let out = BufWriter::with_capacity(1 << 20, file.reopen()?);
        Ok(Self {
            promtool,
            data,
            file,
            out,
            samples: 0,
        })
    }

    fn series(
        &mut self,
        name: &str,
        labels: &str,
        times: impl Iterator<Item = u64>,
        value: impl Fn(u64) -> f64,
    ) -> Result<()> {
        let mut lines = String::new();
        for time in times {
            // A String takes every write.
            writeln!(lines, "{name}{{{labels}}} {} {time}", value(time)).ok();
            self.samples += 1;
        }
        Ok(self.out.write_all(lines.as_bytes())?)
    }

    fn finish(mut self) -> Result<u64> {
        self.out.write_all(b"# EOF\n")?;
        self.out.flush()?;
        if self.samples > 0 {
            let mut promtool = command::clean(self.promtool);
            promtool
                .args([
                    "tsdb",
                    "create-blocks-from",
                    "--quiet",
                    "--max-block-duration=24h",
                    "openmetrics",
                ])
                .arg(self.file.path())
                .arg(self.data);
            command::output(&mut promtool)?;
        }
        Ok(self.samples)
    }
}
