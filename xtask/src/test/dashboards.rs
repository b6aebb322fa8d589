//! Dashboards, rules and runbooks, with the real thing: Debian's Prometheus and promtool, and the daemon while
//! recordings of the lab are replayed into it in their own time.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab_protocol::daemon_cli::{KEEP_SERVING, LISTEN_ADDRESS, MAX_PAUSE, PER_VM_METRICS};
use lab_protocol::daemon_lines;

use crate::dashboards::{self, Dashboard};
use crate::prometheus::{self, Prometheus, Running, Scrape};
use crate::tally::Tally;
use xtask_support::command;
use xtask_support::paths::Paths;
use xtask_support::progress::Progress;

const NAME: &str = "dashboards";
/// A panic, a survivor, a walk of 64 lines, a spin of a million exits.
const REPLAYED: [&str; 4] = [
    "panic-amd-6.12",
    "survive-amd-6.12",
    "storm-intel-6.12",
    "spin-intel-6.12",
];
/// On a second host.
const ELSEWHERE: [&str; 1] = ["panic-amd-6.12"];
/// The one query for a fleet's incidents, as daemon/docs/operating.md has it.
const FLEET: &str = "sum by (instance, outcome, cause) (poisontrace_incident_verdicts_total) > 0";
const REPLAYED_WITHIN: Duration = Duration::from_secs(180);
/// Metrics that only a live kernel has; a replay serves none of them.
const LIVE: [&str; 4] = [
    "poisontrace_forecast_timestamp_seconds",
    "poisontrace_kernel_memory_failures_total",
    "poisontrace_probe_run",
    "by_forecast",
];
/// Alerts that must fire during the replay; no other may, except the one for guests at risk.
const FIRES: [&str; 3] = [
    "PoisontraceGuestLost",
    "PoisontraceGuestSpins",
    "PoisontraceStorm",
];
const MAY_FIRE: &str = "PoisontraceGuestAtRisk";

pub fn run(paths: &Paths, daemon: &Path, tally: &mut Tally, progress: &Progress) -> Result<()> {
    let programs = prometheus::set_up(paths, progress)?;
    let dashboards = dashboards::all(&paths.root)?;
    progress.step("Prometheus scrapes a replay");
    let replay = Replay::run(paths, daemon, &programs);
    progress.aside(|| {
        let mut check = |what: &str, outcome: Result<()>| tally.check(NAME, what, outcome);
        check("know_only_documented_metrics", documented(paths, &dashboards));
        check(
            "promtool_check_rules",
            promtool(
                paths,
                &programs,
                &["check", "rules", "recording.yml", "alerts.yml"],
            ),
        );
        check(
            "promtool_test_rules",
            promtool(paths, &programs, &["test", "rules", "tests.yml"]),
        );
        match replay {
            Err(error) => check("a_replay_is_scraped", Err(error)),
            Ok(replay) => {
                check(
                    "each_alert_has_severity_and_runbook",
                    runbooks(paths, &replay.prometheus),
                );
                for dashboard in &dashboards {
                    for query in dashboard.queries(&dashboards::SHORT_REPLAY) {
                        let live = if live(&query.expr) {
                            " (of a live kernel: valid, no data here)"
                        } else {
                            ""
                        };
                        let what = format!("{}: {}: {}{live}", dashboard.file, query.panel, query.expr);
                        check(&what, has_data(&replay.prometheus, &query.expr));
                    }
                }
                check(
                    "one_query_finds_the_incidents_of_two_hosts",
                    fleet(paths, &replay.prometheus),
                );
                check("the_alerts_that_should_fire_do", fired(&replay.prometheus));
            }
        }
    });
    Ok(())
}

/// A Prometheus that has watched the recordings being replayed, and still watches.
pub struct Replay {
    pub prometheus: Prometheus,
    _daemons: Vec<Running>,
}

impl Replay {
    pub fn run(paths: &Paths, daemon: &Path, programs: &Path) -> Result<Self> {
        let targets = [
            format!("127.0.0.1:{}", prometheus::free_port()?),
            format!("127.0.0.1:{}", prometheus::free_port()?),
        ];
        let prometheus = Prometheus::start(
            programs,
            tempfile::tempdir()?,
            &Scrape::every_second(&targets),
            &hurried(paths)?,
        )?;
        // It begins to scrape some seconds after it is ready; what is replayed before that it does not see change.
        let begun = Instant::now();
        while prometheus.series("up")?.is_empty() {
            ensure!(
                begun.elapsed() < REPLAYED_WITHIN,
                "Prometheus does not begin to scrape"
            );
            std::thread::sleep(Duration::from_millis(200));
        }
        let mut daemons = Vec::new();
        for (target, recordings) in targets.iter().zip([&REPLAYED[..], &ELSEWHERE[..]]) {
            let log = prometheus.folder().join(format!("{target}.log"));
            daemons.push((replay(paths, daemon, target, recordings, &log)?, log));
        }
        for (running, log) in &mut daemons {
            until_replayed(running, log)?;
        }
        // Some scrapes more, and the rules that wait for five seconds.
        std::thread::sleep(Duration::from_secs(8));
        Ok(Self {
            prometheus,
            _daemons: daemons.into_iter().map(|(running, _)| running).collect(),
        })
    }
}

/// A daemon that replays recordings, and goes on serving.
fn replay(paths: &Paths, daemon: &Path, target: &str, recordings: &[&str], log: &Path) -> Result<Running> {
    let folder = paths.root.join("daemon/tests/recordings");
    let mut replay = command::clean(daemon);
    replay
        .args(["replay", MAX_PAUSE, "2", KEEP_SERVING, PER_VM_METRICS])
        .args([LISTEN_ADDRESS, target, "--from"])
        .args(
            recordings
                .iter()
                .map(|name| folder.join(format!("{name}.ptrace"))),
        );
    Running::start(&mut replay, log)
}

fn until_replayed(running: &mut Running, log: &Path) -> Result<()> {
    let begun = Instant::now();
    loop {
        let output = fs::read_to_string(log).unwrap_or_default();
        if output.contains(daemon_lines::REPLAYED) {
            return Ok(());
        }
        running.lives().with_context(|| output.clone())?;
        ensure!(
            begun.elapsed() < REPLAYED_WITHIN,
            "the replay does not end: {output}"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// The rules, evaluated every second, and without the patience that a replay of half a minute has no time for.
fn hurried(paths: &Paths) -> Result<Vec<(String, String)>> {
    let mut rules = Vec::new();
    for name in ["recording", "alerts"] {
        let text = fs::read_to_string(paths.root.join(format!("dashboards/prometheus/{name}.yml")))?;
        ensure!(
            text.contains("interval: 30s"),
            "{name}.yml has no interval of 30s"
        );
        let text = text
            .replace("interval: 30s", "interval: 1s")
            .replace("for: 1m\n", "for: 5s\n");
        rules.push((format!("{name}.rules.yml"), text));
    }
    Ok(rules)
}

fn promtool(paths: &Paths, programs: &Path, arguments: &[&str]) -> Result<()> {
    let mut promtool = command::clean(programs.join("promtool"));
    promtool.current_dir(paths.root.join("dashboards/prometheus"));
    command::output(promtool.args(arguments))?;
    Ok(())
}

/// Words that begin like our metrics, without the endings of a histogram's series.
fn metrics(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'))
        .filter(|word| word.starts_with("poisontrace_") || word.starts_with("process_"))
        .map(|word| {
            ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|ending| word.strip_suffix(ending))
                .unwrap_or(word)
        })
        .collect()
}

fn documented(paths: &Paths, dashboards: &[Dashboard]) -> Result<()> {
    let known = fs::read_to_string(paths.root.join("daemon/docs/metrics.md"))?;
    let known = metrics(&known);
    let mut used = 0;
    let mut files: Vec<(&str, String)> = dashboards
        .iter()
        .map(|dashboard| (dashboard.file.as_str(), dashboard.content.to_string()))
        .collect();
    for name in ["recording.yml", "alerts.yml"] {
        let text = fs::read_to_string(paths.root.join("dashboards/prometheus").join(name))?;
        files.push((name, text));
    }
    for (file, text) in &files {
        for metric in metrics(text) {
            ensure!(
                known.contains(metric),
                "{file} uses {metric}, which daemon/docs/metrics.md does not know"
            );
            used += 1;
        }
    }
    ensure!(used > 30, "only {used} uses of metrics were found");
    Ok(())
}

fn runbooks(paths: &Paths, prometheus: &Prometheus) -> Result<()> {
    let alerts = prometheus.alerts()?;
    ensure!(alerts.len() >= 10, "Prometheus knows {} alerts", alerts.len());
    for alert in alerts {
        let name = alert["name"].as_str().unwrap_or_default();
        let severity = alert["labels"]["severity"].as_str().unwrap_or_default();
        ensure!(
            ["critical", "warning"].contains(&severity),
            "{name} has severity {severity:?}"
        );
        let url = alert["annotations"]["runbook_url"].as_str().unwrap_or_default();
        let page = url.rsplit('/').next().unwrap_or_default();
        ensure!(page == format!("{name}.md"), "{name} has runbook_url {url:?}");
        let runbook = fs::read_to_string(paths.root.join("dashboards/runbooks").join(page))
            .with_context(|| format!("{name} has no runbook {page}"))?;
        for heading in ["Meaning", "Impact", "Diagnosis", "Mitigation"] {
            ensure!(
                runbook.contains(&format!("\n## {heading}\n\n")),
                "{page} has no section {heading}"
            );
        }
    }
    Ok(())
}

fn has_data(prometheus: &Prometheus, expr: &str) -> Result<()> {
    let series = prometheus.series(expr)?;
    ensure!(live(expr) || !series.is_empty(), "no data");
    Ok(())
}

fn fleet(paths: &Paths, prometheus: &Prometheus) -> Result<()> {
    let hosts: BTreeSet<String> = prometheus
        .series(FLEET)?
        .iter()
        .filter(|series| series.labels["outcome"] == "guest_panicked")
        .filter_map(|series| Some(series.labels["instance"].as_str()?.to_owned()))
        .collect();
    ensure!(hosts.len() == 2, "a panicked guest on {hosts:?}");
    let document = fs::read_to_string(paths.root.join("daemon/docs/operating.md"))?;
    ensure!(document.contains(FLEET), "operating.md has another query");
    Ok(())
}

fn live(expr: &str) -> bool {
    LIVE.iter().any(|metric| expr.contains(metric))
}

fn fired(prometheus: &Prometheus) -> Result<()> {
    let fired: BTreeSet<String> = prometheus
        .series("ALERTS{alertstate=\"firing\"}")?
        .iter()
        .filter_map(|series| Some(series.labels["alertname"].as_str()?.to_owned()))
        .collect();
    for alert in FIRES {
        ensure!(fired.contains(alert), "{alert} did not fire; {fired:?} did");
    }
    if let Some(other) = fired
        .iter()
        .find(|alert| !FIRES.contains(&alert.as_str()) && *alert != MAY_FIRE)
    {
        bail!("{other} fired");
    }
    Ok(())
}
