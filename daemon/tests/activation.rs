//! A socket passed by a service manager (sd_listen_fds(3)).

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::fd::OwnedFd,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

#[test]
fn a_passed_socket_is_served_and_the_configured_address_is_not() {
    let recording = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings/survive-amd-6.12.ptrace");
    let handed = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = handed.local_addr().unwrap();
    let other = {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap()
    };
    let mut daemon = Command::new("sh")
        // The first passed descriptor is 3; the shell execs the daemon, so that LISTEN_PID is the daemon's pid.
        .args([
            "-c",
            "exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$0\" \"$@\"",
        ])
        .arg(env!("CARGO_BIN_EXE_poisontrace"))
        .args([
            "replay",
            "--speed",
            "max",
            "--keep-serving",
            "--web.listen-address",
        ])
        .arg(other.to_string())
        .arg("--from")
        .arg(&recording)
        .stdin(OwnedFd::from(handed))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    let refused = TcpStream::connect(other).is_err();
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    read.unwrap();
    assert!(answer.contains("poisontrace_build_info"), "{answer}");
    assert!(refused, "it listens on {other} too");
}
