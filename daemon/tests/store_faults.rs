//! The store on failing disks: a real full file system, a read-only one, and a file size limit. Sequential in one process,
//! because limits and mounts belong to the process.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking; its helper functions too"
)]

use std::{fs, path::Path, process::Command, time::Duration};

use poisontrace::{
    config::Config,
    outputs::store::{Retention, Store, Stored, Wanted},
};
use poisontrace_model::{
    correlate::report, event::session::Session, host::Host, incident::evidence::Evidence,
};
use poisontrace_report::document::Incident;

const SOON: Duration = Duration::from_secs(40);

fn incident(pid: u32, bytes: usize) -> Incident {
    let evidence = Evidence::new(1, pid, Default::default());
    let mut incident = poisontrace_report::document(report::incident(&evidence, &Session::default()));
    incident.summary = "x".repeat(bytes);
    incident
}

fn start(dir: &Path) -> Store {
    Store::start(dir, &Host::default(), Retention::from(&Config::default().store))
}

fn put(store: &Store, pids: std::ops::Range<u32>) {
    for pid in pids {
        store.put(&incident(pid, 10_000), None, 0);
        store.settle(Duration::from_millis(50));
    }
}

fn failing(store: &Store) -> String {
    let health = store.health();
    health
        .failing
        .clone()
        .unwrap_or_else(|| panic!("it goes on writing: {health:?}"))
}

fn count(dir: &Path) -> usize {
    Stored::open(dir).unwrap().get(&Wanted::All).unwrap().len()
}

/// A small tmpfs, unmounted at the end; `None` where this process may not mount.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn new() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = mount(&["-t", "tmpfs", "-o", "size=8m,mode=700", "tmpfs"], dir.path());
        mounted.then(|| Self(dir))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

fn mount(arguments: &[&str], at: &Path) -> bool {
    Command::new("mount")
        .args(arguments)
        .arg(at)
        .output()
        .is_ok_and(|output| output.status.success())
}

fn a_full_disk_is_survived(disk: &Tmpfs) {
    let dir = disk.0.path();
    let store = start(dir);
    put(&store, 1..10);
    assert!(store.settle(SOON));
    let ballast = dir.join("somebody-elses");
    let _ = fs::write(&ballast, vec![0; 8 << 20]).unwrap_err();
    put(&store, 10..60);
    assert!(failing(&store).contains("full"), "{}", failing(&store));
    assert_eq!(store.health().waiting_incidents, 50);
    fs::remove_file(&ballast).unwrap();
    assert!(wait(&store), "it writes when there is room again");
    assert!(store.close(SOON));
    assert_eq!(count(dir), 59, "nothing was lost");
}

fn a_read_only_disk_is_survived(disk: &Tmpfs) {
    let dir = disk.0.path().join("state");
    assert!(mount(&["-o", "remount,ro"], disk.0.path()));
    let store = start(&dir);
    put(&store, 1..4);
    let _ = failing(&store);
    assert!(mount(&["-o", "remount,rw"], disk.0.path()));
    assert!(wait(&store));
    assert!(store.close(SOON));
    assert_eq!(count(&dir), 3);
}

/// Like a quota: the file cannot grow. The daemon has a handler for SIGXFSZ, which would otherwise kill it.
fn a_file_that_may_not_grow_is_survived() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let _handler =
        runtime.block_on(async { poisontrace::outputs::store::survive_file_size_limit().unwrap() });
    let dir = tempfile::tempdir().unwrap();
    let store = start(dir.path());
    put(&store, 1..3);
    assert!(store.settle(SOON));
    let before = getrlimit(Resource::Fsize);
    let limited = Rlimit {
        current: Some(150_000),
        ..before
    };
    setrlimit(Resource::Fsize, limited).unwrap();
    put(&store, 3..50);
    let why = failing(&store);
    setrlimit(Resource::Fsize, before).unwrap();
    assert!(!why.is_empty());
    assert!(wait(&store));
    assert!(store.close(SOON));
    assert_eq!(count(dir.path()), 49);
}

fn wait(store: &Store) -> bool {
    (0..400).any(|_| {
        std::thread::sleep(Duration::from_millis(100));
        store.settle(Duration::from_millis(10))
    })
}

#[test]
fn the_store_outlives_full_read_only_and_limited_disks() {
    match (Tmpfs::new(), Tmpfs::new()) {
        (Some(full), Some(read_only)) => {
            a_full_disk_is_survived(&full);
            a_read_only_disk_is_survived(&read_only);
        }
        _ => eprintln!("cannot mount: the full and the read-only disk are skipped"),
    }
    a_file_that_may_not_grow_is_survived();
}
