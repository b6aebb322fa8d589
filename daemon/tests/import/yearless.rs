//! Logs whose dates have no year: what they show of the date is shown, and no more.

use std::fs;

use serde_json::Value;

use crate::{explain_text, incidents};

const HOST: &str = "\
Dec  1 07:00:01 kernel: Memory failure: 0x12345: Sending SIGBUS to qemu-system-x86:1234 due to hardware memory corruption
Dec  1 07:00:01 kernel: Memory failure: 0x12345: recovery action for dirty LRU page: Recovered
";
const VMM: &str = "\
Dec  1 07:00:02 qemu-system-x86_64[1234]: Guest MCE Memory Error at QEMU addr 0x7f0012345000 and GUEST addr 0x12345000 of type BUS_MCEERR_AR injected
";
const NEXT_DAY: &str = "\
Dec  2 09:00:02 kernel: Memory failure: 0x22345: Sending SIGBUS to qemu-system-x86:1234 due to hardware memory corruption
Dec  2 09:00:02 qemu-system-x86_64[1234]: Guest MCE Memory Error at QEMU addr 0x7f0022345000 and GUEST addr 0x22345000 of type BUS_MCEERR_AO injected
";

/// The date of the note that the year is unknown.
fn year(i: &Value) -> Option<&str> {
    let missing = i["missing"].as_array().unwrap();
    let note = missing.iter().find(|missing| missing["kind"] == "year")?;
    note["message"].as_str()
}

#[test]
fn a_date_without_a_year_is_shown_as_one() {
    let leap = HOST.replace("Dec  1", "Feb 29");
    let tagged = HOST.replace("kernel:", "node7 kernel:");
    let priority = HOST.replace("Dec ", "<3>Dec ");
    for (text, date) in [
        (HOST, "Dec  1 07:00:01"),
        (&leap, "Feb 29 07:00:01"),
        (&tagged, "Dec  1 07:00:01"),
        (&priority, "Dec  1 07:00:01"),
    ] {
        let all = explain_text(text);
        assert_eq!(all.len(), 1);
        assert!(all[0]["started_at"].is_null());
        assert!(
            year(&all[0]).is_some_and(|note| note.contains(date)),
            "{:#}",
            all[0]
        );
        let shown = all[0].to_string();
        assert!(!shown.contains("1970-") && !shown.contains("1972-"), "{shown}");
    }
    let dated = HOST.replace("Dec  1 07:00:01", "2026-12-01T07:00:01Z");
    let all = explain_text(&dated);
    assert_eq!(all[0]["started_at"], "2026-12-01T07:00:01.000Z");
    assert_eq!(year(&all[0]), None);
}

#[test]
fn logs_of_no_named_host_give_one_answer_in_any_order() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let (host, vmm, next) = (file("b", HOST), file("a", VMM), file("c", NEXT_DAY));
    for [one, other] in [[&host, &vmm], [&host, &next], [&vmm, &next]] {
        // Each is the same; they stand in the order of the files.
        let mut there = incidents(&[one.clone(), other.clone()]);
        let mut back = incidents(&[other.clone(), one.clone()]);
        for answer in [&mut there, &mut back] {
            answer.sort_by_key(|incident| incident["id"].to_string());
        }
        assert_eq!(there, back);
    }
    let both = incidents(&[host.clone(), vmm.clone()]);
    let alone = explain_text(&format!("{HOST}{VMM}"));
    assert_eq!(both.len(), 1);
    for key in ["outcome", "cause", "confidence", "page", "injections"] {
        assert_eq!(both[0][key], alone[0][key], "{key}");
    }
    assert_eq!(incidents(&[vmm, next]).len(), 2, "of two days");
}
