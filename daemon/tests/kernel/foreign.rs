//! An upgrade finds the pinned maps of another layout, with programs that still count into them: both are gone before its
//! own are made, and it says that what happened since was not seen.

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use aya::{maps::MapInfo, programs::loaded_programs};
use poisontrace::{pins::Pins, probes::load::Loaded};
use poisontrace_kernel_facts::{facts::Facts, plan::Plan};
use poisontrace_model::correlate::resume::Meanwhile;
use poisontrace_probes::MAP_LAYOUT;

use crate::here::{self, BpfFs, files};

fn plan(facts: &Facts) -> Plan {
    let counts = here::tracepoint("process_exit", "sched", "sched_process_exit");
    here::plan(facts, vec![here::row("counts", vec![counts])])
}

/// Kernel ids of the maps pinned in a folder.
fn maps(folder: &Path) -> Vec<u32> {
    let pinned = poisontrace::pins::MAPS.iter().map(|name| folder.join(name));
    pinned.map(|path| MapInfo::from_pin(path).unwrap().id()).collect()
}

/// Whether the kernel still has a program that works on one of these maps.
fn in_use(maps: &[u32]) -> bool {
    loaded_programs().flatten().any(|program| {
        let used = program.map_ids().ok().flatten().unwrap_or_default();
        used.iter().any(|id| maps.contains(id))
    })
}

/// The kernel frees programs and maps some time after the last hold on them is gone.
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
    here::where_there_is_tracefs("foreign::foreign");
}

#[test]
#[ignore = "is run by the test above, where there is tracefs"]
fn foreign() {
    let Some(fs) = BpfFs::new() else {
        return eprintln!("no BPF file system may be mounted: not tried");
    };
    let root = fs.folder().join("poisontrace");
    let ours = root.join(format!("layout-{MAP_LAYOUT}"));
    let theirs = root.join(format!("layout-{}", MAP_LAYOUT + 1));

    // A daemon dies and leaves all pinned.
    let facts = Facts::of_this_kernel().unwrap();
    let pins = Pins::take(&root).unwrap();
    let Some(mut loaded) = here::loaded(plan(&facts), &facts, true, Some(pins)) else {
        return;
    };
    assert!(loaded.hand_over());
    drop(loaded);
    let old = maps(&ours);
    assert!(in_use(&old), "the link is pinned: {:?}", files(&root));

    // The next one of the same layout would go on with them.
    let pins = Pins::take(&root).unwrap();
    assert_eq!(pins.meanwhile(), Meanwhile::Counted);
    drop(pins);

    // Of another layout they are of no use.
    fs::rename(&ours, &theirs).unwrap();
    let pins = Pins::take(&root).unwrap();
    assert_eq!(pins.meanwhile(), Meanwhile::Unseen);
    assert!(!theirs.exists());
    assert!(gone(&old), "programs or maps of the other layout are left");
    let loaded = Loaded::new(plan(&facts), &facts, false, 0, Some(pins)).unwrap();
    let new = maps(&ours);
    assert!(in_use(&new) && new.iter().all(|id| !old.contains(id)));
    drop(loaded);
    assert!(!root.exists(), "{:?}", files(&root));
}
