//! Debian's Prometheus, unpacked below target/: scrapes, evaluates rules, and is asked.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use xtask_support::command;
use xtask_support::debian::{self, Apt, Package};
use xtask_support::paths::Paths;
use xtask_support::progress::Progress;
use xtask_support::stamp::{self, Stamp};

const READY_WITHIN: Duration = Duration::from_secs(60);

/// Debian 12 has promtool in the first, later releases in a package of its own.
const PACKAGES: [&str; 2] = ["prometheus", "promtool"];

/// The folder of `prometheus` and `promtool`.
pub fn set_up(paths: &Paths, progress: &Progress) -> Result<PathBuf> {
    let tree = paths.target.join("prometheus");
    let wanted = PACKAGES.map(str::to_owned).to_vec();
    if stamp::read(&tree, &wanted).is_none() {
        let apt = Apt::update(&paths.apt("tests"), progress)?;
        stamp::start_over(&tree)?;
        let mut offered = wanted.clone();
        for name in &wanted {
            if apt.candidate(name)?.is_none() {
                offered.retain(|offer| offer != name);
            }
        }
        let packages = apt.download(&offered, progress)?;
        let installed = packages.iter().map(Package::label).collect();
        debian::unpack(&packages, &tree, progress)?;
        stamp::write(&tree, &Stamp { wanted, installed })?;
    }
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
    _running: Running,
    folder: TempDir,
}

impl Prometheus {
    /// Scrapes `targets` and evaluates `rules` every second.
    pub fn start(programs: &Path, targets: &[String], rules: &[(String, String)]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        for (name, text) in rules {
            fs::write(folder.path().join(name), text)?;
        }
        let config = folder.path().join("prometheus.yml");
        fs::write(
            &config,
            format!(
                "global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}
rule_files: ['*.rules.yml']
scrape_configs:
  - job_name: poisontrace
    static_configs: [{{targets: ['{}']}}]
",
                targets.join("', '")
            ),
        )?;
        let address = format!("127.0.0.1:{}", free_port()?);
        let mut command = command::clean(programs.join("prometheus"));
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.path().join("data").display()
            ))
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
            _running: running,
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

    /// The alert rules that it has loaded.
    pub fn alerts(&self) -> Result<Vec<Value>> {
        let mut answer = ureq::get(format!("{}/api/v1/rules?type=alert", self.url)).call()?;
        let answer: Value = answer.body_mut().read_json()?;
        let groups = answer["data"]["groups"].as_array().context("no list of groups")?;
        Ok(groups
            .iter()
            .filter_map(|group| group["rules"].as_array())
            .flatten()
            .cloned()
            .collect())
    }
}

pub struct Series {
    pub labels: Value,
    /// Seconds since the epoch, and the value.
    pub points: Vec<(f64, f64)>,
}
