use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixListener,
    path::Path,
    sync::mpsc,
};

use super::*;
use poisontrace_model::{
    correlate::Correlator,
    event::{SigbusSeverity, Vmm, session::Session},
    hex::Hex,
    incident::{
        model::{Cause, Confidence, Outcome},
        timeline::TimelineEvent,
    },
};

const PID: u32 = 221;

/// A correlator with an incident of a VM: its page was lost, and touched.
fn incident() -> (Correlator, Update) {
    let session = Session {
        clock: machine::clock_pair(),
        ..Session::default()
    };
    let t = session.clock.monotonic_ns;
    let mut correlator = Correlator::new(session);
    let vmm = Vmm {
        is_vmm: Some(true),
        name: Some("db-7".to_owned()),
        ..Vmm::default()
    };
    for what in [
        EventKind::Vmm(vmm),
        EventKind::Sigbus {
            hva: Hex(0x7f00_0000_1000),
            severity: SigbusSeverity::ActionRequired,
            lsb: 12,
            target_tid: PID + 1,
            target_pid: PID,
            forced: false,
            comm: "qemu".to_owned(),
        },
    ] {
        correlator.feed(&Event {
            t,
            tid: PID + 1,
            pid: PID,
            vcpu: Some(0),
            what,
        });
    }
    let update = correlator.take_changed().pop().unwrap();
    (correlator, update)
}

fn watcher(dir: &Path) -> VmmWatcher {
    let place = |end: &str| format!("{}/{{name}}{end}", dir.display()).parse().unwrap();
    VmmWatcher::new(VmmPlaces {
        log: place(".log"),
        qmp: place(".qmp"),
    })
}

/// The next statement, within a generous time.
fn heard(watcher: &mut VmmWatcher) -> Event {
    let until = Instant::now() + Duration::from_secs(30);
    while Instant::now() < until {
        if let Some(event) = watcher.waiting() {
            return event;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("no statement came");
}

fn now() -> String {
    jiff::Timestamp::now().to_string()
}

#[test]
fn what_a_vmm_said_last_is_heard_once_however_often_its_end_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let line = format!(
        "{}: Guest MCE Memory Error at QEMU addr 0x7f0000001000 and GUEST addr 0x5000 of type BUS_MCEERR_AR injected\n",
        now()
    );
    fs::write(dir.path().join("db-7.log"), line).unwrap();
    let (_, mut update) = incident();
    update.closed = true;
    let mut watcher = watcher(dir.path());
    watcher.update(&update);
    heard(&mut watcher);
    // Each statement is news of the incident.
    for _ in 0..5 {
        watcher.update(&update);
        thread::sleep(2 * BRISK);
        assert!(watcher.waiting().is_none());
    }
    assert_eq!(watcher.followed.len(), 1);
}

#[test]
fn the_vmms_log_is_heard_from_the_incidents_beginning_and_joins_it() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("db-7.log");
    let injected = |gpa: &str| {
        format!(
            "qemu: Guest MCE Memory Error at QEMU addr 0x7f0000001000 and GUEST addr {gpa} of type BUS_MCEERR_AR injected\n"
        )
    };
    let early = format!(
        "2020-01-01 00:00:00.000+0000: shutting down, reason=crashed\n\
         CPU 0: Previous MCE still in progress, raising triple fault\n\
         {} {}",
        now(),
        injected("0x5000")
    );
    fs::write(&log, early).unwrap();
    let (mut correlator, update) = incident();
    let mut watcher = watcher(dir.path());
    watcher.update(&update);
    let first = heard(&mut watcher);
    assert!(
        matches!(
            &first.what,
            EventKind::LogStatement(record)
                if matches!(record.statement, LogStatement::VmmInjected { gpa: Some(Hex(0x5000)), .. })
        ),
        "what another incident left in the log is not heard: {first:?}"
    );
    correlator.feed(&first);
    let mut file = fs::OpenOptions::new().append(true).open(&log).unwrap();
    file.write_all(b"CPU 0: Previous MCE still in progress, raising triple fault\n\x1b[2J junk\n")
        .unwrap();
    correlator.feed(&heard(&mut watcher));
    let all = correlator.incidents();
    assert_eq!(all.len(), 1, "{all:#?}");
    assert_eq!(
        (all[0].outcome, all[0].cause, all[0].confidence),
        (Outcome::GuestReset, Cause::MceNested, Confidence::Certain)
    );
    assert_eq!(all[0].page.gpa, Some(Hex(0x5000)));
}

#[test]
fn qmp_is_only_listened_to() {
    let dir = tempfile::tempdir().unwrap();
    let server = UnixListener::bind(dir.path().join("db-7.qmp")).unwrap();
    let (sent, asked) = mpsc::channel();
    thread::spawn(move || {
        let (mut client, _) = server.accept().unwrap();
        client
            .write_all(b"{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 2, \"minor\": 0, \"major\": 10}}, \"capabilities\": [\"oob\"]}}\r\n")
            .unwrap();
        let mut lines = BufReader::new(client.try_clone().unwrap()).lines();
        sent.send(lines.next().unwrap().unwrap()).unwrap();
        client
            .write_all(b"{\"return\": {}}\r\n{\"timestamp\": {\"seconds\": ")
            .unwrap();
        thread::sleep(Duration::from_millis(400));
        let seconds = jiff::Timestamp::now().as_second();
        let event = format!(
            "{seconds}, \"microseconds\": 5}}, \"event\": \"MEMORY_FAILURE\", \"data\": {{\"recipient\": \"guest\", \"action\": \"reset\", \"flags\": {{\"action-required\": true, \"recursive\": false}}}}}}\r\n"
        );
        client.write_all(event.as_bytes()).unwrap();
        // Everything that it is ever asked, to its end.
        for line in lines.map_while(Result::ok) {
            sent.send(line).unwrap();
        }
    });
    let (mut correlator, mut update) = incident();
    let mut watcher = watcher(dir.path());
    watcher.update(&update);
    correlator.feed(&heard(&mut watcher));
    let all = correlator.incidents();
    assert_eq!(
        (all[0].outcome, all[0].cause),
        (Outcome::GuestReset, Cause::MceDisabled)
    );
    assert!(
        all[0]
            .timeline
            .iter()
            .any(|entry| matches!(&entry.event, TimelineEvent::Statement(line) if line.source == "QMP")),
        "{all:#?}"
    );
    // The VMM's end is the session's.
    update.closed = true;
    watcher.update(&update);
    let all: Vec<String> = asked.iter().collect();
    assert_eq!(all, ["{\"execute\":\"qmp_capabilities\"}"]);
}

#[test]
fn a_vm_without_an_incident_or_a_place_is_not_followed() {
    let (_, update) = incident();
    let mut watcher = VmmWatcher::new(VmmPlaces {
        log: Default::default(),
        qmp: Default::default(),
    });
    watcher.update(&update);
    assert!(watcher.followed.is_empty());
}

#[test]
fn many_vms_whose_sockets_accept_nobody_take_few_threads_and_hold_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let (_, update) = incident();
    let mut watcher = watcher(dir.path());
    // As many as are followed, but one: their queues are full, so that no connection is ever made.
    let mut held = Vec::new();
    let before = threads();
    for n in 1..MAX_FOLLOWED as u32 {
        let mut update = update.clone();
        update.incident.vm.name = Some(format!("stuck-{n}"));
        update.incident.vm.pid = Some(100_000 + n);
        if n < 20 {
            held.push(stuck(&dir.path().join(format!("stuck-{n}.qmp"))));
        }
        watcher.update(&update);
    }
    let server = UnixListener::bind(dir.path().join("db-7.qmp")).unwrap();
    watcher.update(&update);
    let began = Instant::now();
    let (mut client, _) = server.accept().unwrap();
    client.write_all(b"{\"QMP\": {}}\n").unwrap();
    let seconds = jiff::Timestamp::now().as_second();
    let event = format!(
        "{{\"timestamp\": {{\"seconds\": {seconds}, \"microseconds\": 5}}, \"event\": \"MEMORY_FAILURE\", \"data\": {{\"recipient\": \"guest\", \"action\": \"reset\", \"flags\": {{\"action-required\": true, \"recursive\": false}}}}}}\n"
    );
    client.write_all(event.as_bytes()).unwrap();
    assert_eq!(heard(&mut watcher).pid, PID);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    // Other tests of this process start threads too.
    assert!(
        threads() < before + 60,
        "{} threads before, {} now",
        before,
        threads()
    );
}

/// A socket whose queue of connections is full.
fn stuck(path: &Path) -> Vec<rustix::fd::OwnedFd> {
    use rustix::net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
    };
    let socket = || {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap()
    };
    let address = SocketAddrUnix::new(path).unwrap();
    let server = socket();
    bind(&server, &address).unwrap();
    listen(&server, 0).unwrap();
    let mut all = vec![server];
    loop {
        let client = socket();
        if connect(&client, &address).is_err() {
            return all;
        }
        all.push(client);
    }
}

fn threads() -> usize {
    fs::read_dir("/proc/self/task").unwrap().count()
}
