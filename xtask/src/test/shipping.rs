//! Incidents of several hosts in one store, by rsyslog with the configuration of daemon/packaging/rsyslog, and the query that
//! answers which hosts lost guests. Each host has a journal of systemd's and an rsyslog of its own, in namespaces.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::prometheus::{self, Running};
use crate::tally::Tally;
use crate::unpacked;
use xtask_support::command;
use xtask_support::paths::Paths;
use xtask_support::progress::Progress;

const NAME: &str = "shipping";
const STEPS: &str = include_str!("shipping.sh");
/// rsyslog and jq, and the libraries that a Debian does not have without them.
const PACKAGES: [&str; 7] = [
    "rsyslog",
    "libestr0",
    "libfastjson4",
    "liblognorm5",
    "jq",
    "libjq1",
    "libonig5",
];
struct Host {
    name: &'static str,
    recording: &'static str,
    /// Outcome and cause of the guest that it lost.
    lost: Option<(&'static str, &'static str)>,
}

const HOSTS: [Host; 3] = [
    Host {
        name: "host-a",
        recording: "panic-amd-6.12",
        lost: Some(("guest_panicked", "mce_overflow")),
    },
    Host {
        name: "host-b",
        recording: "storm-intel-6.12",
        lost: Some(("vmm_exited", "clflush")),
    },
    Host {
        name: "host-c",
        recording: "survive-amd-6.12",
        lost: None,
    },
];
const EXAMPLE: &str = "daemon/packaging/rsyslog";
const QUERY: &str = "lost-guests.jq";
const JOURNALD: &str = "/usr/lib/systemd/systemd-journald";

pub fn run(paths: &Paths, daemon: &Path, tally: &mut Tally, progress: &Progress) -> Result<()> {
    if !rustix::process::geteuid().is_root() || !Path::new(JOURNALD).exists() {
        tally.skip(NAME, &format!("it needs root and {JOURNALD}"));
        return Ok(());
    }
    let tree = unpacked::tree(paths, "rsyslog", &PACKAGES, progress)?;
    let libraries = libraries(&tree)?;
    progress.step("three hosts ship their incidents");
    let shipping = Shipping {
        paths,
        daemon,
        programs: &tree,
        libraries: &libraries,
        folder: tempfile::tempdir()?,
    };
    let shipped = shipping.ship();
    progress.aside(|| {
        tally.check(NAME, "every_state_of_each_incident_arrives_whole", shipped);
        tally.check(NAME, "the_query_names_each_lost_guest", shipping.query());
        tally.check(NAME, "the_document_has_the_example", documented(paths));
    });
    Ok(())
}

struct Shipping<'a> {
    paths: &'a Paths,
    daemon: &'a Path,
    programs: &'a Path,
    libraries: &'a Path,
    folder: TempDir,
}

impl Shipping<'_> {
    fn store(&self) -> PathBuf {
        self.folder.path().join("incidents.jsonl")
    }

    /// A file of the example, with the collector's name, port and folder replaced.
    fn configuration(&self, name: &str, port: u16) -> Result<PathBuf> {
        let text = fs::read_to_string(self.paths.root.join(EXAMPLE).join(name))?;
        let folder = self.folder.path().display();
        let here = text
            .replace("collector.example.net", "127.0.0.1")
            .replace("\"10514\"", &format!("\"{port}\""))
            .replace("/var/lib/poisontrace-fleet", &folder.to_string());
        ensure!(here.contains(&port.to_string()), "{name} has another port");
        let path = self.folder.path().join(name);
        // As Debian's rsyslog.conf begins; on a host /run is its own.
        let work = if name.contains("host") {
            "/run".to_owned()
        } else {
            folder.to_string()
        };
        fs::write(&path, format!("$WorkDirectory {work}\n{here}"))?;
        Ok(path)
    }

    fn ship(&self) -> Result<()> {
        let port = prometheus::free_port()?;
        let (rsyslogd, modules) = (
            self.programs.join("usr/sbin/rsyslogd"),
            self.libraries.join("rsyslog"),
        );
        let mut collector = command::clean(&rsyslogd);
        collector
            .env("LD_LIBRARY_PATH", self.libraries)
            .arg("-n")
            .arg("-M")
            .arg(&modules)
            .arg("-f")
            .arg(self.configuration("poisontrace-collector.conf", port)?)
            .arg("-i")
            .arg(self.folder.path().join("pid"));
        let log = self.folder.path().join("collector.log");
        let mut collector = Running::start(&mut collector, &log)?;
        let configuration = self.configuration("poisontrace-host.conf", port)?;
        let mut journals = 0;
        for Host {
            name: host,
            recording,
            ..
        } in HOSTS
        {
            let recording = format!("daemon/tests/recordings/{recording}.ptrace");
            let mut steps = command::clean("unshare");
            steps
                .args(["--mount", "--uts", "--propagation", "private", "sh", "-c", STEPS])
                .env("HOST", host)
                .env("RECORDING", self.paths.root.join(recording))
                .env("DAEMON", self.daemon)
                .env("JOURNALD", JOURNALD)
                .env("RSYSLOGD", &rsyslogd)
                .env("MODULES", &modules)
                .env("LIBRARIES", self.libraries)
                .env("CONFIGURATION", &configuration)
                .env("STORE", self.store());
            let output = command::output(&mut steps)?;
            let states = output.lines().last().unwrap_or_default();
            let states: usize = states
                .parse()
                .with_context(|| format!("{host} printed {output:?}"))?;
            ensure!(states > 0, "the journal of {host} has no incident");
            journals += states;
        }
        collector
            .lives()
            .with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
        let stored = fs::read_to_string(self.store()).context("the collector wrote nothing")?;
        let mut longest = 0;
        for line in stored.lines() {
            let sent: Value = serde_json::from_str(line).context("a line is not whole")?;
            ensure!(
                sent["incident"]["id"].is_string(),
                "a line without an incident: {line}"
            );
            longest = longest.max(line.len());
        }
        let lines = stored.lines().count();
        println!("{lines} states of incidents, the longest {longest} bytes");
        ensure!(lines == journals, "{lines} of {journals} states have arrived");
        Ok(())
    }

    fn query(&self) -> Result<()> {
        let mut jq = command::clean(self.programs.join("usr/bin/jq"));
        // The recordings are older than a month.
        jq.env("LD_LIBRARY_PATH", self.libraries)
            .args(["-nrR", "--arg", "since", "2000", "-f"])
            .arg(self.paths.root.join(EXAMPLE).join(QUERY))
            .arg(self.store());
        let answer = command::output(&mut jq)?;
        println!("{}", answer.trim_end());
        let found: Vec<Vec<&str>> = answer.lines().map(|line| line.split('\t').collect()).collect();
        let expected: Vec<_> = HOSTS
            .iter()
            .filter_map(|host| host.lost.map(|(outcome, cause)| (host.name, outcome, cause)))
            .collect();
        let found: Vec<_> = found
            .iter()
            .filter_map(|line| Some((*line.first()?, *line.get(3)?, *line.get(4)?)))
            .collect();
        ensure!(found == expected, "{found:?} in place of {expected:?}");
        Ok(())
    }
}

/// `usr/lib/x86_64-linux-gnu`, by whatever name the machine's architecture has.
fn libraries(tree: &Path) -> Result<PathBuf> {
    for entry in fs::read_dir(tree.join("usr/lib"))? {
        let path = entry?.path();
        if path.join("rsyslog/imjournal.so").exists() {
            return Ok(path);
        }
    }
    anyhow::bail!("Debian's rsyslog has no imjournal")
}

fn documented(paths: &Paths) -> Result<()> {
    let document = fs::read_to_string(paths.root.join("daemon/docs/operating.md"))?;
    for name in ["poisontrace-host.conf", "poisontrace-collector.conf", QUERY] {
        ensure!(
            paths.root.join(EXAMPLE).join(name).exists() && document.contains(name),
            "operating.md does not name {name}"
        );
    }
    Ok(())
}
