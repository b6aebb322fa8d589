//! A probe whose attaching fails half-way: what was attached of it is detached again, and nothing is left pinned.

use std::{fs, path::Path};

use poisontrace::{
    pins::Pins,
    probes::{load::Loaded, row::RowState},
};
use poisontrace_kernel_facts::{facts::Facts, plan::Plan};

use crate::here::{self, BpfFs, files};

/// A row that can be attached, and one whose second program has no tracepoint.
fn plan(facts: &Facts) -> Plan {
    let there = |program| here::tracepoint(program, "sched", "sched_process_exit");
    let missing = here::tracepoint("kvm_page_fault", "sched", "no_such_event");
    let rows = vec![
        here::row("whole", vec![there("kvm_exit")]),
        here::row("half", vec![there("kvm_entry"), missing]),
    ];
    here::plan(facts, rows)
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

#[test]
fn a_row_that_fails_half_way_is_detached_again() {
    here::where_there_is_tracefs("half_way::half_way");
}

#[test]
#[ignore = "is run by the test above, where there is tracefs"]
fn half_way() {
    let facts = Facts::of_this_kernel().unwrap();
    let Some(loaded) = here::loaded(plan(&facts), &facts, false, None) else {
        return;
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
    let root = fs.folder().join("poisontrace");
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
