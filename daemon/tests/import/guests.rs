//! Linux guests that died or survived, on hosts of three kernels: the lab's ftrace from the poisoning on, nothing else.
//! Debian's QEMU, emulated AMD.

use std::{
    fs::{self, File},
    io::Read as _,
    path::PathBuf,
};

use flate2::read::MultiGzDecoder;
use serde_json::Value;

use crate::{explain_text, only, trace, verdict};

const KERNELS: [&str; 3] = ["5.10", "6.1", "7.3"];

fn file(fate: &str, kernel: &str) -> PathBuf {
    trace("amd-linux-guests").join(format!("{fate}-{kernel}.ftrace.txt.gz"))
}

fn text(fate: &str, kernel: &str) -> String {
    let mut text = String::new();
    let packed = File::open(file(fate, kernel)).unwrap();
    MultiGzDecoder::new(packed).read_to_string(&mut text).unwrap();
    text
}

/// Checks that are common to all of these traces.
#[track_caller]
fn accessed_once(i: &Value) {
    let n = &i["signals"];
    assert_eq!(
        (&n["action_optional"], &n["action_required"]),
        (&1.into(), &1.into())
    );
    assert_eq!(
        (&i["exits"]["count"], &i["injections"]["delivered"]),
        (&1.into(), &1.into())
    );
    assert_eq!(i["page"]["type"], "dirty LRU page");
    assert!(i["page"]["pfn"].is_string() && i["page"]["gpa"].is_string());
}

#[test]
fn a_guest_that_lives_on_and_turns_itself_off_has_survived_on_every_kernel() {
    for kernel in KERNELS {
        let i = only(&[file("survive", kernel)]);
        assert_eq!(verdict(&i), ("survived", "contained", "certain"), "{kernel}");
        accessed_once(&i);
    }
}

#[test]
fn a_guest_that_panics_has_died_on_every_kernel_of_an_unknown_cause() {
    for kernel in KERNELS {
        let i = only(&[file("panic", kernel)]);
        assert_eq!(verdict(&i), ("guest_panicked", "unknown", "possible"), "{kernel}");
        accessed_once(&i);
    }
}

/// The trace, ending at various points: the tracer was stopped early.
fn cut_short(fate: &str, kernel: &str) -> Vec<String> {
    let text = text(fate, kernel);
    let lines: Vec<&str> = text.lines().collect();
    let delivery = lines
        .iter()
        .position(|line| line.contains("kvm_inj_exception"))
        .unwrap();
    let after = lines.len() - delivery;
    let cuts = (0..=8).map(|n| delivery + after * n / 8);
    let near = [1, 2, 10, 40].map(|n| delivery + n);
    let ends = (1..=8).map(|n| lines.len() - n);
    cuts.chain(near)
        .chain(ends)
        .map(|end| lines[..end].join("\n") + "\n")
        .collect()
}

#[track_caller]
fn outcomes_are_among(fate: &str, kernel: &str, outcomes: [&str; 3]) {
    for text in cut_short(fate, kernel) {
        let all = explain_text(&text);
        let (outcome, cause, _) = verdict(&all[0]);
        assert!(outcomes.contains(&outcome), "{outcome} by {cause}");
    }
}

#[test]
fn a_survivor_whose_trace_stops_early_is_never_reported_dead() {
    outcomes_are_among("survive", "7.3", ["unknown", "running", "survived"]);
}

#[test]
fn a_guest_that_panics_is_never_reported_as_survivor() {
    outcomes_are_among("panic", "5.10", ["unknown", "running", "guest_panicked"]);
}

#[test]
fn a_survivor_whose_vmm_is_killed_in_the_end_has_survived_all_the_same() {
    // Without the guest's own power-off, as when somebody kills the VMM of a live guest.
    let text = text("survive", "6.1");
    let power_off = text
        .lines()
        .position(|line| line.contains("info1 0x0000000006040"))
        .unwrap();
    let end = text.lines().filter(|line| line.contains("sched_process_exit"));
    let kept: Vec<&str> = text.lines().take(power_off).chain(end).collect();
    let all = explain_text(&(kept.join("\n") + "\n"));
    let (outcome, cause, _) = verdict(&all[0]);
    assert_eq!((outcome, cause), ("survived", "contained"));
}

#[test]
fn the_console_beside_the_trace_gives_the_cause() {
    let dir = tempfile::tempdir().unwrap();
    let console = dir.path().join("console");
    let gpa = only(&[file("panic", "7.3")])["page"]["gpa"]
        .as_str()
        .unwrap()
        .to_owned();
    let gpa = gpa.trim_start_matches("0x");
    fs::write(
        &console,
        format!(
            "[   15.112359] mce: [Hardware Error]: CPU 0: Machine Check Exception: 7 Bank 9: fc00080000000000\n\
             [   15.225016] mce: [Hardware Error]: TSC d310f9d44 ADDR {gpa} MISC 8c \n\
             [   15.354653] mce: [Hardware Error]: Machine check: Overflowed uncorrected error without MCA Overflow Recovery\n\
             [   15.454470] Kernel panic - not syncing: Fatal local machine check\n"
        ),
    )
    .unwrap();
    let i = only(&[file("panic", "7.3"), console]);
    assert_eq!(verdict(&i), ("guest_panicked", "mce_overflow", "certain"));
    accessed_once(&i);
}
