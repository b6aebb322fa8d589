//! The kept traces and logs with their expected verdicts, and short texts of each kind.

use std::{fs, path::Path};

use serde_json::Value;

use crate::{amd, explain, explain_text, incidents, misses, only, trace, verdict};

#[test]
fn the_trace_alone_shows_the_poison_and_an_unfinished_machine_check() {
    let i = only(&[amd("ftrace.txt")]);
    assert_eq!(verdict(&i), ("guest_panicked", "unknown", "possible"));
    assert_eq!(
        (&i["page"]["pfn"], &i["page"]["gpa"]),
        (&"0xf7eb".into(), &"0x2beb000".into())
    );
    assert_eq!(i["page"]["type"], "dirty LRU page");
    assert_eq!(
        (&i["vm"]["pid"], &i["vm"]["vmm"]),
        (&221.into(), &"ld-linux-x86-64".into())
    );
    assert_eq!(
        (&i["signals"]["action_optional"], &i["signals"]["action_required"]),
        (&1.into(), &1.into())
    );
    assert_eq!(
        (&i["exits"]["count"], &i["exits"]["by_access"]["read"]),
        (&1.into(), &1.into())
    );
    assert_eq!(
        (&i["injections"]["delivered"], &i["injections"]["action_required"]),
        (&1.into(), &Value::Null)
    );
    assert_eq!(i["latency_ns"]["exit_to_entry"]["sum"], 5_954_000);
    assert_eq!(i["latency_ns"]["in_kernel"]["sum"], 611_000);
    assert_eq!(
        i["latency_ns"]["gup_basis"], "bound",
        "fault to signal: no probe on gup"
    );
    assert_eq!(i["latency_ns"]["gup"]["sum"], 559_000);
    assert_eq!(i["started_at"], Value::Null);
    assert!(misses(&i, "probe kvm_msr"), "{i:#}");
}

#[test]
fn the_console_alone_gives_the_cause() {
    let i = only(&[amd("console.txt")]);
    assert_eq!(verdict(&i), ("guest_panicked", "mce_overflow", "certain"));
    assert_eq!(
        (&i["page"]["gpa"], &i["page"]["pfn"]),
        (&"0x2beb000".into(), &Value::Null)
    );
    let injection = &i["injections"]["events"][0];
    assert_eq!(
        (&injection["via"], &injection["bank"]),
        (&"log".into(), &9.into())
    );
    assert_eq!(
        (&injection["status"], &injection["overflow"]),
        (&"0xfc00080000000000".into(), &true.into())
    );
    assert_eq!(i["signals"]["action_required"], Value::Null);
    assert_eq!(i["exits"]["count"], Value::Null);
}

#[test]
fn the_log_of_qemu_alone_leaves_the_outcome_unknown() {
    let i = only(&[amd("qemu.log")]);
    assert_eq!(verdict(&i), ("unknown", "unknown", "possible"));
    assert_eq!(
        (&i["page"]["gpa"], &i["page"]["hva"]),
        (&"0x2beb000".into(), &"0x7fccea9eb000".into())
    );
    let severities: Vec<&str> = i["injections"]["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t["severity"].as_str().unwrap())
        .collect();
    assert_eq!(severities, ["ao", "ar"]);
    assert!(misses(&i, "the guest's end"), "{i:#}");
}

#[test]
fn a_log_shared_by_host_vmm_and_guest_is_read_line_by_line() {
    let i = only(&[amd("host.log")]);
    assert_eq!(verdict(&i), ("guest_panicked", "mce_overflow", "certain"));
    assert_eq!(
        (&i["page"]["pfn"], &i["page"]["gpa"]),
        (&"0xf7eb".into(), &"0x2beb000".into())
    );
    assert_eq!(i["page"]["action_result"], "Recovered");
}

#[test]
fn all_files_together_are_one_incident_on_one_clock() {
    let mut files = ["ftrace.txt", "host.log", "qemu.log", "console.txt"].map(amd);
    let first = only(&files);
    assert_eq!(verdict(&first), ("guest_panicked", "mce_overflow", "certain"));
    assert_eq!(
        (&first["page"]["pfn"], &first["page"]["gpa"]),
        (&"0xf7eb".into(), &"0x2beb000".into())
    );
    assert_eq!(first["page"]["hva"], "0x7fccea9eb000");
    let injections = first["injections"]["events"].as_array().unwrap();
    assert_eq!(
        injections.len(),
        2,
        "each counts once, in however many files it is: {injections:#?}"
    );
    assert!(
        misses(&first, "by 2 events that both have, to within 1.3 ms"),
        "{first:#}"
    );
    files.reverse();
    let last = only(&files);
    assert_eq!(verdict(&last), verdict(&first));
    assert_eq!(last["page"], first["page"]);
}

#[test]
fn a_vmm_that_steps_over_each_flush_shows_every_line_once() {
    let i = only(&[trace("intel-tiny-vmm/clflushopt-stepped-over.ftrace.txt")]);
    let x = &i["exits"];
    assert_eq!(
        (&x["count"], &x["distinct_lines"], &x["distinct_rips"]),
        (&64.into(), &64.into(), &1.into())
    );
    assert_eq!(x["line_bitmap"], "0xffffffffffffffff");
    assert_eq!(i["page"]["gpa"], "0x100000");
    assert_eq!(i["signals"]["action_required"], 64);
    assert_eq!(
        (&i["outcome"], &i["confidence"]),
        (&"running".into(), &"possible".into())
    );
    assert_eq!(i["latency_ns"]["exit_to_entry"]["count"], 64);
    assert_eq!(
        i["latency_ns"]["in_kernel"],
        Value::Null,
        "the trace has no kvm_userspace_exit"
    );
    assert_eq!(
        i["injections"]["delivered"],
        Value::Null,
        "the trace has no kvm_inj_exception"
    );
}

#[test]
fn a_machine_check_at_each_line_is_counted_once_however_often_it_is_reinjected() {
    let i = only(&[trace("intel-tiny-vmm/load-mce-each-line.ftrace.txt")]);
    // The file has 59 lines of kvm_inj_exception, of which 3 are reinjections, and ends at the 56th line.
    assert_eq!(i["exits"]["count"], 56);
    assert_eq!(i["exits"]["distinct_lines"], 56);
    assert_eq!(i["injections"]["delivered"], 56);
    assert_eq!(verdict(&i), ("survived", "contained", "likely"));
}

#[test]
fn a_kernel_log_alone_names_page_and_process() {
    let all = incidents(&[trace("intel-tiny-vmm/vmm-and-dmesg.txt")]);
    assert_eq!(all.len(), 6);
    assert_eq!(verdict(&all[0]), ("unknown", "unknown", "possible"));
    assert_eq!(
        (&all[0]["page"]["pfn"], &all[0]["vm"]["pid"]),
        (&"0x2ad7".into(), &172.into())
    );
}

#[test]
fn junk_between_the_lines_changes_nothing() {
    for file in ["ftrace.txt", "console.txt", "qemu.log"].map(amd) {
        let expected = only(std::slice::from_ref(&file));
        let mut noisy = Vec::new();
        for (n, line) in fs::read(&file)
            .unwrap()
            .split_inclusive(|b| *b == b'\n')
            .enumerate()
        {
            let junk: &[u8] = match n % 5 {
                0 => b"# a comment\n",
                1 => b"\xff\xfe\x00\x1b[2J binary \x07\n",
                2 => b"[001] 1.0: : kvm_exit: reason\n",
                3 => b"{\"event\": {\"not\": \"ours\"\n",
                _ => b"\n",
            };
            noisy.extend_from_slice(junk);
            noisy.extend_from_slice(line);
        }
        let dir = tempfile::tempdir().unwrap();
        let copy = dir.path().join(file.file_name().unwrap());
        fs::write(&copy, noisy).unwrap();
        assert_eq!(only(&[copy]), expected);
    }
}

#[test]
fn look_alikes_are_no_poison() {
    // SIGBUS of a hugetlb shortage (BUS_ADRERR); a retry loop without SIGBUS; demand paging.
    let retries: String = (0..64)
        .map(|n| {
            format!(
                "vmm-9 [000] d..1. 1.{n:06}: kvm_exit: vcpu 0 reason EPT_VIOLATION rip 0x1000 info1 0x581 info2 0x0\n\
                 vmm-9 [000] ..... 1.{n:06}: kvm_page_fault: vcpu 0 rip 0x1000 address 0x5000 error_code 0x581\n\
                 vmm-9 [000] d..1. 1.{n:06}: kvm_entry: vcpu 0, rip 0x1000\n"
            )
        })
        .collect();
    let shortage =
        "vmm-9 [000] d..1. 2.0: signal_generate: sig=7 errno=0 code=2 comm=vmm pid=9 grp=0 res=0\n";
    assert_eq!(explain_text(&(retries + shortage)), Vec::<Value>::new());
    for quiet in [
        "[  1.000000] soft offline: 0xf7eb: page already poisoned\n[  2.000000] Soft offlining pfn 0xf7eb\n",
        "[  1.000000] mce: [Hardware Error]: Machine check events logged\n",
        "[  1.000000] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000009\n",
    ] {
        assert_eq!(explain_text(quiet), Vec::<Value>::new(), "{quiet}");
    }
    let corrupt = explain_text(
        "[ 1.0] mce: [Hardware Error]: CPU 0: Machine Check Exception: 5 Bank 4: b200000000070f0f\n\
         [ 1.0] mce: [Hardware Error]: TSC 1 \n\
         [ 1.0] mce: [Hardware Error]: Machine check: Processor context corrupt\n\
         [ 1.0] Kernel panic - not syncing: Fatal machine check\n",
    );
    assert!(corrupt.iter().all(|i| i["cause"] == "not_poison"), "{corrupt:#?}");
}

#[test]
fn a_guest_kernel_that_flushes_is_known_by_its_console() {
    let all = explain_text(
        "[ 1.0] mce: [Hardware Error]: CPU 0: Machine Check Exception: 5 Bank 9: bd80000000000134\n\
         [ 1.0] mce: [Hardware Error]: RIP 10:<ffffffff8106a01c> {clflush_cache_range+0x1c/0x30}\n\
         [ 1.0] mce: [Hardware Error]: TSC 1 ADDR 2beb000 MISC 8c \n\
         [ 1.0] mce: [Hardware Error]: Machine check: Data load in unrecoverable area of kernel\n\
         [ 1.0] Kernel panic - not syncing: Fatal local machine check\n",
    );
    assert_eq!(verdict(&all[0]), ("guest_panicked", "clflush", "likely"));
    assert_eq!(all[0]["flush"]["basis"], "guest_console");
}

#[test]
fn a_journal_and_qmp_events_give_the_beginning_and_the_end() {
    let all = explain_text(
        "{\"__REALTIME_TIMESTAMP\":\"1795362334000000\",\"_SOURCE_MONOTONIC_TIMESTAMP\":\"34181197\",\"MESSAGE\":\"Memory failure: 0xf7eb: Sending SIGBUS to qemu-system-x86:221 due to hardware memory corruption\"}\n\
         {\"timestamp\": {\"seconds\": 1795362335, \"microseconds\": 0}, \"event\": \"MEMORY_FAILURE\", \"data\": {\"recipient\": \"guest\", \"action\": \"reset\", \"flags\": {\"action-required\": true, \"recursive\": true}}}\n\
         {\"timestamp\": {\"seconds\": 1795362335, \"microseconds\": 9}, \"event\": \"RESET\", \"data\": {\"guest\": true, \"reason\": \"guest-reset\"}}\n",
    );
    assert_eq!(all.len(), 1);
    // Two senders without a key, whose clocks agree: likely at most.
    assert_eq!(verdict(&all[0]), ("guest_reset", "mce_nested", "likely"));
    assert_eq!(all[0]["joins"][0]["key"], "clock");
    assert_eq!(all[0]["started_at"], "2026-11-22T15:45:34.000Z");
    assert_eq!(all[0]["timeline"][1]["t_ns"], 1_000_000_000);
}

#[test]
fn every_prefix_of_a_file_is_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("prefix");
    for whole in [
        amd("host.log"),
        amd("console.txt"),
        trace("intel-tiny-vmm/load-mce-each-line.ftrace.txt"),
    ] {
        let bytes = fs::read(whole).unwrap();
        for n in 0..40 {
            fs::write(&file, &bytes[..bytes.len() * n / 40]).unwrap();
            let status = explain(std::slice::from_ref(&file)).status.code();
            assert!(matches!(status, Some(0 | 2)), "{n}: {status:?}");
        }
    }
}

#[test]
fn an_old_kernels_wording_with_gup_probes_and_a_broadcast_is_one_incident() {
    let all = explain_text(
        " CPU 1/KVM-1002  [003] d..1   100.000110: kvm_entry: vcpu 1, rip 0xffffffff81000000\n\
         kworker/2:1-77  [002] d..1   100.100000: signal_generate: sig=7 errno=0 code=5 comm=qemu-system-x86 pid=980 grp=0 res=0\n\
         kworker/2:1-77  [002] ....   100.100100: memory_failure_event: pfn 0x12345: recovery action for dirty LRU page: Recovered\n\
         CPU 0/KVM-1001  [002] d..1   100.500000: kvm_entry: vcpu 0\n\
         CPU 0/KVM-1001  [002] d..1   101.000000: kvm_exit: reason EPT_VIOLATION rip 0xffffffff8106a01c info 581 0\n\
         CPU 0/KVM-1001  [002] ....   101.000001: kvm_page_fault: address 7654040 error_code 581\n\
         CPU 0/KVM-1001  [002] ....   101.000002: p_get_user_pages_unlocked_0: (get_user_pages_unlocked+0x0/0x40)\n\
         CPU 0/KVM-1001  [002] d...   101.000005: r_get_user_pages_unlocked_0: (hva_to_pfn+0x1/0x20 [kvm] <- get_user_pages_unlocked) arg1=0xffffff7b\n\
         CPU 0/KVM-1001  [002] d..1   101.000006: signal_generate: sig=7 errno=0 code=4 comm=CPU 0/KVM pid=1001 grp=0 res=0\n\
         CPU 0/KVM-1001  [002] ....   101.000008: kvm_userspace_exit: reason restart (4)\n\
         CPU 0/KVM-1001  [002] ....   101.010000: kvm_inj_exception: #MC (0x0)\n\
         CPU 1/KVM-1002  [003] ....   101.010100: kvm_inj_exception: #MC (0x0)\n\
         CPU 0/KVM-1001  [002] ....   101.030000: kvm_pio: pio_write at 0x505 size 1 count 1 val 0x1 \n",
    );
    assert_eq!(all.len(), 1, "{all:#?}");
    let i = &all[0];
    assert_eq!(verdict(i), ("guest_panicked", "kernel_access", "likely"));
    assert_eq!(
        (&i["vm"]["pid"], &i["vm"]["vmm"]),
        (&980.into(), &"qemu-system-x86".into())
    );
    assert_eq!(
        (&i["page"]["gpa"], &i["exits"]["line_bitmap"]),
        (&"0x7654000".into(), &"0x2".into())
    );
    assert_eq!(
        (&i["injections"]["delivered"], &i["injections"]["vcpus"]),
        (&2.into(), &2.into())
    );
    assert_eq!(
        (&i["latency_ns"]["gup"]["sum"], &i["latency_ns"]["gup_basis"]),
        (&3_000.into(), &"exact".into())
    );
}

#[test]
fn a_vmm_without_a_handler_is_killed_by_its_signal() {
    let all = explain_text(
        "fc_vcpu 0  2001 [002]   101.000000: kvm:kvm_exit: vcpu 0 reason npf rip 0x401000 info1 0x0000000100000006 info2 0x0000000007654040 intr_info 0x00000000 error_code 0x00000000 requests 0x0000000000000000\n\
         fc_vcpu 0  2001 [002]   101.000006: signal:signal_generate: sig=7 errno=0 code=4 comm=fc_vcpu 0 pid=2001 grp=0 res=0\n\
         fc_vcpu 0  2001 [002]   101.000009: signal:signal_deliver: sig=7 errno=0 code=4 sa_handler=0 sa_flags=0\n",
    );
    assert_eq!(verdict(&all[0]), ("vmm_killed", "sigbus_unhandled", "certain"));
    assert_eq!(
        all[0]["page"]["gpa"], "0x7654000",
        "from EXITINFO2: kvm_page_fault was not traced"
    );
}

#[test]
fn a_libvirt_log_gives_the_guests_name_and_the_time() {
    let all = explain_text(
        "2026-11-22 15:45:00.000+0000: starting up libvirt version: 10.0.0, qemu version: 8.2.2, kernel: 6.8.0-31-generic, hostname: host-3\n\
         /usr/bin/qemu-system-x86_64 \\\n-name guest=db-7,debug-threads=on \\\n-uuid 5e1f1e55-0000-4000-8000-00000000feed \\\n\
         2026-11-22T15:45:34.000000Z qemu-system-x86_64: Guest MCE Memory Error at QEMU addr 0x7f0000001000 and GUEST addr 0x5000 of type BUS_MCEERR_AR injected\n\
         2026-11-22 15:45:36.000+0000: shutting down, reason=crashed\n",
    );
    assert_eq!(all.len(), 1);
    let i = &all[0];
    assert_eq!(
        (&i["vm"]["name"], &i["page"]["gpa"]),
        (&"db-7".into(), &"0x5000".into())
    );
    assert_eq!(i["vm"]["uuid"], "5e1f1e55-0000-4000-8000-00000000feed");
    assert_eq!(i["started_at"], "2026-11-22T15:45:34.000Z");
    assert_eq!(i["timeline"][1]["t_ns"], 2_000_000_000);
}

#[test]
fn a_recording_gets_the_panic_message_from_the_console() {
    let recording = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings/panic-amd-6.12.ptrace");
    let console = "[   15.112359] mce: [Hardware Error]: CPU 0: Machine Check Exception: 7 Bank 9: fc00080000000000\n\
                   [   15.225016] mce: [Hardware Error]: TSC d310f9d44 ADDR 93d3000 MISC 8c \n\
                   [   15.454470] Kernel panic - not syncing: Fatal local machine check\n";
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("console");
    fs::write(&file, console).unwrap();
    let i = only(&[recording.clone(), file]);
    let alone = only(&[recording]);
    assert_eq!(i["id"], alone["id"]);
    assert_eq!((&i["outcome"], &i["cause"]), (&alone["outcome"], &alone["cause"]));
    assert_eq!(
        i["injections"], alone["injections"],
        "a log does not repeat an observed event"
    );
    assert!(!misses(&i, "guest console log"), "{i:#}");
}

#[test]
fn rasdaemons_database_gives_the_page_that_the_log_of_qemu_lacks() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ras-mc_event.db");
    let db = rusqlite::Connection::open(&file).unwrap();
    db.execute_batch(
        "CREATE TABLE memory_failure_event (id INTEGER PRIMARY KEY, timestamp TEXT, pfn TEXT, page_type TEXT, action_result TEXT);
         INSERT INTO memory_failure_event VALUES (1, '2026-11-22 15:45:34 +0000', '0xf7eb', 'dirty LRU page', 'Recovered');",
    )
    .unwrap();
    drop(db);
    // The database alone does not identify the VMM's page; the kernel's log joins them.
    let i = only(&[amd("host.log"), file]);
    assert_eq!(
        (&i["page"]["pfn"], &i["page"]["gpa"]),
        (&"0xf7eb".into(), &"0x2beb000".into())
    );
    assert!(i["timeline"].as_array().unwrap().iter().any(|m| {
        m["source"]
            .as_str()
            .is_some_and(|s| s.contains("ras-mc_event.db"))
    }));
}
