//! Debian's Prometheus, unpacked below target/: scrapes, evaluates rules, and is asked.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::unpacked;
use xtask_support::command;
use xtask_support::paths::Paths;
use xtask_support::progress::Progress;

const READY_WITHIN: Duration = Duration::from_secs(60);
/// Of an answer, in bytes.
const MOST: u64 = 1 << 30;

/// Debian 12 has promtool in the first, later releases in a package of its own.
const PACKAGES: [&str; 2] = ["prometheus", "promtool"];

/// The folder of `prometheus` and `promtool`.
pub fn set_up(paths: &Paths, progress: &Progress) -> Result<PathBuf> {
    let tree = unpacked::tree(paths, "prometheus", &PACKAGES, progress)?;
    Ok(tree.join("usr/bin"))
}

/// A port of this machine that nobody listens on.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A process that ends with its owner.
pub struct Running(Child);

impl Running {
    pub fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let out = fs::File::create(log)?;
        let err = out.try_clone()?;
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self(child))
    }

    /// Fails where it has ended.
    pub fn lives(&mut self) -> Result<()> {
        match self.0.try_wait()? {
            Some(status) => bail!("it ended: {status}"),
            None => Ok(()),
        }
    }

    pub fn used(&self) -> Result<Used> {
        let proc = PathBuf::from(format!("/proc/{}", self.0.id()));
        let status = fs::read_to_string(proc.join("status"))?;
        let resident = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"))
            .context("no VmRSS in its status")?;
        let stat = fs::read_to_string(proc.join("stat"))?;
        // After the name in parentheses: user and system time are the 12th and 13th field.
        let after = stat.rsplit(')').next().unwrap_or_default();
        let mut ticks = after.split_ascii_whitespace().skip(11).map(str::parse::<u64>);
        let mut tick = || -> Result<u64> { Ok(ticks.next().context("a short stat")??) };
        let ticks = tick()? + tick()?;
        Ok(Used {
            resident_kib: resident.parse()?,
            processor: Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second()),
        })
    }
}

pub struct Used {
    pub resident_kib: u64,
    pub processor: Duration,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

pub struct Prometheus {
    url: String,
    started: Instant,
    running: Running,
    folder: TempDir,
}

/// What is scraped, how often, and for how long it is kept.
pub struct Scrape {
    pub seconds: u32,
    /// Of the job, below its name.
    pub targets: String,
    pub kept_days: u32,
}

impl Scrape {
    /// These addresses, every second.
    pub fn every_second(targets: &[String]) -> Self {
        Self {
            seconds: 1,
            targets: format!("static_configs: [{{targets: ['{}']}}]", targets.join("', '")),
            kept_days: 1,
        }
    }
}

/// Where in `folder` the series are kept.
pub fn data(folder: &Path) -> PathBuf {
    folder.join("data")
}

impl Prometheus {
    /// Scrapes, and evaluates `rules`; what is in `folder`'s [`data`] already is its past.
    pub fn start(
        programs: &Path,
        folder: TempDir,
        scrape: &Scrape,
        rules: &[(String, String)],
    ) -> Result<Self> {
        for (name, text) in rules {
            fs::write(folder.path().join(name), text)?;
        }
        let config = folder.path().join("prometheus.yml");
        let Scrape {
            seconds,
            targets,
            kept_days,
        } = scrape;
        fs::write(
            &config,
            format!(
                "global: {{scrape_interval: {seconds}s, scrape_timeout: {seconds}s, evaluation_interval: {seconds}s}}
rule_files: ['*.rules.yml']
scrape_configs:
  - job_name: poisontrace
    {targets}
"
            ),
        )?;
        let address = format!("127.0.0.1:{}", free_port()?);
        let mut command = command::clean(programs.join("prometheus"));
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", data(folder.path()).display()))
            .arg(format!("--storage.tsdb.retention.time={kept_days}d"))
            .arg(format!("--web.listen-address={address}"));
        let log = folder.path().join("log");
        let mut running = Running::start(&mut command, &log)?;
        let url = format!("http://{address}");
        let started = Instant::now();
        while ureq::get(format!("{url}/-/ready")).call().is_err() {
            running
                .lives()
                .with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
            ensure!(
                started.elapsed() < READY_WITHIN,
                "Prometheus does not become ready"
            );
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(Self {
            url,
            started,
            running,
            folder,
        })
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The series of a query, each second since the start; values that are no number are left out, and series without any.
    pub fn series(&self, expr: &str) -> Result<Vec<Series>> {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)?
            .as_secs_f64();
        let mut answer = ureq::get(format!("{}/api/v1/query_range", self.url))
            .config()
            .http_status_as_error(false)
            .build()
            .query("query", expr)
            .query("start", format!("{}", now - self.started.elapsed().as_secs_f64()))
            .query("end", format!("{now}"))
            .query("step", "1s")
            .call()?;
        let answer: Value = answer.body_mut().read_json()?;
        ensure!(
            answer["status"] == "success",
            "{}",
            answer["error"].as_str().unwrap_or("Prometheus gives no reason")
        );
        let result = answer["data"]["result"].as_array().context("no list of series")?;
        let series = result.iter().map(|one| Series {
            labels: one["metric"].clone(),
            points: one["values"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|point| Some((point[0].as_f64()?, point[1].as_str()?.parse::<f64>().ok()?)))
                .filter(|(_, value)| value.is_finite())
                .collect(),
        });
        Ok(series.filter(|series| !series.points.is_empty()).collect())
    }

    /// The answer to a query, and how long it took to arrive.
    pub fn ask(&self, expr: &str, when: &When) -> Result<Answer> {
        let begun = Instant::now();
        let (path, parameters) = match when {
            When::At(time) => ("query", vec![("time", time.to_string())]),
            When::Over { start, end, step } => (
                "query_range",
                vec![
                    ("start", start.to_string()),
                    ("end", end.to_string()),
                    ("step", step.to_string()),
                ],
            ),
        };
        let mut answer = ureq::get(format!("{}/api/v1/{path}", self.url))
            .config()
            .http_status_as_error(false)
            .build()
            .query("query", expr)
            .query_pairs(parameters)
            .call()?;
        let text = answer.body_mut().with_config().limit(MOST).read_to_string()?;
        let took = begun.elapsed();
        let answer: Value = serde_json::from_str(&text)?;
        ensure!(
            answer["status"] == "success",
            "{expr}: {}",
            answer["error"].as_str().unwrap_or("Prometheus gives no reason")
        );
        let series = answer["data"]["result"].as_array().context("no list of series")?;
        Ok(Answer {
            took,
            series: series.clone(),
        })
    }

    /// The alert rules that it has loaded.
    pub fn alerts(&self) -> Result<Vec<Value>> {
        let rules = self.groups()?.into_iter().flat_map(|group| {
            let rules = group["rules"].as_array().cloned();
            rules.unwrap_or_default()
        });
        Ok(rules.filter(|rule| rule["type"] == "alerting").collect())
    }

    /// The groups of rules that it has loaded, with how long each took.
    pub fn groups(&self) -> Result<Vec<Value>> {
        let mut answer = ureq::get(format!("{}/api/v1/rules", self.url)).call()?;
        let mut answer: Value = answer.body_mut().with_config().limit(MOST).read_json()?;
        match answer["data"]["groups"].take() {
            Value::Array(groups) => Ok(groups),
            _ => bail!("no list of groups"),
        }
    }

    /// Resident memory, and processor time so far.
    pub fn used(&self) -> Result<Used> {
        self.running.used()
    }
}

/// The time of a query: one instant, or steps in a span; in seconds since the epoch.
pub enum When {
    At(u64),
    Over { start: u64, end: u64, step: u64 },
}

pub struct Answer {
    pub took: Duration,
    pub series: Vec<Value>,
}

pub struct Series {
    pub labels: Value,
    /// Seconds since the epoch, and the value.
    pub points: Vec<(f64, f64)>,
}
