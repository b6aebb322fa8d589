//! A probe whose second program cannot be attached: the first is detached again, and nothing stays pinned.

use std::{fs, path::Path};

use poisontrace_kernel_facts::{facts::Facts, plan::Plan};
use poisontrace_sources::probes::{bpffs::Pins, load::Loaded, probe::ProbeState};

use crate::common::{self, BpfFs, files};

/// A row that can be attached, and one whose second program lacks its tracepoint.
fn plan(facts: &Facts) -> Plan {
    // As large as the event that the programs load fields of: the kernel refuses those that reach beyond theirs.
    let there = |program| common::tracepoint(program, "raw_syscalls", "sys_enter");
    let missing = common::tracepoint("kvm_page_fault", "sched", "no_such_event");
    let rows = vec![
        common::row("whole", vec![there("kvm_exit")]),
        common::row("half", vec![there("kvm_entry"), missing]),
    ];
    common::plan(facts, rows)
}

/// Number of this process' descriptors that keep a program attached.
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

#[test]
fn a_row_that_fails_half_way_is_detached_again() {
    common::where_there_is_tracefs("partial_attach::partial_attach");
}

#[test]
#[ignore = "is run by the test above, where there is tracefs"]
fn partial_attach() {
    let facts = Facts::of_this_kernel().unwrap();
    let Some(loaded) = common::loaded(plan(&facts), &facts, false, None) else {
        return;
    };
    let states: Vec<ProbeState> = loaded.rows().iter().map(|row| row.state()).collect();
    assert_eq!(states, [ProbeState::Attached, ProbeState::Unavailable]);
    let why = poisontrace_report::probes::reasons(&loaded.rows()[1].status().why);
    assert!(why.contains("no_such_event"), "{why}");
    // One link, or before 5.15 one perf event: that of the complete row.
    assert_eq!(links(), 1);
    drop(loaded);
    assert_eq!(links(), 0);
    pinned(&facts);
}

/// The same with pins: the failed row leaves none, those of another layout are replaced, and the end removes all.
fn pinned(facts: &Facts) {
    let Some(fs) = BpfFs::new() else {
        return eprintln!("cannot mount a BPF file system: pins are skipped");
    };
    let root = fs.folder().join("poisontrace");
    let foreign = root.join("layout-0/daemon-1");
    fs::create_dir_all(&foreign).unwrap();
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
