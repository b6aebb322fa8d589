//! `poisontrace explain` on recordings of the lab (a real kernel, real KVM and real poison, emulated processors).

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking; its helper functions too"
)]

mod common;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Output,
};

use common::poisontrace;
use serde_json::Value;

fn recording(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/recordings")
        .join(name)
}

fn explain(file: &Path, more: &[&str]) -> Output {
    let mut arguments = vec!["explain", "--from", file.to_str().unwrap()];
    arguments.extend(more);
    poisontrace(arguments)
}

fn answer(file: &Path) -> Value {
    let output = explain(file, &["--format", "json"]);
    assert!(output.stderr.is_empty(), "{output:?}");
    common::answer(&output)
}

/// What poisontrace 0.1.0 answered for each recording of version 1.
#[test]
fn recordings_of_version_1_keep_their_verdicts() {
    let kept: serde_json::Map<String, Value> =
        serde_json::from_str(include_str!("answers/v1/verdicts.json")).unwrap();
    assert_eq!(kept.len(), 27);
    for (name, verdicts) in kept {
        let answer = answer(&recording(&name));
        let now: Vec<Value> = answer["incidents"]
            .as_array()
            .unwrap()
            .iter()
            .map(|i| serde_json::json!({"id": i["id"], "outcome": i["outcome"], "cause": i["cause"], "confidence": i["confidence"]}))
            .collect();
        assert_eq!(Value::Array(now), verdicts, "{name}");
    }
}

/// A refusal: one line on stderr, nothing on stdout, status 2.
fn refused(output: &Output, message: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains(message), "{stderr}");
}

#[test]
fn amd_guest_without_overflow_recovery_panics() {
    let json = answer(&recording("panic-amd-6.12.ptrace"));
    assert_eq!(json["host"]["emulated"], true);
    let incidents = json["incidents"].as_array().unwrap();
    assert_eq!(incidents.len(), 1);
    let i = &incidents[0];
    assert_eq!(
        (&i["outcome"], &i["cause"]),
        (&"guest_panicked".into(), &"mce_overflow".into())
    );
    assert_eq!(i["confidence"], "certain");
    assert_eq!(
        (&i["page"]["gpa"], &i["page"]["pfn"]),
        (&"0x93d3000".into(), &"0x109d3".into())
    );
    assert_eq!(i["page"]["type"], "dirty LRU page");
    assert_eq!(i["vm"]["name"], "demo-guest");
    assert_eq!(
        (&i["signals"]["action_optional"], &i["signals"]["action_required"]),
        (&1.into(), &1.into())
    );
    assert_eq!(
        (
            &i["injections"]["action_optional"],
            &i["injections"]["action_required"]
        ),
        (&1.into(), &1.into())
    );
    let injections = i["injections"]["events"].as_array().unwrap();
    assert_eq!(
        (&injections[0]["severity"], &injections[0]["overflow"]),
        (&"ao".into(), &false.into())
    );
    assert_eq!(
        (&injections[1]["severity"], &injections[1]["overflow"]),
        (&"ar".into(), &true.into())
    );
    assert!(
        injections
            .iter()
            .all(|t| t["addr"] == "0x93d3000" && t["misc"] == "0x8c")
    );
    assert_eq!(i["exits"]["count"], 1);
    let share = i["latency_ns"]["gup_share"].as_f64().unwrap();
    assert!(share > 0.0 && share < 1.0, "{share}");
}

#[test]
fn amd_guest_that_can_recover_survives() {
    let json = answer(&recording("survive-amd-6.12.ptrace"));
    let incidents = json["incidents"].as_array().unwrap();
    assert_eq!(incidents.len(), 1);
    assert_eq!(incidents[0]["outcome"], "survived");
    assert_eq!(incidents[0]["cause"], "contained");
}

/// Outcome, cause and confidence of each incident, in order.
fn verdicts(name: &str) -> Vec<(String, String, String)> {
    let json = answer(&recording(&format!("{name}-amd-6.12.ptrace")));
    let word = |i: &Value, key: &str| i[key].as_str().unwrap().to_owned();
    let incidents = json["incidents"].as_array().unwrap().iter();
    incidents
        .map(|i| (word(i, "outcome"), word(i, "cause"), word(i, "confidence")))
        .collect()
}

#[track_caller]
fn ends(name: &str, outcome: &str, cause: &str, confidence: &str) {
    let all = verdicts(name);
    assert!(!all.is_empty());
    for verdict in all {
        assert_eq!(verdict, (outcome.into(), cause.into(), confidence.into()));
    }
}

/// Two incidents of one page of the host, each of which names the other.
#[track_caller]
fn linked(name: &str) {
    let json = answer(&recording(&format!("{name}-amd-6.12.ptrace")));
    let [a, b] = json["incidents"].as_array().unwrap().as_slice() else {
        panic!("not two incidents: {json:#}");
    };
    assert_eq!(a["page"]["pfn"], b["page"]["pfn"]);
    assert_eq!(a["related_incidents"], serde_json::json!([b["id"]]));
    assert_eq!(b["related_incidents"], serde_json::json!([a["id"]]));
}

/// Debian's 5.10 in QEMU, whose monitor injects the loss of a line: `set_memory_uc()` flushes the page, and the guest dies
/// at the first CLFLUSHOPT of `cpa_flush()` (`cargo xtask lab storm --guest linux --read-guest-code`).
#[test]
fn guest_flushes_the_page_and_dies() {
    let json = answer(&recording("linux-flushes-intel-6.12.ptrace"));
    let [i] = json["incidents"].as_array().unwrap().as_slice() else {
        panic!("not one incident: {json:#}");
    };
    assert_eq!(
        (&i["outcome"], &i["cause"], &i["confidence"]),
        (&"guest_panicked".into(), &"clflush".into(), &"certain".into())
    );
    assert_eq!(
        i["flush"],
        serde_json::json!({
            "verdict": "flush_only", "basis": "instruction_bytes", "instruction": "clflushopt [rax]", "confidence": "certain"
        })
    );
    // It never reached the second line: on stock KVM there is no storm.
    assert_eq!(
        (&i["exits"]["count"], &i["exits"]["line_bitmap"]),
        (&1.into(), &"0x1".into())
    );
    assert_eq!(i["storm"], Value::Null);
    assert_eq!(i["injections"]["action_required"], 1);
    // The page was poisoned before the VM was started, and no process was signalled.
    assert_eq!(i["page"]["pfn"], "0x3a780");
    assert_eq!(
        i["timeline"][0]["message"],
        "memory_failure(pfn 0x3a780, flags 0x20) on the host"
    );
    // The bytes are present, so `missing` must not list them, though their probe is unavailable.
    assert!(
        !i["missing"].to_string().contains("instruction_bytes")
            && !i["missing"].to_string().contains("probe instruction"),
        "{}",
        i["missing"]
    );
}

#[test]
fn without_guest_code_the_flush_is_one_read_until_the_console_names_it() {
    let file = recording("linux-flushes-unread-intel-6.12.ptrace");
    let i = &answer(&file)["incidents"][0];
    assert_eq!(
        (&i["cause"], &i["confidence"]),
        (&"kernel_access".into(), &"likely".into())
    );
    assert_eq!(
        (&i["flush"]["verdict"], &i["flush"]["basis"]),
        (&"undetermined".into(), &"single_exit".into())
    );
    let console =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/traces/intel-linux-guest-flushes/console.txt");
    let with = explain(&file, &["--from", console.to_str().unwrap(), "--format", "json"]);
    let i = &common::answer(&with)["incidents"][0];
    assert_eq!(
        (&i["cause"], &i["confidence"]),
        (&"clflush".into(), &"likely".into())
    );
    assert_eq!(i["flush"]["basis"], "guest_console");
}

#[test]
fn guest_kernel_reads_poisoned_page_cache_and_panics() {
    ends("kernel-access", "guest_panicked", "kernel_access", "likely");
}

#[test]
fn guest_kernel_recovers_where_it_copies_from_an_application() {
    ends("copy-from-user", "survived", "contained", "certain");
}

#[test]
fn deferred_error_of_the_hosts_processor_is_the_origin() {
    ends("machine-check", "guest_panicked", "mce_overflow", "certain");
    let json = answer(&recording("machine-check-amd-6.12.ptrace"));
    let incident = &json["incidents"][0];
    let origin = &incident["origin"];
    assert_eq!(origin["how"], "found_by_scrubbing");
    let bank = &origin["machine_check"];
    assert_eq!(
        (&bank["bank"], &bank["status"]),
        (&1.into(), &"0x9c00180000000000".into())
    );
    assert_eq!(
        (&bank["addr"], &incident["page"]["pfn"]),
        (&"0x12dd0000".into(), &"0x12dd0".into())
    );
    let steps = incident["next_steps"].to_string();
    assert!(steps.contains("DIMM"), "{steps}");
}

#[test]
fn guest_whose_machine_check_handler_is_poisoned_hangs_in_it() {
    // Two pages with an incident each: the one that was accessed, and the handler's own.
    ends("nested", "vmm_killed", "mce_nested", "certain");
    assert_eq!(verdicts("nested").len(), 2);
}

#[test]
fn linux_with_machine_checks_off_accesses_the_page_for_ever() {
    ends("mce-off", "vmm_killed", "mce_nested", "certain");
}

#[test]
fn intel_guest_panics_of_the_broadcast_to_both_vcpus() {
    ends("broadcast", "guest_panicked", "fatal_notification", "certain");
    let json = answer(&recording("broadcast-amd-6.12.ptrace"));
    let n = &json["incidents"][0]["injections"];
    assert_eq!((&n["delivered"], &n["vcpus"]), (&2.into(), &2.into()));
}

#[test]
fn guest_that_survived_panics_seconds_later_of_an_unknown_cause() {
    ends("late-death", "guest_panicked", "unknown", "possible");
}

#[test]
fn poisoned_huge_page_is_one_incident_with_the_accessed_pages() {
    let json = answer(&recording("huge-page-amd-6.12.ptrace"));
    let incidents = json["incidents"].as_array().unwrap();
    assert_eq!(incidents.len(), 1);
    let page = &incidents[0]["page"];
    assert_eq!(page["size_bytes"], 2 << 20);
    assert_eq!(page["gpas"], serde_json::json!(["0x9e00000", "0x9e01000"]));
    assert_eq!(incidents[0]["storm"]["kind"], "page_touches");
    ends("huge-page", "guest_panicked", "kernel_access", "likely");
}

#[test]
fn guest_that_panics_after_a_soft_offline_has_no_incident() {
    assert!(verdicts("look-alike").is_empty());
}

#[test]
fn vmm_without_a_handler_is_killed() {
    ends("vmm-no-handler", "vmm_killed", "sigbus_unhandled", "certain");
}

#[test]
fn vmm_whose_language_runtime_removes_its_handler_is_killed_by_the_second_sigbus() {
    // Rust's runtime, as in cloud-hypervisor: the first SIGBUS only removes the handler.
    ends("vmm-runtime-handler", "vmm_killed", "sigbus_unhandled", "likely");
}

#[test]
fn vmm_whose_handler_exits_is_known_by_its_status() {
    ends("vmm-exit-149", "vmm_exited", "sigbus_unhandled", "certain");
}

#[test]
fn vmm_dies_of_the_second_sigbus_and_both_pages_report_it() {
    ends("vmm-second-sigbus", "vmm_killed", "second_sigbus", "likely");
    assert_eq!(verdicts("vmm-second-sigbus").len(), 2);
}

#[test]
fn vmm_that_accesses_poisoned_memory_of_its_own_is_no_guest_death() {
    ends("vmm-own-memory", "vmm_killed", "vmm_own_memory", "likely");
}

#[test]
fn vmm_that_swallows_sigbus_spins_through_user_space() {
    ends("vmm-swallow", "vmm_exited", "sigbus_spin", "likely");
    let json = answer(&recording("vmm-swallow-amd-6.12.ptrace"));
    assert_eq!(json["incidents"][0]["storm"]["spin"], "bounced");
}

#[test]
fn vmm_that_blocks_sigbus_spins_in_the_kernel() {
    ends("vmm-blocked", "vmm_killed", "sigbus_spin", "certain");
    let json = answer(&recording("vmm-blocked-amd-6.12.ptrace"));
    assert_eq!(json["incidents"][0]["storm"]["spin"], "in_kernel");
}

#[test]
fn kvm_shuts_down_a_vcpu_that_gets_a_machine_check_in_its_handler() {
    ends("vmm-nested", "guest_reset", "mce_nested", "certain");
}

#[test]
fn kvm_shuts_down_a_vcpu_whose_machine_checks_are_off() {
    ends("vmm-machine-checks-off", "guest_reset", "mce_disabled", "likely");
}

#[test]
fn kvm_drops_machine_checks_of_a_vcpu_whose_mcg_ctl_is_clear() {
    ends("vmm-dropped", "vmm_exited", "mce_dropped", "likely");
}

#[test]
fn two_vmms_with_one_page_are_two_incidents_that_name_each_other() {
    ends("vmm-shared", "unaffected", "not_touched", "likely");
    linked("vmm-shared");
}

#[test]
fn two_qemus_over_one_memory_file_have_an_answer_each() {
    let verdicts = verdicts("shared-memory");
    let outcome = |n: usize| (verdicts[n].0.as_str(), verdicts[n].1.as_str());
    assert_eq!(outcome(0), ("survived", "contained"));
    // The other guest never ran, and the lab killed its VMM.
    assert_eq!(outcome(1), ("vmm_killed", "not_poison"));
    linked("shared-memory");
}

#[test]
fn vmm_that_dies_of_truncated_memory_has_no_incident() {
    assert!(verdicts("vmm-truncated").is_empty());
}

#[test]
fn the_text_report_begins_with_the_summary_and_fits_a_ticket() {
    let output = explain(&recording("panic-amd-6.12.ptrace"), &[]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("Guest demo-guest panicked"), "{text}");
    assert!(text.contains("EMULATED"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 120), "{text}");
    assert!(text.lines().count() <= 60, "{}", text.lines().count());
    assert!(!text.contains('\x1b'));
}

fn refused_as_absent(output: &Output) {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.contains("no incident 20260101T000000Z-141-7f0012345000"),
        "{stderr}"
    );
}

#[test]
fn one_incident_can_be_selected() {
    let file = recording("panic-amd-6.12.ptrace");
    let id = answer(&file)["incidents"][0]["id"].as_str().unwrap().to_owned();
    let one = explain(&file, &[&id]);
    assert!(one.status.success());
    assert!(one.stderr.is_empty(), "{one:?}");
    let other = explain(&file, &["20260101T000000Z-141-7f0012345000"]);
    refused_as_absent(&other);
    assert!(explain(&file, &["--vm", "demo-guest"]).status.success());
    let none = explain(&file, &["--vm", "other"]);
    assert_eq!(none.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&none.stderr).contains("no incident of a VM named other"));
}

#[test]
fn a_truncated_or_foreign_file_is_refused_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let whole = fs::read(recording("panic-amd-6.12.ptrace")).unwrap();
    let file = dir.path().join("file");

    fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    refused(&explain(&file, &["--format", "json"]), "--allow-truncated");
    let rest = explain(&file, &["--allow-truncated", "--format", "json"]);
    assert!(rest.status.success(), "{rest:?}");
    assert!(String::from_utf8_lossy(&rest.stdout).contains("the end of the recording"));

    fs::write(&file, "a letter\nto somebody\n").unwrap();
    refused(&explain(&file, &[]), "not a poisontrace recording");

    let other = String::from_utf8(whole).unwrap();
    let other = other.replacen("\"poisontrace_recording\":1", "\"poisontrace_recording\":99", 1);
    fs::write(&file, other).unwrap();
    refused(&explain(&file, &[]), "version 99");

    refused(
        &explain(&dir.path().join("gone"), &[]),
        "gone: there is no such file",
    );
    refused(&explain(dir.path(), &[]), "Is a directory");
}

#[test]
fn what_a_guest_does_after_a_truncated_recording_is_not_stated() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    let mut ran = 0;
    for name in [
        "panic-amd-6.12.ptrace",
        "survive-amd-6.12.ptrace",
        "late-death-amd-6.12.ptrace",
    ] {
        let whole = fs::read(recording(name)).unwrap();
        for tenths in 3..10 {
            fs::write(&file, &whole[..whole.len() * tenths / 10]).unwrap();
            let output = explain(&file, &["--allow-truncated", "--format", "json"]);
            let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            for incident in answer["incidents"].as_array().into_iter().flatten() {
                ran += usize::from(incident["outcome"] == "running");
                let summary = incident["summary"].as_str().unwrap();
                assert!(!summary.contains("is running"), "{name}: {tenths}: {summary}");
            }
        }
    }
    assert!(ran > 0);
}

#[test]
fn a_missing_store_is_refused_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().to_str().unwrap();
    refused(
        &poisontrace(["explain", "--last", "--state-dir", state]),
        "no incidents are stored",
    );
    refused(
        &poisontrace(["incidents", "--state-dir", state]),
        "no incidents are stored",
    );
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is written");
}

#[test]
fn output_replaces_a_file_and_is_not_world_readable() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("report.html");
    fs::write(&file, "an older report").unwrap();
    let recording = recording("storm-intel-6.12.ptrace");
    let output = explain(&recording, &["--format", "html", "-o", file.to_str().unwrap()]);
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    let page = fs::read_to_string(&file).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>"));
    assert_eq!(page.matches("<circle").count(), 64);
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o7777, 0o640);

    let nowhere = dir.path().join("no/such/folder/report.html");
    refused(
        &explain(&recording, &["-o", nowhere.to_str().unwrap()]),
        "cannot write",
    );
}
