//! `web.incidents` of the real binary, as a browser and a pipeline would use it: lists, filters, pages, the report, JSON by the schema;
//! hostile names, hostile requests, a store that is not there; refused where others could connect.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking; its helper functions too"
)]

#[path = "daemon_process/mod.rs"]
mod daemon_process;
#[path = "synthetic_load/mod.rs"]
mod synthetic_load;

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use daemon_process::{Replay, binary, record};
use poisontrace_model::event::{EventKind, Vmm};
use serde_json::Value;
use synthetic_load::{Load, Page};

const EVIL: &str = "\"><script>alert(1)</script>&vm=other#%00";
const LISTS: [&str; 2] = ["/incidents", "/api/v1/incidents"];

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1);
        let mut pairs = lines.filter_map(|line| line.split_once(": "));
        pairs
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|err| panic!("{err}: {}", self.body))
    }

    /// Path and query of the next page.
    fn next(&self) -> Option<String> {
        let (path, rest) = self
            .header("link")?
            .trim_start_matches('<')
            .split_once('>')
            .unwrap();
        assert_eq!(rest, "; rel=\"next\"");
        Some(path.to_owned())
    }
}

fn with_host(daemon: &Replay, path: &str, host: &str) -> Answer {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let answer = daemon.request(request.as_bytes());
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("{answer}"));
    Answer {
        status: head.split_whitespace().nth(1).unwrap().parse().unwrap(),
        head: head.to_owned(),
        body: body.to_owned(),
    }
}

fn get(daemon: &Replay, path: &str) -> Answer {
    with_host(daemon, path, "localhost")
}

/// Of a client on a thread of its own; empty where the connection was given to another.
fn status_of(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let _ = stream.write_all(request.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    answer.split_whitespace().nth(1).unwrap_or_default().to_owned()
}

/// A daemon with `vms` VMs that panic, the first of which has a hostile name, and one page that nothing touches.
fn started(dir: &Path, vms: u32) -> Replay {
    let mut load = Load::default();
    for vm in 1..=vms {
        let page = Page { vm, no: 1 };
        let name = match vm {
            1 => EVIL.to_owned(),
            vm => format!("guest-{vm}"),
        };
        let vmm = Vmm {
            is_vmm: Some(true),
            name: Some(name),
            uuid: None,
            vmm: Some("qemu-system-x86_64".to_owned()),
            start_ticks: Some(7),
            name_guess: None,
            container: None,
        };
        load.at(page.pid(), page.pid(), EventKind::Vmm(vmm));
        load.poison(page, 12);
        if vm > 1 {
            load.touch(page, page, 0, 1);
            load.inject(page, 0);
            load.panics(page);
        }
    }
    let recording = dir.join("load.ptrace");
    record(&recording, &load.events);
    let state = dir.join("state");
    let mut daemon = Replay::start([
        Path::new("--web.incidents"),
        Path::new("--state-dir"),
        &state,
        Path::new("--keep-serving"),
        Path::new("--from"),
        &recording,
    ]);
    daemon.wait_for("still serving");
    // The store writes behind.
    let until = Instant::now() + Duration::from_secs(20);
    while all(&daemon, "/api/v1/incidents").len() < vms as usize {
        assert!(Instant::now() < until, "the incidents are not stored");
        std::thread::sleep(Duration::from_millis(100));
    }
    daemon
}

/// Ids of all pages, from this one on.
fn all(daemon: &Replay, path: &str) -> Vec<String> {
    let (mut ids, mut next) = (Vec::new(), Some(path.to_owned()));
    while let Some(path) = next {
        let answer = get(daemon, &path);
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        let incidents = answer.json()["incidents"].as_array().unwrap().clone();
        ids.extend(incidents.iter().map(|one| one["id"].as_str().unwrap().to_owned()));
        next = answer.next();
        assert!(ids.len() < 1000, "pages without end");
    }
    ids
}

fn by_the_schema(document: &Value) {
    let schema: Value = serde_json::from_str(include_str!("../report/explain.schema.json")).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let errors: Vec<String> = validator
        .iter_errors(document)
        .map(|err| err.to_string())
        .collect();
    assert!(errors.is_empty(), "{errors:#?}");
}

fn is_guarded(answer: &Answer) {
    let policy = answer.header("content-security-policy").unwrap();
    for part in [
        "default-src 'none'",
        "style-src 'sha256-",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ] {
        assert!(policy.contains(part), "{policy}");
    }
    assert!(!policy.contains("unsafe") && !policy.contains("script-src"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(answer.header("referrer-policy"), Some("no-referrer"));
}

#[test]
fn a_pipeline_reads_all_incidents_page_by_page_and_each_by_its_id() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = started(dir.path(), 7);
    let first = get(&daemon, "/api/v1/incidents?limit=3");
    is_guarded(&first);
    assert_eq!(first.header("content-type"), Some("application/json"));
    by_the_schema(&first.json());
    assert_eq!(first.json()["incidents"].as_array().unwrap().len(), 3);
    let paged = all(&daemon, "/api/v1/incidents?limit=3");
    assert_eq!(
        paged,
        all(&daemon, "/api/v1/incidents"),
        "the same in other pages"
    );
    assert_eq!(
        paged.iter().collect::<BTreeSet<_>>().len(),
        7,
        "each once: {paged:?}"
    );
    for id in &paged {
        let one = get(&daemon, &format!("/api/v1/incidents/{id}"));
        let document = one.json();
        by_the_schema(&document);
        assert_eq!(
            (one.status, &document["incidents"][0]["id"]),
            (200, &Value::from(id.as_str()))
        );
        let page = get(&daemon, &format!("/incidents/{id}"));
        is_guarded(&page);
        assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
        assert!(page.body.contains("<svg class=\"story\""), "{}", page.body);
    }
    let panicked = all(&daemon, "/api/v1/incidents?outcome=guest_panicked&limit=2");
    assert_eq!(panicked.len(), 6);
    assert_eq!(all(&daemon, "/api/v1/incidents?cause=not_touched").len(), 1);
    assert_eq!(
        all(&daemon, "/api/v1/incidents?vm=guest-3&outcome=guest_panicked").len(),
        1
    );
    assert_eq!(
        all(&daemon, "/api/v1/incidents?vm=guest-3&outcome=survived").len(),
        0
    );
}

#[test]
fn a_hostile_name_is_text_on_each_page_and_its_links_lead_to_it_alone() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = started(dir.path(), 2);
    let list = get(&daemon, "/incidents");
    is_guarded(&list);
    let lower = list.body.to_lowercase();
    assert!(
        !lower.contains("<script") && lower.contains("&lt;script&gt;"),
        "{lower}"
    );
    let link = list
        .body
        .split("href=\"")
        .find(|rest| rest.starts_with("/incidents?vm=%22"));
    let link = link.unwrap().split_once('"').unwrap().0;
    let of_evil = get(&daemon, link);
    assert_eq!(of_evil.status, 200);
    assert_eq!(of_evil.body.matches("<section>").count(), 1, "{}", of_evil.body);
    assert!(!of_evil.body.to_lowercase().contains("<script"));
    let api = all(&daemon, &link.replace("/incidents", "/api/v1/incidents"));
    assert_eq!(api.len(), 1);
    let page = get(&daemon, &format!("/incidents/{}", api[0]));
    assert!(!page.body.to_lowercase().contains("<script"), "{}", page.body);
}

#[test]
fn requests_that_ask_for_nothing_sensible_are_refused_and_reveal_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = started(dir.path(), 1);
    for list in LISTS {
        for query in [
            "outcome=dead",
            "limit=x",
            "before=%27%20OR%201",
            "sort=id",
            "vm=a&x",
        ] {
            let answer = get(&daemon, &format!("{list}?{query}"));
            assert_eq!(answer.status, 400, "{query}: {}", answer.body);
            is_guarded(&answer);
        }
        for id in [
            "nothing",
            "..%2F..%2Fetc%2Fpasswd",
            "%00",
            "%27%3B%20DROP%20TABLE%20incident",
            "",
            "a/b",
        ] {
            let answer = get(&daemon, &format!("{list}/{id}"));
            assert_eq!(answer.status, 404, "{id}: {}", answer.body);
            assert!(
                !answer.body.contains(dir.path().to_str().unwrap()),
                "{}",
                answer.body
            );
        }
        // A name that a site elsewhere has pointed at this host.
        for host in ["evil.example", "evil.example:9847", "localhost.evil.example", ""] {
            let answer = with_host(&daemon, list, host);
            assert!(matches!(answer.status, 421 | 400), "{host}: {}", answer.status);
            assert!(!answer.body.contains("pfn"), "{}", answer.body);
        }
        assert_eq!(with_host(&daemon, list, "127.0.0.1:9847").status, 200);
    }
    assert_eq!(
        get(&daemon, "/api/v1/incidents/nothing").json()["error"],
        "no such incident; /incidents lists those there are"
    );
    assert_eq!(
        all(&daemon, "/api/v1/incidents").len(),
        1,
        "they are all there still"
    );
    let posted = daemon.request(b"POST /api/v1/incidents HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    assert!(posted.starts_with("HTTP/1.1 405"), "{posted}");
}

#[test]
fn many_clients_at_once_are_answered_or_put_off_and_the_scraper_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = started(dir.path(), 20);
    let address = daemon.address;
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..16)
            .map(|_| scope.spawn(move || (0..5).map(|_| status_of(address, "/incidents")).collect()))
            .collect();
        let (_, took) = daemon.metrics();
        assert!(took < Duration::from_secs(5), "{took:?}");
        for client in clients {
            let statuses: Vec<String> = client.join().unwrap();
            assert!(
                statuses
                    .iter()
                    .all(|status| matches!(status.as_str(), "200" | "503")),
                "{statuses:?}"
            );
        }
    });
}

#[test]
fn it_is_off_unless_wanted_and_refused_where_others_could_connect() {
    let dir = tempfile::tempdir().unwrap();
    let recording = dir.path().join("empty.ptrace");
    record(&recording, &[]);
    let state = dir.path().join("state");
    let mut daemon = Replay::start([
        Path::new("--state-dir"),
        &state,
        Path::new("--keep-serving"),
        Path::new("--from"),
        &recording,
    ]);
    daemon.wait_for("still serving");
    assert_eq!(get(&daemon, "/incidents").status, 404);
    assert!(!get(&daemon, "/").body.contains("/incidents\""));
    let refused = Command::new(binary())
        .args([
            "replay",
            "--web.incidents",
            "--web.listen-address",
            "0.0.0.0:0",
            "--state-dir",
        ])
        .arg(&state)
        .arg("--from")
        .arg(&recording)
        .output()
        .unwrap();
    let why = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2), "{why}");
    assert!(why.contains("TLS and a user"), "{why}");
}

#[test]
fn a_store_without_incidents_is_an_empty_list() {
    let dir = tempfile::tempdir().unwrap();
    let recording = dir.path().join("empty.ptrace");
    record(&recording, &[]);
    let mut daemon = Replay::start([
        Path::new("--web.incidents"),
        Path::new("--state-dir"),
        &dir.path().join("state"),
        Path::new("--keep-serving"),
        Path::new("--from"),
        &recording,
    ]);
    daemon.wait_for("still serving");
    let list = get(&daemon, "/incidents");
    assert_eq!(list.status, 200);
    assert!(
        list.body.contains("None: nothing here is poison"),
        "{}",
        list.body
    );
    let empty = get(&daemon, "/api/v1/incidents").json();
    by_the_schema(&empty);
    assert_eq!(empty["incidents"].as_array().unwrap().len(), 0);
    assert!(get(&daemon, "/").body.contains("href=\"/incidents\""));
}
