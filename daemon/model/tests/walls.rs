//! The model has no files, network, clocks, processes or environment: tried, not trusted.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking; its helper functions too"
)]

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Output, Stdio},
};

/// What must not be reached for.
const FORBIDDEN: [&str; 6] = [
    "std::fs::read(\"x\")",
    "std::net::TcpStream::connect(\"x\")",
    "std::time::Instant::now()",
    "std::time::SystemTime::now()",
    "std::env::var(\"x\")",
    "std::process::id()",
];
/// Crates that bring I/O, a runtime or a database.
const FOREIGN: [&str; 8] = [
    "tokio", "libc", "rustix", "rusqlite", "aya", "hyper", "tracing", "procfs",
];

/// Compiles a crate that has the head of the model's and one function.
fn compiled(expression: &str) -> Output {
    let lib = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let head: String = lib
        .lines()
        .take_while(|line| !line.starts_with("pub mod"))
        .flat_map(|line| [line, "\n"])
        .collect();
    let mut rustc = Command::new("rustc")
        .args([
            "--edition",
            "2024",
            "--crate-type",
            "lib",
            "--emit",
            "metadata",
            "-o",
        ])
        .arg(tempfile::NamedTempFile::new().unwrap().path())
        .arg("-")
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let source = format!("{head}\npub fn tried() {{ let _ = {expression}; }}\n");
    rustc.stdin.take().unwrap().write_all(source.as_bytes()).unwrap();
    rustc.wait_with_output().unwrap()
}

#[test]
fn files_network_clocks_and_environment_do_not_compile() {
    let allowed = compiled("alloc::vec::Vec::<u8>::new()");
    assert!(
        allowed.status.success(),
        "{}",
        String::from_utf8_lossy(&allowed.stderr)
    );
    for expression in FORBIDDEN {
        let output = compiled(expression);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{expression} compiles");
        assert!(stderr.contains("std"), "{expression}: {stderr}");
    }
}

#[test]
fn no_dependency_brings_io() {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--package",
            "poisontrace-model",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let tree = String::from_utf8(output.stdout).unwrap();
    assert!(
        tree.starts_with("poisontrace-model"),
        "{output:?}",
        output = output.status
    );
    for line in tree.lines() {
        let name = line.split(' ').next().unwrap();
        assert!(!FOREIGN.contains(&name), "{line}");
    }
}

/// The one dependency that has a clock: other crates' features bring it in, so the compiler does not refuse it.
#[test]
fn the_clock_of_the_calendars_library_is_not_asked() {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let source = std::fs::read_to_string(&path).unwrap();
            for clock in ["Timestamp::now", "Zoned::now", "TimeZone::system"] {
                assert!(!source.contains(clock), "{}: {clock}", path.display());
            }
        }
    }
}
