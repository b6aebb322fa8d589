//! A thousand recorded hosts with thirty days of incidents, scraped by Debian's Prometheus: series counted, rules and
//! the queries of all dashboards timed. By hand: times are this machine's.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::dashboards::{self, Variables};
use crate::fleet::body::Body;
use crate::fleet::history::{self, Past};
use crate::fleet::schedule::{DAY, Schedule};
use crate::fleet::server::Server;
use crate::prometheus::{self, Prometheus, Scrape, When};
use crate::tally::Tally;
use xtask_support::paths::Paths;
use xtask_support::progress::Progress;

const NAME: &str = "fleet";
const HOSTS: usize = 1000;
const DAYS: u64 = 30;
/// Of the units' and rules' documentation, in seconds.
const INTERVAL: u32 = 30;
/// A host without an incident.
const HEALTHY: &str = "look-alike-amd-6.12";
/// Hosts with one: a panic, a survivor, a storm, a spin, a VMM that was killed, an error of the host's own processor.
const INCIDENTS: [&str; 6] = [
    "panic-amd-6.12",
    "survive-amd-6.12",
    "storm-intel-6.12",
    "spin-intel-6.12",
    "vmm-no-handler-amd-6.12",
    "machine-check-amd-6.12",
];
/// Which hosts lost guests this month, and to what, as daemon/docs/operating.md has it.
const MONTH: &str = "sum by (instance, outcome, cause) (sum_over_time(instance_outcome_cause:poisontrace_incidents:increase1h{outcome=~\"guest_panicked|guest_reset|vmm_killed|vmm_exited\",cause!=\"not_poison\"}[30d])) / 120";
/// An incident of the last hour counts in part.
const UNTIL_WHOLE: u64 = 3600;
const ALL_UP_WITHIN: Duration = Duration::from_secs(180);
/// Scrapes that a rate over a minute needs, and two evaluations of the rules.
const SETTLED: Duration = Duration::from_secs(100);
/// Of a panel of the fleet's dashboard.
const GOAL: Duration = Duration::from_millis(200);
/// Each query is asked so often.
const TIMES: u32 = 10;

pub fn run(paths: &Paths, daemon: &Path, tally: &mut Tally, progress: &Progress) -> Result<()> {
    let programs = prometheus::set_up(paths, progress)?;
    let fleet = Fleet::start(paths, daemon, &programs, progress)?;
    progress.step("timing the queries");
    let timed = fleet.time(paths);
    progress.aside(|| {
        let mut check = |what: &str, outcome: Result<()>| tally.check(NAME, what, outcome);
        check("every_host_is_scraped", fleet.all_up());
        check("the_rules_are_done_within_their_interval", fleet.rules());
        check("the_month_s_query_has_each_lost_guest", fleet.month(paths));
        check(
            "panels_of_the_fleet_answer_within_the_goal",
            timed.and_then(|timed| report(&timed)),
        );
    });
    Ok(())
}

struct Fleet {
    schedule: Schedule,
    healthy: Body,
    bodies: Vec<Body>,
    server: Server,
    prometheus: Prometheus,
}

/// A query, and the span of the dashboard that it was asked for.
struct Timed {
    dashboard: String,
    panel: String,
    span: &'static str,
    series: usize,
    /// The quickest.
    took: Duration,
    /// Prometheus' processor time, on average: scrapes and rules of that time included.
    processor: Duration,
}

impl Timed {
    /// On a machine that does other things the processor time is what an idle one would take: a query is one thread's.
    fn met(&self) -> bool {
        self.took.min(self.processor) <= GOAL
    }
}

impl Fleet {
    fn start(paths: &Paths, daemon: &Path, programs: &Path, progress: &Progress) -> Result<Self> {
        progress.step("recordings become hosts");
        let healthy = Body::of_recording(paths, daemon, HEALTHY)?;
        let bodies = INCIDENTS
            .iter()
            .map(|name| Body::of_recording(paths, daemon, name))
            .collect::<Result<Vec<_>>>()?;
        let now = now()?;
        let schedule = Schedule::new(HOSTS, DAYS, INCIDENTS.len(), now);
        let texts: Vec<Arc<str>> = bodies.iter().map(|body| Arc::from(&*body.text)).collect();
        let quiet: Arc<str> = Arc::from(&*healthy.text);
        let served: HashMap<String, Arc<str>> = (0..HOSTS)
            .map(|host| {
                let last = schedule.last(host);
                let body = last.map_or(&quiet, |last| &texts[last.recording]);
                (Schedule::name(host), body.clone())
            })
            .collect();
        let bytes: usize = served.values().map(|body| body.len()).sum();
        let server = Server::start(served)?;

        progress.step("30 days of incidents become blocks");
        let folder = tempfile::tempdir_in(&paths.target)?;
        let begun = Instant::now();
        let past = Past {
            schedule: &schedule,
            healthy: &healthy,
            bodies: &bodies,
        };
        let written = past.write(&programs.join("promtool"), &prometheus::data(folder.path()))?;
        progress.note(format!(
            "{} incidents in {DAYS} days on {HOSTS} hosts: {} samples of rules, {} of counters (an hour), in {:.0} s",
            schedule.incidents.len(),
            written.recorded,
            written.counters,
            begun.elapsed().as_secs_f64()
        ));
        progress.note(format!("a scrape has {} bytes", bytes / HOSTS));

        progress.step("Prometheus scrapes the fleet");
        let names: Vec<String> = (0..HOSTS).map(Schedule::instance).collect();
        let scrape = Scrape {
            seconds: INTERVAL,
            targets: format!(
                "static_configs: [{{targets: ['{}']}}]
    relabel_configs:
      - {{source_labels: [__address__], regex: '(.*):.*', target_label: __metrics_path__, replacement: '/$1/metrics'}}
      - {{source_labels: [__address__], target_label: instance}}
      - {{target_label: __address__, replacement: '{}'}}",
                names.join("', '"),
                server.address
            ),
            kept_days: 40,
        };
        let mut rules = Vec::new();
        for name in ["recording", "alerts"] {
            let text = fs::read_to_string(paths.root.join(format!("dashboards/prometheus/{name}.yml")))?;
            rules.push((format!("{name}.rules.yml"), text));
        }
        let prometheus = Prometheus::start(programs, folder, &scrape, &rules)?;
        let fleet = Self {
            schedule,
            healthy,
            bodies,
            server,
            prometheus,
        };
        let begun = Instant::now();
        while fleet.all_up().is_err() && begun.elapsed() < ALL_UP_WITHIN {
            std::thread::sleep(Duration::from_secs(1));
        }
        std::thread::sleep(SETTLED);
        progress.note(fleet.size()?);
        Ok(fleet)
    }

    fn one(&self, expr: &str) -> Result<f64> {
        let answer = self.prometheus.ask(expr, &When::At(now()?))?;
        let value = answer
            .series
            .first()
            .map_or("0", |series| text(&series["value"][1]));
        Ok(value.parse()?)
    }

    fn all_up(&self) -> Result<()> {
        let up = self.one("sum(up)")?.to_string();
        ensure!(up == HOSTS.to_string(), "{up} of {HOSTS} hosts are up");
        Ok(())
    }

    fn size(&self) -> Result<String> {
        let used = self.prometheus.used()?;
        Ok(format!(
            "{} scrapes; {} series of a host, {} of the fleet, {} recorded by rules at this time; Prometheus: {} MiB resident, {:.1} s of processor time",
            self.server.served(),
            self.one("max(scrape_samples_scraped)")?,
            self.one("sum(scrape_samples_scraped)")?,
            self.one("count({__name__=~\".*:poisontrace.*\"})")?,
            used.resident_kib / 1024,
            used.processor.as_secs_f64()
        ))
    }

    /// Prints how long each group of rules took, and its slowest rule.
    fn rules(&self) -> Result<()> {
        for group in self.prometheus.groups()? {
            let rules: Vec<(f64, String)> = group["rules"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|rule| {
                    let took = rule["evaluationTime"].as_f64().unwrap_or(f64::MAX);
                    (took, text(&rule["name"]).to_owned())
                })
                .collect();
            let all: f64 = rules.iter().map(|(took, _)| took).sum();
            let slowest = rules.iter().max_by(|a, b| a.0.total_cmp(&b.0));
            let (took, name) = slowest.map_or((0.0, ""), |(took, name)| (*took, name));
            println!(
                "{}: {} rules in {:.0} ms, the slowest {name} in {:.0} ms",
                text(&group["name"]),
                rules.len(),
                all * 1000.0,
                took * 1000.0
            );
            ensure!(all < f64::from(INTERVAL), "{} takes {all} s", group["name"]);
        }
        Ok(())
    }

    /// By host, outcome and cause.
    fn month(&self, paths: &Paths) -> Result<()> {
        let document = fs::read_to_string(paths.root.join("daemon/docs/operating.md"))?;
        ensure!(document.contains(MONTH), "operating.md has another query");
        let answer = self.prometheus.ask(MONTH, &When::At(now()?))?;
        println!(
            "the month's query: {} series in {} ms",
            answer.series.len(),
            answer.took.as_millis()
        );
        let mut lost: BTreeMap<[String; 3], f64> = BTreeMap::new();
        for series in &answer.series {
            let key = ["instance", "outcome", "cause"].map(|label| text(&series["metric"][label]).to_owned());
            lost.insert(key, text(&series["value"][1]).parse()?);
        }
        let (mut expected, mut whole) = (BTreeMap::<[String; 3], f64>::new(), true);
        for incident in &self.schedule.incidents {
            whole &= incident.at + UNTIL_WHOLE < self.schedule.now;
            for ((outcome, cause), guests) in history::lost(&self.bodies[incident.recording], &self.healthy) {
                *expected
                    .entry([Schedule::instance(incident.host), outcome, cause])
                    .or_default() += guests;
            }
        }
        for (key, guests) in &expected {
            let found = lost.get(key).copied();
            ensure!(
                found.is_some_and(|found| found > 0.0 && (!whole || (found - guests).abs() < 0.05 * guests)),
                "{key:?}: {found:?} of {guests}"
            );
        }
        ensure!(
            lost.len() == expected.len(),
            "{} series, {} expected",
            lost.len(),
            expected.len()
        );
        Ok(())
    }

    fn time(&self, paths: &Paths) -> Result<Vec<Timed>> {
        let end = now()?;
        let host = Schedule::instance(1);
        let mut timed = Vec::new();
        for dashboard in dashboards::all(&paths.root)? {
            let of_fleet = dashboard.file == "fleet.json";
            for (span, start, step, rate_interval) in [
                ("6h", end - DAY / 4, 30, "2m"),
                ("30d", end - DAYS * DAY, 3600, "3630s"),
            ] {
                let variables = Variables {
                    instance: if of_fleet { ".*" } else { &host },
                    rate_interval,
                    range: span,
                };
                for query in dashboard.queries(&variables) {
                    let when = if query.instant {
                        When::At(end)
                    } else {
                        When::Over { start, end, step }
                    };
                    let before = self.prometheus.used()?.processor;
                    let (mut series, mut took) = (0, Duration::MAX);
                    for _ in 0..TIMES {
                        let answer = self.prometheus.ask(&query.expr, &when)?;
                        (series, took) = (answer.series.len(), took.min(answer.took));
                    }
                    timed.push(Timed {
                        dashboard: dashboard.file.clone(),
                        panel: query.panel,
                        span,
                        series,
                        took,
                        processor: (self.prometheus.used()?.processor - before) / TIMES,
                    });
                }
            }
        }
        Ok(timed)
    }
}

/// Prints the table; fails where a panel of the fleet's dashboard is slower than the goal.
fn report(timed: &[Timed]) -> Result<()> {
    println!(
        "{:<11} {:>4} {:>7} {:>7} {:>7}  panel",
        "dashboard", "span", "series", "ms", "cpu ms"
    );
    for one in timed {
        println!(
            "{:<11} {:>4} {:>7} {:>7.1} {:>7.1}  {}",
            one.dashboard,
            one.span,
            one.series,
            one.took.as_secs_f64() * 1000.0,
            one.processor.as_secs_f64() * 1000.0,
            one.panel
        );
    }
    let slow: Vec<&str> = timed
        .iter()
        .filter(|one| one.dashboard == "fleet.json" && !one.met())
        .map(|one| one.panel.as_str())
        .collect();
    ensure!(slow.is_empty(), "slower than {} ms: {slow:?}", GOAL.as_millis());
    Ok(())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn now() -> Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())
}
