//! Abuse of /metrics of the real binary: slow and endless requests, random bytes, big headers, many connections. A
//! well-behaved scraper still gets its responses, and memory does not grow.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking; its helper functions too"
)]

#[path = "daemon_process/mod.rs"]
mod daemon_process;
#[path = "synthetic_load/mod.rs"]
mod synthetic_load;

use std::{
    collections::VecDeque,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    time::{Duration, Instant},
};

use daemon_process::{Replay, record};
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use synthetic_load::{Load, Page};

/// More than the number of connections served at one time.
const MANY: usize = 120;
/// Time limit for the headers of a request, with a margin for a busy machine.
const HEADERS_END: Duration = Duration::from_secs(15);
/// A request behind idle connections: Prometheus gives up after 10 s.
const BEHIND_IDLE: Duration = Duration::from_secs(5);
/// Growth of the daemon's memory that abuse may cause, KiB.
const MORE_KIB: u64 = 8 << 10;

fn start(dir: &Path) -> Replay {
    let recording = dir.join("one.ptrace");
    let mut load = Load::default();
    load.vm(1);
    load.poison(Page { vm: 1, no: 1 }, 12);
    record(&recording, &load.events);
    let mut daemon = Replay::start([Path::new("--from"), &recording, Path::new("--keep-serving")]);
    daemon.wait_for("still serving");
    daemon
}

fn status(answer: &str) -> &str {
    answer.split_whitespace().nth(1).unwrap_or("none")
}

fn only_reads_are_served(daemon: &Replay) {
    for method in [
        "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "BREW",
    ] {
        let answer = daemon.request(
            format!("{method} /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes(),
        );
        assert!(matches!(status(&answer), "405" | "400"), "{method}: {answer}");
    }
    let answer =
        daemon.request(b"POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999999\r\n\r\nabc");
    assert_eq!(status(&answer), "405", "a body is not read");
}

fn big_headers_are_refused(daemon: &Replay) {
    let mut request = b"GET /metrics HTTP/1.1\r\nHost: a\r\n".to_vec();
    request.extend(format!("X: {}\r\n\r\n", "x".repeat(1 << 20)).bytes());
    let answer = daemon.request(&request);
    assert!(matches!(status(&answer), "431" | "400" | "none"), "{answer}");
    let mut request = b"GET /metrics HTTP/1.1\r\nHost: a\r\n".to_vec();
    (0..1000).for_each(|n| request.extend(format!("X-{n}: 1\r\n").bytes()));
    request.extend(b"\r\n");
    let answer = daemon.request(&request);
    assert!(matches!(status(&answer), "431" | "400" | "none"), "{answer}");
    let answer = daemon.request(format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(1 << 20)).as_bytes());
    assert!(
        matches!(status(&answer), "414" | "431" | "400" | "none"),
        "{answer}"
    );
}

fn random_bytes_are_refused(daemon: &Replay) {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    for n in 0..200 {
        let mut bytes = Vec::new();
        for _ in 0..(n * 7) % 500 + 1 {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            bytes.extend(seed.to_le_bytes());
        }
        let mut stream = daemon.connect();
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"HTTP/1.1 200"));
    }
}

/// Each client sends a byte now and then, and never finishes its headers.
fn slow_requests_are_closed(daemon: &Replay) {
    let began = Instant::now();
    let mut slow: Vec<TcpStream> = (0..8).map(|_| daemon.connect()).collect();
    for stream in &mut slow {
        stream.write_all(b"GET /metrics HTTP/1.1\r\nX: ").unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    }
    let mut open = slow;
    let mut scrapes = 0;
    while !open.is_empty() {
        assert!(
            began.elapsed() < HEADERS_END,
            "{} slow requests are still open",
            open.len()
        );
        open.retain_mut(|stream| stream.write_all(b"a").is_ok() && !closed(stream));
        let (_, took) = daemon.metrics();
        assert!(
            took < Duration::from_secs(2),
            "a scrape beside slow ones took {took:?}"
        );
        scrapes += 1;
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(scrapes > 3);
}

fn closed(stream: &mut TcpStream) -> bool {
    let mut bytes = [0; 256];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(err) => {
                return !matches!(
                    err.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                );
            }
        }
    }
}

/// Idle connections take all slots; they are closed, and the next in the queue is served.
fn many_connections_do_not_lock_others_out(daemon: &Replay) {
    let idle: Vec<TcpStream> = (0..MANY).map(|_| daemon.connect()).collect();
    let began = Instant::now();
    let mut asked = daemon.connect();
    asked.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    asked
        .write_all(b"GET /-/healthy HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    asked.read_to_string(&mut answer).unwrap();
    assert_eq!(status(&answer), "200", "{answer}");
    let took = began.elapsed();
    eprintln!("behind {MANY} idle connections: {took:?}");
    assert!(took < BEHIND_IDLE, "{took:?} behind {MANY} idle connections");
    drop(idle);
}

/// A client's connection from another address of this machine.
fn connect_from(source: [u8; 4], to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&socket, &SocketAddr::from((source, 0)))?;
    connect(&socket, &to)?;
    Ok(TcpStream::from(socket))
}

/// Another host opens connections as fast as it can, and leaves them idle.
fn a_flood_of_connections_of_another_peer_keeps_no_scraper_waiting(daemon: &Replay) {
    let to = daemon.address;
    let until = Instant::now() + Duration::from_secs(6);
    let flooders: Vec<_> = (0..3)
        .map(|_| {
            std::thread::spawn(move || {
                let (mut open, mut count) = (VecDeque::new(), 0_u32);
                while Instant::now() < until {
                    open.extend(connect_from([127, 0, 0, 2], to).ok());
                    count += 1;
                    if open.len() > 100 {
                        open.pop_front();
                    }
                }
                count
            })
        })
        .collect();
    let (mut slowest, mut scrapes) = (Duration::ZERO, 0);
    while Instant::now() < until {
        let (_, took) = daemon.metrics();
        slowest = slowest.max(took);
        scrapes += 1;
        std::thread::sleep(Duration::from_millis(100));
    }
    let count: u32 = flooders.into_iter().map(|flooder| flooder.join().unwrap()).sum();
    println!("{count} connections of another peer in 6 s: {scrapes} scrapes, the slowest {slowest:?}");
    assert!(slowest < BEHIND_IDLE, "{slowest:?}");
}

#[test]
fn abuse_of_the_endpoint_is_bounded_and_harms_no_other_client() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = start(dir.path());
    let _ = daemon.metrics();
    let before = daemon.memory_kib("VmRSS");
    only_reads_are_served(&daemon);
    big_headers_are_refused(&daemon);
    random_bytes_are_refused(&daemon);
    slow_requests_are_closed(&daemon);
    many_connections_do_not_lock_others_out(&daemon);
    a_flood_of_connections_of_another_peer_keeps_no_scraper_waiting(&daemon);
    let (text, _) = daemon.metrics();
    assert!(text.contains("poisontrace_"));
    let after = daemon.memory_kib("VmRSS");
    eprintln!("RSS {before} KiB before, {after} KiB after");
    assert!(after < before + MORE_KIB, "{before} KiB grew to {after} KiB");
    assert!(daemon.running());
    daemon.stop();
}
