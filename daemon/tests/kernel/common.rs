//! Helpers for the tests in this machine's kernel.

use std::{fs, path::Path, process::Command};

use poisontrace_kernel_facts::{
    facts::Facts,
    plan::{Attach, Binding, Plan, ProbeSpec},
};
use poisontrace_model::event::probe::ProbeId;
use poisontrace_sources::probes::{
    bpffs::Pins,
    load::{LoadError, Loaded},
};

pub fn tracepoint(program: &'static str, group: &str, name: &str) -> Attach {
    Attach {
        program,
        binding: Binding::Tracepoint {
            group: group.to_owned(),
            name: name.to_owned(),
        },
    }
}

pub fn row(name: &'static str, programs: Vec<Attach>) -> ProbeSpec {
    ProbeSpec {
        standby: None,
        first: Vec::new(),
        probe: ProbeId::Other(name.to_owned()),
        alternatives: vec![Ok(programs)],
        limitations: Vec::new(),
        of_kvm: false,
    }
}

pub fn plan(facts: &Facts, rows: Vec<ProbeSpec>) -> Plan {
    let mut plan = Plan::new(facts, false);
    plan.rows = rows;
    plan
}

/// The attached programs; `None` if this machine or this build cannot load any.
pub fn loaded(plan: Plan, facts: &Facts, armed: bool, pins: Option<Pins>) -> Option<Loaded> {
    match Loaded::new(plan, facts, armed, 0, pins) {
        Ok(loaded) => Some(loaded),
        Err(LoadError::NotBuiltIn) => {
            eprintln!("built without BPF programs: skipped");
            None
        }
        Err(LoadError::Object(why)) if why.contains("not permitted") => {
            eprintln!("cannot load BPF programs on this machine ({why}): skipped");
            None
        }
        Err(err) => panic!("{err}"),
    }
}

/// Runs the ignored test `name` in a mount namespace of its own: this machine may not have tracefs mounted.
pub fn where_there_is_tracefs(name: &str) {
    let script = "test -e /sys/kernel/tracing/events || mount -t tracefs tracefs /sys/kernel/tracing || exit; exec \"$0\" --exact --ignored --nocapture \"$1\"";
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
        .arg(name)
        .output();
    let Ok(output) = output else {
        return eprintln!("no unshare: not tried");
    };
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if !output.status.success() && !text.contains("running 1 test") {
        return eprintln!("cannot mount tracefs: skipped");
    }
    println!("{text}");
    assert!(output.status.success() && text.contains("1 passed"));
}

/// A BPF file system of its own, unmounted at the end.
pub struct BpfFs(tempfile::TempDir);

impl BpfFs {
    pub fn new() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "bpf", "bpf"])
            .arg(dir.path())
            .output()
            .is_ok_and(|output| output.status.success());
        mounted.then(|| Self(dir))
    }

    pub fn folder(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// Names of the files in a folder and its folders.
pub fn files(folder: &Path) -> Vec<String> {
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
