//! An upgrade finds pinned maps of another layout, with programs that still count into them: both are removed before its own
//! are created, and the gap is reported.

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use aya::{maps::MapInfo, programs::loaded_programs};
use poisontrace_kernel_facts::{facts::Facts, plan::Plan};
use poisontrace_probes::MAP_LAYOUT;
use poisontrace_sources::probes::{
    bpffs::{PinnedTotals, Pins},
    load::Loaded,
};

use crate::common::{self, BpfFs, files};

fn plan(facts: &Facts) -> Plan {
    let counts = common::tracepoint("process_exit", "sched", "sched_process_exit");
    common::plan(facts, vec![common::row("counts", vec![counts])])
}

/// Kernel ids of the maps pinned in a folder.
fn maps(folder: &Path) -> Vec<u32> {
    let pinned = poisontrace_sources::probes::bpffs::MAPS
        .iter()
        .map(|name| folder.join(name));
    pinned.map(|path| MapInfo::from_pin(path).unwrap().id()).collect()
}

/// Whether the kernel still has a program that uses one of these maps.
fn in_use(maps: &[u32]) -> bool {
    loaded_programs().flatten().any(|program| {
        let used = program.map_ids().ok().flatten().unwrap_or_default();
        used.iter().any(|id| maps.contains(id))
    })
}

/// The kernel frees programs and maps some time after the last reference is dropped.
fn gone(maps: &[u32]) -> bool {
    let until = Instant::now() + Duration::from_secs(10);
    while Instant::now() < until {
        if !in_use(maps) && maps.iter().all(|id| MapInfo::from_id(*id).is_err()) {
            return true;
        }
        thread::sleep(Duration::from_millis(20));
    }
    false
}

#[test]
fn maps_of_another_layout_are_replaced_and_their_programs_detached() {
    common::where_there_is_tracefs("stale_pins::replacement");
}

#[test]
#[ignore = "is run by the test above, where there is tracefs"]
fn replacement() {
    let Some(fs) = BpfFs::new() else {
        return eprintln!("cannot mount a BPF file system: skipped");
    };
    let root = fs.folder().join("poisontrace");
    let ours = root.join(format!("layout-{MAP_LAYOUT}"));
    let theirs = root.join(format!("layout-{}", MAP_LAYOUT + 1));

    // A daemon dies and leaves everything pinned.
    let facts = Facts::of_this_kernel().unwrap();
    let pins = Pins::take(&root).unwrap();
    let Some(mut loaded) = common::loaded(plan(&facts), &facts, true, Some(pins)) else {
        return;
    };
    assert!(loaded.hand_over());
    drop(loaded);
    let old = maps(&ours);
    assert!(in_use(&old), "the link is pinned: {:?}", files(&root));

    // The next daemon of the same layout would continue with them.
    let pins = Pins::take(&root).unwrap();
    assert_eq!(pins.totals(), PinnedTotals::Counting);
    drop(pins);

    // With another layout they are unusable.
    fs::rename(&ours, &theirs).unwrap();
    let pins = Pins::take(&root).unwrap();
    assert_eq!(pins.totals(), PinnedTotals::Absent);
    assert!(!theirs.exists());
    assert!(gone(&old), "programs or maps of the other layout remain");
    let loaded = Loaded::new(plan(&facts), &facts, false, 0, Some(pins)).unwrap();
    let new = maps(&ours);
    assert!(in_use(&new) && new.iter().all(|id| !old.contains(id)));
    drop(loaded);
    assert!(!root.exists(), "{:?}", files(&root));
}
