//! Every storm of the tree with one exit in sixteen taken out, or its address replaced: still what it was, and what is
//! missing is named. Of Intel as recorded, of AMD by the words of its traces.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::{explain_text, only, trace};

const EVERY: usize = 16;
const KVM_PAGE_FAULT: &str = "kvm_page_fault:";

/// What becomes of one exit in sixteen.
#[derive(Clone, Copy, Debug)]
enum Damage {
    /// All of the exit's events are gone.
    Lost,
    /// Its address is another.
    Address(u64),
    /// The same, where the host's address of the page is still there.
    GuestAddress(u64),
    /// Its address is missing.
    NoAddress,
    /// Of a trace: the line of `kvm_exit` is missing.
    NoExit,
}

const DAMAGES: [Damage; 6] = [
    Damage::Lost,
    Damage::Address(0),
    Damage::Address(0x7654_3000),
    Damage::GuestAddress(0),
    Damage::NoAddress,
    Damage::NoExit,
];

fn address(line: &str) -> Option<u64> {
    let digits = line.split_once(" address 0x")?.1.split(' ').next()?;
    u64::from_str_radix(digits, 16).ok()
}

/// The trace with every sixteenth exit on its page damaged, from `first` on; and the lines of the page that are lost with
/// them.
fn damaged_trace(text: &str, page: u64, first: usize, damage: Damage) -> (String, u64) {
    let lines: Vec<&str> = text.lines().collect();
    let begins = |line: &str| line.contains(" kvm_exit: ");
    let (mut out, mut lost, mut exit) = (Vec::new(), 0_u64, 0);
    let mut n = 0;
    while n < lines.len() {
        let end = (n + 1..lines.len())
            .find(|m| begins(lines[*m]) || lines[*m].contains(" kvm_entry: "))
            .unwrap_or(lines.len());
        let group = &lines[n..end];
        let at = group
            .iter()
            .find_map(|line| address(line))
            .filter(|at| at & !0xfff == page);
        let poison = begins(group[0]) && group.iter().any(|line| line.contains("signal_generate"));
        let Some(at) = at.filter(|_| poison) else {
            out.push(lines[n].to_owned());
            n += 1;
            continue;
        };
        let hit = exit % EVERY == first;
        exit += 1;
        for line in group {
            let fault = line.contains(KVM_PAGE_FAULT);
            match damage {
                Damage::Lost if hit => {}
                Damage::NoAddress if hit && fault => {}
                Damage::NoExit if hit && begins(line) => {}
                Damage::Address(other) | Damage::GuestAddress(other) if hit && fault => {
                    out.push(line.replace(&format!("address {at:#018x}"), &format!("address {other:#018x}")));
                }
                _ => out.push((*line).to_owned()),
            }
        }
        if hit && !matches!(damage, Damage::NoExit) {
            lost |= 1 << (at >> 6 & 63);
        }
        n = end;
    }
    (out.join("\n") + "\n", lost)
}

/// The recording with every sixteenth exit damaged; and the lines of the page that are lost with them.
fn damaged_recording(text: &str, first: usize, damage: Damage, totals: bool) -> (String, u64) {
    let (mut lines, mut lost, mut exit) = (Vec::new(), 0_u64, 0);
    for line in text.lines() {
        let mut event: Value = serde_json::from_str(line).unwrap();
        if !totals && event["event"] == "page_totals" {
            continue;
        }
        if event["event"] == "poison_exit" {
            let hit = exit % EVERY == first;
            exit += 1;
            if hit {
                let at = event["gpa"].as_str().unwrap();
                let at = u64::from_str_radix(&at[2..], 16).unwrap();
                lost |= 1 << (at >> 6 & 63);
                match damage {
                    Damage::Lost => continue,
                    Damage::Address(other) => {
                        event["gpa"] = json!(format!("{other:#x}"));
                        event["hva"] = Value::Null;
                    }
                    Damage::GuestAddress(other) => event["gpa"] = json!(format!("{other:#x}")),
                    Damage::NoAddress => {
                        event["gpa"] = Value::Null;
                        event["hva"] = Value::Null;
                    }
                    Damage::NoExit => event["exit_ns"] = Value::Null,
                }
            }
        }
        lines.push(event);
    }
    if let Some(end) = lines.last()["end"].as_object().map(|_| lines.len() - 2) {
        *lines.last_mut().unwrap() = json!({"end": {"events": end}});
    }
    let lines: Vec<String> = lines.iter().map(Value::to_string).collect();
    (
        lines.join("\n") + "\n",
        if matches!(damage, Damage::NoExit) { 0 } else { lost },
    )
}

trait Last {
    fn last(&self) -> &Value;
}

impl Last for Vec<Value> {
    fn last(&self) -> &Value {
        &self[self.len() - 1]
    }
}

/// As the kernel of an AMD host prints the same exits: the address is EXITINFO2 too.
fn of_amd(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let next_address = |n: usize| {
        lines[n..]
            .iter()
            .take(3)
            .find_map(|line| address(line))
            .unwrap_or(0)
    };
    let amd = lines.iter().enumerate().map(|(n, line)| {
        if line.contains("reason EPT_VIOLATION") {
            let rip = line.split_once("rip ").unwrap().1.split(' ').next().unwrap();
            let head = line.split_once(" reason ").unwrap().0;
            let at = next_address(n + 1);
            return format!("{head} reason npf rip {rip} info1 0x0000000100000004 info2 {at:#018x} intr_info 0x00000000 error_code 0x00000000");
        }
        line.replace("reason MSR_WRITE", "reason msr")
            .replace("error_code 0x581", "error_code 0x100000004")
    });
    amd.collect::<Vec<_>>().join("\n") + "\n"
}

fn check(name: &str, damage: Damage, answer: &[Value], exits: u64, lost: u64) {
    assert_eq!(answer.len(), 1, "{name} {damage:?}: {answer:#?}");
    let i = &answer[0];
    let storm = &i["storm"];
    assert_eq!(storm["kind"], "line_walk", "{name} {damage:?}: {i:#}");
    let gone = u64::from(lost.count_ones());
    let counted = if matches!(damage, Damage::Lost) {
        exits - gone
    } else {
        exits
    };
    assert_eq!(i["exits"]["count"], counted, "{name} {damage:?}: {i:#}");
    assert_eq!(i["exits"]["distinct_lines"], exits - gone, "{name} {damage:?}");
    if lost == 0 {
        assert_eq!(storm["confidence"], "certain", "{name} {damage:?}");
        return;
    }
    // That a walk which ends within the page went on by a line, nothing shows.
    let named = lost & (u64::MAX >> (64 - exits)) & !(u64::from(exits < 64) << (exits - 1));
    assert_eq!(
        storm["missing_lines"],
        format!("{named:#x}"),
        "{name} {damage:?}: {i:#}"
    );
    assert_ne!(storm["confidence"], "certain", "{name} {damage:?}");
    let unknown = if matches!(damage, Damage::Lost) {
        Value::Null
    } else {
        gone.into()
    };
    assert_eq!(storm["unknown_addresses"], unknown, "{name} {damage:?}: {i:#}");
    assert!(
        crate::misses(i, "of the page, which the walk by RIP"),
        "{name} {damage:?}: {i:#}"
    );
}

#[test]
fn traces_of_walks_with_one_exit_in_sixteen_damaged_are_walks_with_holes() {
    for (file, exits) in [("clflushopt-stepped-over", 64), ("load-mce-each-line", 56)] {
        let intel = fs::read_to_string(trace(&format!("intel-tiny-vmm/{file}.ftrace.txt"))).unwrap();
        for (isa, text) in [("intel", intel.clone()), ("amd", of_amd(&intel))] {
            for damage in DAMAGES {
                for first in [0, 1, 7, 15] {
                    let (text, mut lost) = damaged_trace(&text, 0x10_0000, first, damage);
                    if isa == "amd" && matches!(damage, Damage::NoAddress) {
                        // The exit itself has it.
                        lost = 0;
                    }
                    check(
                        &format!("{file} {isa} {first}"),
                        damage,
                        &explain_text(&text),
                        exits,
                        lost,
                    );
                }
            }
        }
    }
}

fn recordings(prefix: &str) -> Vec<(String, String)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings");
    let mut all: Vec<(String, String)> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), path))
        .filter(|(name, _)| name.starts_with(prefix))
        .map(|(name, path)| (name, fs::read_to_string(path).unwrap()))
        .collect();
    all.sort();
    assert!(!all.is_empty());
    all
}

fn svm(text: &str) -> String {
    text.replace(r#""isa":"vmx","reason":48"#, r#""isa":"svm","reason":1024"#)
}

#[test]
fn recordings_of_walks_with_one_exit_in_sixteen_damaged_are_walks_with_holes() {
    for (name, text) in recordings("storm-") {
        for text in [text.clone(), svm(&text)] {
            for damage in DAMAGES {
                for first in [0, 1, 7, 15] {
                    let (without, lost) = damaged_recording(&text, first, damage, false);
                    check(
                        &format!("{name} {first}"),
                        damage,
                        &explain_text(&without),
                        64,
                        lost,
                    );
                    // The kernel's own totals know of every exit.
                    let (with, _) = damaged_recording(&text, first, damage, true);
                    check(
                        &format!("{name} {first}, totals"),
                        damage,
                        &explain_text(&with),
                        64,
                        0,
                    );
                }
            }
        }
    }
}

#[test]
fn a_spin_with_one_exit_in_sixteen_damaged_stays_a_spin() {
    for (name, text) in recordings("spin-") {
        for damage in [Damage::Lost, Damage::NoAddress, Damage::NoExit] {
            let (text, _) = damaged_recording(&text, 3, damage, true);
            let all = explain_text(&text);
            assert_eq!(all.len(), 1, "{name} {damage:?}");
            assert_eq!(all[0]["storm"]["kind"], "same_line_spin", "{name} {damage:?}");
        }
    }
}

#[test]
fn a_recording_whose_first_exit_is_misread_keeps_its_page() {
    let (_, text) = recordings("storm-").remove(0);
    let (text, _) = damaged_recording(&text, 0, Damage::Address(0), false);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("recording");
    fs::write(&file, text).unwrap();
    let i = only(&[file]);
    assert_eq!(i["page"]["gpa"], "0x100000");
    assert_eq!(i["page"]["pfn"], "0x71e5");
}
