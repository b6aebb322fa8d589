//! A probe whose attaching fails half-way, in this machine's own kernel: what was attached of it is detached again, and
//! nothing is left pinned. Needs root, and a build with the BPF programs inside (`cargo xtask test`).

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking; its helper functions too"
)]

use std::{fs, path::Path, process::Command};

use poisontrace::{
    kernel::{
        facts::Facts,
        plan::{Attach, Binding, Plan, Row},
    },
    pins::Pins,
    probes::load::{LoadError, Loaded, RowState},
};

fn tracepoint(program: &'static str, group: &str, name: &str) -> Attach {
    Attach {
        program,
        binding: Binding::Tracepoint {
            group: group.to_owned(),
            name: name.to_owned(),
        },
    }
}

fn row(name: &'static str, programs: Vec<Attach>) -> Row {
    Row {
        standby: None,
        name,
        alternatives: vec![Ok(programs)],
        lost: "what it tells",
        partial: Vec::new(),
        of_kvm: false,
    }
}

/// A row that can be attached, and one whose second program has no tracepoint.
fn plan(facts: &Facts) -> Plan {
    let mut plan = Plan::new(facts, false);
    plan.rows = vec![
        row(
            "whole",
            vec![tracepoint("kvm_exit", "sched", "sched_process_exit")],
        ),
        row(
            "half",
            vec![
                tracepoint("kvm_entry", "sched", "sched_process_exit"),
                tracepoint("kvm_page_fault", "sched", "no_such_event"),
            ],
        ),
    ];
    plan
}

/// Descriptors of this process that keep a program attached.
fn links() -> usize {
    let attached = |to: &Path| {
        let to = to.to_string_lossy();
        to.contains("bpf_link") || to.contains("bpf-link") || to.contains("[perf_event]")
    };
    fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter(|entry| {
            let entry = entry.as_ref().unwrap();
            fs::read_link(entry.path()).is_ok_and(|to| attached(&to))
        })
        .count()
}

/// A BPF file system of its own, unmounted at the end.
struct BpfFs(tempfile::TempDir);

impl BpfFs {
    fn new() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "bpf", "bpf"])
            .arg(dir.path())
            .output()
            .is_ok_and(|output| output.status.success());
        mounted.then(|| Self(dir))
    }
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path.file_name().unwrap().to_string_lossy().into_owned());
        }
    }
    found
}

/// In a mount namespace of its own, as this machine need not have tracefs.
#[test]
fn a_row_that_fails_half_way_is_detached_again() {
    let script =
        "mount -t tracefs tracefs /sys/kernel/tracing && exec \"$0\" --exact --ignored --nocapture half_way";
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
        .output();
    let Ok(output) = output else {
        return eprintln!("no unshare: not tried");
    };
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if !output.status.success() && !text.contains("running 1 test") {
        return eprintln!("tracefs may not be mounted: not tried");
    }
    println!("{text}");
    assert!(output.status.success());
}

#[test]
#[ignore = "is run by the test above, where there is tracefs"]
fn half_way() {
    let facts = Facts::of_this_kernel().unwrap();
    let loaded = match Loaded::new(plan(&facts), &facts, false, 0, None) {
        Ok(loaded) => loaded,
        Err(LoadError::NotBuiltIn) => return eprintln!("built without BPF programs: not tried"),
        Err(LoadError::Object(why)) if why.contains("not permitted") => {
            return eprintln!("this machine loads no BPF programs ({why}): not tried");
        }
        Err(err) => panic!("{err}"),
    };
    let states: Vec<RowState> = loaded.rows().iter().map(|row| row.state()).collect();
    assert_eq!(states, [RowState::Attached, RowState::Unavailable]);
    let why = loaded.rows()[1].status().why.clone().unwrap();
    assert!(why.contains("no_such_event"), "{why}");
    // A link, or before 5.15 a perf event, of the whole row alone.
    assert_eq!(links(), 1);
    drop(loaded);
    assert_eq!(links(), 0);
    pinned(&facts);
}

/// The same with pins: none of the half row's is left, what another layout left is replaced, and the end removes all.
fn pinned(facts: &Facts) {
    let Some(fs) = BpfFs::new() else {
        return eprintln!("no BPF file system may be mounted: pins are not tried");
    };
    let root = fs.0.path().join("poisontrace");
    let foreign = root.join("layout-0/daemon-1");
    std::fs::create_dir_all(&foreign).unwrap();
    let pins = Pins::take(&root).unwrap();
    assert!(!foreign.exists(), "maps of another layout are replaced");
    assert!(Pins::take(&root).is_none(), "one daemon at a time");
    let loaded = Loaded::new(plan(facts), facts, false, 0, Some(pins)).unwrap();
    let there = files(&root);
    assert!(there.iter().any(|name| name == "PAGES"), "{there:?}");
    assert!(
        !there
            .iter()
            .any(|name| name == "kvm_entry" || name == "kvm_page_fault"),
        "{there:?}"
    );
    drop(loaded);
    assert!(!root.exists(), "{:?}", files(&root));
    assert_eq!(links(), 0);
}
