//! Incidents of several hosts in one store, by rsyslog over TLS with the configuration of daemon/packaging/rsyslog, and the query
//! that answers which hosts lost guests. Each host has a journal of systemd's and an rsyslog of its own, in namespaces.

use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
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
const PACKAGES: [&str; 8] = [
    "rsyslog",
    "rsyslog-gnutls",
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
    /// The lab has no DIMMs: EDAC's report of one is added to the recording, for the page at this physical address.
    dimm: Option<&'static str>,
}

const DIMM: &str = "CPU_SrcID#0_MC#1_Chan#0_DIMM#1";

const HOSTS: [Host; 3] = [
    Host {
        name: "host-a",
        recording: "panic-amd-6.12",
        lost: Some(("guest_panicked", "mce_overflow")),
        dimm: Some("0x109d3000"),
    },
    Host {
        name: "host-b",
        recording: "storm-intel-6.12",
        lost: Some(("vmm_exited", "clflush")),
        dimm: None,
    },
    Host {
        name: "host-c",
        recording: "survive-amd-6.12",
        lost: None,
        dimm: None,
    },
];
const EXAMPLE: &str = "daemon/packaging/rsyslog";
const QUERY: &str = "lost-guests.jq";
/// In the certificates; the example's own.
const COLLECTOR: &str = "collector.example.net";
const HOSTS_DOMAIN: &str = "hosts.example.net";
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
    shipping.authority()?;
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

    /// The fleet's certificate authority, in the folder.
    fn authority(&self) -> Result<()> {
        let mut openssl = self.openssl("ca", "poisontrace test");
        openssl.args(["-addext", "basicConstraints=critical,CA:TRUE"]);
        command::output(&mut openssl).map(drop)
    }

    /// A certificate for `name`, signed by the authority: its folder, as the example has it in /etc/poisontrace/fleet.
    fn certificate(&self, name: &str) -> Result<PathBuf> {
        let (authority, folder) = (self.folder.path().join("ca"), self.folder.path().join(name));
        let mut openssl = self.openssl(name, name);
        openssl
            .args(["-addext", &format!("subjectAltName=DNS:{name}"), "-CA"])
            .arg(authority.join("cert.pem"))
            .arg("-CAkey")
            .arg(authority.join("key.pem"));
        command::output(&mut openssl)?;
        fs::copy(authority.join("cert.pem"), folder.join("ca.pem"))?;
        Ok(folder)
    }

    /// Makes `cert.pem` and `key.pem` in a folder of that name.
    fn openssl(&self, folder: &str, name: &str) -> std::process::Command {
        let folder = self.folder.path().join(folder);
        // openssl names a folder that is missing.
        _ = fs::create_dir(&folder);
        let mut openssl = command::clean("openssl");
        openssl
            .args(["req", "-x509", "-nodes", "-days", "2", "-newkey", "ec"])
            .args(["-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj"])
            .arg(format!("/CN={name}"))
            .arg("-out")
            .arg(folder.join("cert.pem"))
            .arg("-keyout")
            .arg(folder.join("key.pem"));
        openssl
    }

    /// The host's recording.
    fn recording(&self, host: &Host) -> Result<PathBuf> {
        let kept = format!("daemon/tests/recordings/{}.ptrace", host.recording);
        let kept = self.paths.root.join(kept);
        let Some(address) = host.dimm else { return Ok(kept) };
        let text = fs::read_to_string(kept)?;
        let mut lines: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let failure = lines
            .iter()
            .position(|line| line["event"] == "failure_begin")
            .context("no memory failure")?;
        let (t, last) = (lines[failure]["t"].clone(), lines.len() - 1);
        let events = &mut lines[last]["end"]["events"];
        *events = (events.as_u64().context("no closing line")? + 1).into();
        let report =
            json!({"t": t, "tid": 0, "pid": 0, "event": "edac_error", "addr": address, "label": DIMM});
        lines.insert(failure, report);
        let path = self.folder.path().join(format!("{}.ptrace", host.name));
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        fs::write(&path, text)?;
        Ok(path)
    }

    /// A file of the example for the machine `name`, with the collector's address, port and folders replaced.
    fn configuration(&self, file: &str, name: &str, port: u16) -> Result<PathBuf> {
        let text = fs::read_to_string(self.paths.root.join(EXAMPLE).join(file))?;
        let certificate = self.certificate(name)?;
        let folder = self.folder.path().display();
        let here = text
            .replace(&format!("target=\"{COLLECTOR}\""), "target=\"127.0.0.1\"")
            .replace("/etc/poisontrace/fleet", &certificate.display().to_string())
            .replace("\"10514\"", &format!("\"{port}\""))
            .replace("/var/lib/poisontrace-fleet", &folder.to_string());
        ensure!(here.contains(&port.to_string()), "{file} has another port");
        let path = certificate.join(file);
        // As Debian's rsyslog.conf begins; on a host /run is its own.
        let work = match name {
            COLLECTOR => folder.to_string(),
            _ => "/run".to_owned(),
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
            .arg(self.configuration("poisontrace-collector.conf", COLLECTOR, port)?)
            .arg("-i")
            .arg(self.folder.path().join("pid"));
        let log = self.folder.path().join("collector.log");
        let mut collector = Running::start(&mut collector, &log)?;
        let mut journals = 0;
        for host in &HOSTS {
            let name = format!("{}.{HOSTS_DOMAIN}", host.name);
            let (configuration, recording) = (
                self.configuration("poisontrace-host.conf", &name, port)?,
                self.recording(host)?,
            );
            let host = host.name;
            let mut steps = command::clean("unshare");
            steps
                .args(["--mount", "--uts", "--propagation", "private", "sh", "-c", STEPS])
                .env("HOST", host)
                .env("RECORDING", recording)
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
        // Refused: in the clear, and by a name that is none of the hosts'.
        let mut stranger = TcpStream::connect(("127.0.0.1", port))?;
        let line = "{\"host\":\"stranger\",\"incident\":{\"id\":\"1\"}}";
        // A connection that is reset meanwhile is what is wanted.
        _ = write!(stranger, "{} {line}", line.len());
        self.by_another_name(port, line)?;
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

    /// Sends a line with a certificate of the authority that names no host.
    fn by_another_name(&self, port: u16, line: &str) -> Result<()> {
        let folder = self.certificate("guest.example.net")?;
        let mut openssl = command::clean("openssl");
        openssl
            .args([
                "s_client",
                "-quiet",
                "-no_ign_eof",
                "-connect",
                &format!("127.0.0.1:{port}"),
            ])
            .arg("-cert")
            .arg(folder.join("cert.pem"))
            .arg("-key")
            .arg(folder.join("key.pem"))
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null());
        let mut client = openssl.spawn().context("cannot start openssl")?;
        if let Some(mut input) = client.stdin.take() {
            _ = write!(input, "{} {line}", line.len());
        }
        client.wait()?;
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
            .filter_map(|host| {
                host.lost
                    .map(|(outcome, cause)| (host.name, outcome, cause, host.dimm.is_some()))
            })
            .collect();
        let found: Vec<_> = found
            .iter()
            .filter_map(|line| {
                Some((
                    *line.first()?,
                    *line.get(3)?,
                    *line.get(4)?,
                    *line.get(6)? == DIMM,
                ))
            })
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
