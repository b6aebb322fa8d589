//! Log wordings of ten years. Each row has the source and its versions, a log, and the expected result. The logs are
//! written after the sources, not recorded.

use serde_json::Value;

use crate::{explain_text, verdict};

struct Row {
    source: &'static str,
    text: &'static str,
    verdict: (&'static str, &'static str, &'static str),
    /// JSON pointers into the incident, and the expected value.
    holds: &'static [(&'static str, &'static str)],
}

#[track_caller]
fn all_hold(rows: &[Row]) {
    for row in rows {
        let answer = explain_text(row.text);
        assert_eq!(answer.len(), 1, "{}: {answer:#?}", row.source);
        assert_eq!(
            verdict(&answer[0]),
            row.verdict,
            "{}: {:#}",
            row.source,
            answer[0]
        );
        for (pointer, expected) in row.holds {
            let found = answer[0].pointer(pointer).unwrap_or(&Value::Null);
            let found = found.as_str().map_or_else(|| found.to_string(), str::to_owned);
            assert_eq!(found, *expected, "{}: {pointer}", row.source);
        }
    }
}

const UNKNOWN: (&str, &str, &str) = ("unknown", "unknown", "possible");
const PAGE: (&str, &str) = ("/page/pfn", "0xf7eb");
const PID: (&str, &str) = ("/vm/pid", "221");

#[test]
fn the_hosts_kernel_of_each_age() {
    all_hold(&[
        Row {
            source: "mm/memory-failure.c up to 4.6",
            text: "MCE 0xf7eb: Killing qemu-system-x86:221 due to hardware memory corruption\n\
                   MCE 0xf7eb: dirty LRU page recovery: Recovered\n",
            verdict: UNKNOWN,
            holds: &[
                PAGE,
                PID,
                ("/page/type", "dirty LRU page"),
                ("/page/action_result", "Recovered"),
            ],
        },
        Row {
            source: "mm/memory-failure.c 4.1 to 4.6, early kill",
            text: "MCE 0xf7eb: Killing qemu-system-x86:221 early due to hardware memory corruption\n\
                   MCE 0xf7eb: recovery action for dirty LRU page: Recovered\n",
            verdict: UNKNOWN,
            holds: &[PAGE, PID, ("/page/action_result", "Recovered")],
        },
        Row {
            source: "mm/memory-failure.c 4.7 to 5.2",
            text: "[    7.1] Memory failure: 0xf7eb: Killing CPU 0/KVM:221 due to hardware memory corruption\n\
                   [    7.2] Memory failure: 0xf7eb: recovery action for dirty LRU page: Recovered\n",
            verdict: UNKNOWN,
            holds: &[PAGE, PID],
        },
        Row {
            source: "mm/memory-failure.c 5.3 to 7.3",
            text: "[    7.1] Memory failure: 0xf7eb: Sending SIGBUS to qemu-system-x86:221 due to hardware memory corruption\n\
                   [    7.2] Memory failure: 0xf7eb: recovery action for huge page: Recovered\n",
            verdict: UNKNOWN,
            holds: &[PAGE, PID, ("/page/type", "huge page")],
        },
        Row {
            source: "mm/memory-failure.c kill_procs(), all: the page could not be unmapped",
            text: "[    7.1] Memory failure: 0xf7eb: forcibly killing qemu-system-x86:221 because of failure to unmap corrupted page\n",
            verdict: ("vmm_killed", "unmap_failed", "certain"),
            holds: &[PAGE, PID],
        },
        Row {
            source: "arch/x86/mm/fault.c do_sigbus(), 2.6.32 to 5.x",
            text: "[    7.1] Memory failure: 0xf7eb: Killing qemu-kvm:221 due to hardware memory corruption\n\
                   [    7.2] MCE: Killing qemu-kvm:221 due to hardware memory corruption fault at 7f0000001040\n",
            verdict: ("unknown", "vmm_own_memory", "possible"),
            holds: &[PAGE, PID, ("/page/hva", "0x7f0000001000")],
        },
        Row {
            source: "kernel/auditsc.c ANOM_ABEND, all: a VMM without a handler",
            text: "[    7.1] Memory failure: 0xf7eb: Sending SIGBUS to cloud-hypervisor:221 due to hardware memory corruption\n\
                   [    7.3] audit: type=1701 audit(1795362334.123:456): auid=0 uid=0 gid=0 ses=1 pid=221 comm=\"vcpu0\" exe=\"/usr/bin/cloud-hypervisor\" sig=7 res=1\n",
            verdict: ("vmm_killed", "sigbus_unhandled", "likely"),
            holds: &[PAGE, PID],
        },
        Row {
            source: "systemd, all: Firecracker's exit status",
            text: "Nov 22 15:45:34 host kernel: Memory failure: 0xf7eb: Sending SIGBUS to fc_vcpu 0:221 due to hardware memory corruption\n\
                   Nov 22 15:45:34 host systemd[1]: fc@a.service: Main process exited, code=exited, status=149/n/a\n",
            // The unit is joined to the process by the clock alone.
            verdict: ("vmm_exited", "sigbus_unhandled", "likely"),
            holds: &[PAGE, PID],
        },
        Row {
            source: "rasdaemon 0.6.6 to 0.8.x, its journal, beside the kernel's line",
            text: "[    7.1] Memory failure: 0xf7eb: Sending SIGBUS to qemu-system-x86:221 due to hardware memory corruption\n\
                   host rasdaemon[71]: kworker/0:1-71 [000] 0.003300: memory_failure_event: 2026-11-22 15:45:34 +0000 pfn=0xf7eb page_type=dirty LRU page action_result=Recovered \n",
            verdict: UNKNOWN,
            holds: &[PAGE, PID, ("/page/action_result", "Recovered")],
        },
    ]);
}

#[test]
fn a_line_of_the_hosts_kernel_in_each_loggers_format() {
    let words =
        "Memory failure: 0xf7eb: Sending SIGBUS to qemu-system-x86:221 due to hardware memory corruption";
    let wall = "2026-11-22T15:45:34.000Z";
    for (logger, line, started_at) in [
        ("dmesg", format!("[   34.181197] {words}"), None),
        (
            "dmesg --ctime",
            format!("[Sun Nov 22 15:45:34 2026] {words}"),
            Some(wall),
        ),
        (
            "dmesg --decode",
            format!("kern  :err   : [   34.181197] {words}"),
            None,
        ),
        (
            "dmesg --color=always",
            format!(
                "\x1b[32m[   34.181197] \x1b[0m\x1b[33mMemory failure: \x1b[0m{}",
                words.trim_start_matches("Memory failure: ")
            ),
            None,
        ),
        (
            "dmesg --time-format iso",
            format!("2026-11-22T15:45:34,000000+00:00 {words}"),
            Some(wall),
        ),
        ("dmesg --raw", format!("<3>[   34.181197] {words}"), None),
        ("printk.caller", format!("[   34.181197][  T211] {words}"), None),
        (
            "/dev/kmsg",
            format!("3,1234,34181197,-,caller=T211;{words}"),
            None,
        ),
        (
            "journalctl -o short",
            format!("Nov 22 15:45:34 host kernel: {words}"),
            None,
        ),
        (
            "journalctl -o short-precise",
            format!("Nov 22 15:45:34.000123 host kernel: {words}"),
            None,
        ),
        (
            "journalctl -o short-iso",
            format!("2026-11-22T15:45:34+0000 host kernel: {words}"),
            Some(wall),
        ),
        (
            "journalctl -o short-iso-precise",
            format!("2026-11-22T16:45:34.000000+01:00 host kernel: {words}"),
            Some(wall),
        ),
        (
            "journalctl -o short-full",
            format!("Sun 2026-11-22 15:45:34 UTC host kernel: {words}"),
            Some(wall),
        ),
        (
            "journalctl -o short-monotonic",
            format!("[   34.181197] host kernel: {words}"),
            None,
        ),
        (
            "journalctl -o short-unix",
            format!("1795362334.000000 host kernel: {words}"),
            Some(wall),
        ),
        ("journalctl -o cat", words.to_owned(), None),
        (
            "journalctl -o json",
            format!(
                "{{\"__REALTIME_TIMESTAMP\":\"1795362334000000\",\"_TRANSPORT\":\"kernel\",\"MESSAGE\":\"{words}\"}}"
            ),
            Some(wall),
        ),
        (
            "journalctl -o json-pretty",
            format!(
                "{{\n\t\"MESSAGE\" : \"{words}\",\n\t\"__REALTIME_TIMESTAMP\" : \"1795362334000000\"\n}}"
            ),
            Some(wall),
        ),
        (
            "journalctl -o export",
            format!("__CURSOR=s=1\n__REALTIME_TIMESTAMP=1795362334000000\nPRIORITY=3\nMESSAGE={words}\n"),
            Some(wall),
        ),
        (
            "journalctl -o verbose",
            format!("Sun 2026-11-22 15:45:34.000000 UTC [s=1;i=2]\n    PRIORITY=3\n    MESSAGE={words}"),
            Some(wall),
        ),
        (
            "RFC 3164",
            format!("<3>Nov 22 15:45:34 host kernel: {words}"),
            None,
        ),
        (
            "RFC 5424",
            format!("<3>1 2026-11-22T15:45:34.000Z host kernel - - - {words}"),
            Some(wall),
        ),
    ] {
        for end in ["\n", "\r\n", ""] {
            let answer = explain_text(&format!("{line}{end}"));
            assert_eq!(answer.len(), 1, "{logger}");
            let i = &answer[0];
            assert_eq!(
                (&i["page"]["pfn"], &i["vm"]["pid"]),
                (&"0xf7eb".into(), &221.into()),
                "{logger}"
            );
            assert_eq!(i["started_at"].as_str(), started_at, "{logger}");
        }
    }
}

/// A guest's report of a machine check, and its panic.
fn console(status: &str, rip: &str, reason: &str, panic: &str) -> String {
    let reason = match reason {
        "" => String::new(),
        reason => format!("[ 1.0] mce: [Hardware Error]: Machine check: {reason}\n"),
    };
    format!(
        "[ 1.0] mce: [Hardware Error]: CPU 0: Machine Check Exception: 7 Bank 9: {status}\n\
         [ 1.0] mce: [Hardware Error]: RIP {rip}\n\
         [ 1.0] mce: [Hardware Error]: TSC 1 ADDR 2beb000 MISC 8c PPIN 7 \n\
         [ 1.0] mce: [Hardware Error]: PROCESSOR 0:50654 TIME 1795346099 SOCKET 0 APIC 0 microcode 1\n\
         {reason}[ 1.0] Kernel panic - not syncing: {panic}\n"
    )
}

const INTEL_AR: &str = "bd80000000000134";
const INTEL_AR_OVER: &str = "fd80000000000134";
const INTEL_AO: &str = "bd000000000000c0";
const AMD_AR: &str = "bc00080000000000";
const AMD_AR_OVER: &str = "fc00080000000000";
const KERNEL_FLUSH: &str = "10:<ffffffff8106a01c> {clflush_cache_range_opt+0x1c/0x30}";
const KERNEL_COPY: &str = "!INEXACT! 10:<ffffffff814a01c0> {memcpy_erms+0x6/0x10}";
const USER: &str = "33:<000000000040181f> ";

#[test]
fn the_guests_panic_messages_of_each_age() {
    // (source, STATUS, RIP, reason of severity.c, panic of core.c, cause, confidence)
    type Words = (
        &'static str,
        &'static str,
        &'static str,
        &'static str,
        &'static str,
        &'static str,
        &'static str,
    );
    let rows: [Words; 17] = [
        (
            "Intel, 3.x to 7.3",
            INTEL_AR_OVER,
            USER,
            "Action required with lost events",
            "Fatal local machine check",
            "mce_overflow",
            "certain",
        ),
        (
            "Intel, 4.4 to 7.3",
            INTEL_AR,
            KERNEL_FLUSH,
            "Data load in unrecoverable area of kernel",
            "Fatal local machine check",
            "clflush",
            "likely",
        ),
        (
            "Intel, 4.4 to 7.3",
            INTEL_AR,
            KERNEL_COPY,
            "Data load in unrecoverable area of kernel",
            "Fatal machine check",
            "kernel_access",
            "certain",
        ),
        (
            "Intel, 5.x to 7.3",
            "bd80000000000150",
            KERNEL_COPY,
            "Instruction fetch error in kernel",
            "Fatal local machine check",
            "kernel_access",
            "certain",
        ),
        (
            "Intel, up to 4.3: no rule for loads by the kernel",
            INTEL_AR,
            KERNEL_COPY,
            "Action required: unknown MCACOD",
            "Fatal Machine check",
            "kernel_access",
            "likely",
        ),
        (
            "Intel, all",
            INTEL_AR,
            KERNEL_COPY,
            "In kernel and no restart IP",
            "Fatal machine check on current CPU",
            "kernel_access",
            "certain",
        ),
        (
            "Intel, all: AO in the kernel of a guest without recovery",
            INTEL_AO,
            KERNEL_COPY,
            "Uncorrected",
            "Fatal machine check on current CPU",
            "fatal_notification",
            "likely",
        ),
        (
            "any, all",
            INTEL_AR_OVER,
            USER,
            "Overflowed uncorrected",
            "Fatal machine check on current CPU",
            "mce_overflow",
            "certain",
        ),
        (
            "AMD, 6.1 to 7.3",
            AMD_AR_OVER,
            USER,
            "Overflowed uncorrected error without MCA Overflow Recovery",
            "Fatal local machine check",
            "mce_overflow",
            "certain",
        ),
        (
            "AMD, 6.1 to 7.3",
            AMD_AR,
            USER,
            "Uncorrected error without MCA Recovery",
            "Fatal local machine check",
            "fatal_notification",
            "likely",
        ),
        (
            "AMD, 6.1 to 7.3",
            AMD_AR,
            KERNEL_COPY,
            "Uncorrected unrecoverable error in kernel context",
            "Fatal local machine check",
            "kernel_access",
            "certain",
        ),
        (
            "AMD, 6.1 to 7.3",
            AMD_AR,
            KERNEL_FLUSH,
            "Uncorrected unrecoverable error in kernel context",
            "Fatal local machine check",
            "clflush",
            "likely",
        ),
        (
            "AMD, up to 6.0: no reason in the log",
            AMD_AR_OVER,
            USER,
            "",
            "Fatal machine check on current CPU",
            "mce_overflow",
            "likely",
        ),
        (
            "AMD, up to 6.0",
            AMD_AR,
            KERNEL_COPY,
            "",
            "Fatal Machine check",
            "kernel_access",
            "likely",
        ),
        (
            "2.6.31 to 3.18: CPUs missing at the rendezvous",
            INTEL_AR,
            KERNEL_COPY,
            "",
            "Timeout synchronizing machine check over CPUs",
            "kernel_access",
            "likely",
        ),
        (
            "core.c, 3.19 to 7.3",
            INTEL_AR,
            USER,
            "",
            "Timeout: Not all CPUs entered broadcast exception handler",
            "unknown",
            "possible",
        ),
        (
            "core.c, 5.x to 7.3",
            INTEL_AR,
            KERNEL_COPY,
            "",
            "Failed kernel mode recovery",
            "kernel_access",
            "likely",
        ),
    ];
    for (source, status, rip, reason, panic, cause, confidence) in rows {
        let answer = explain_text(&console(status, rip, reason, panic));
        assert_eq!(answer.len(), 1, "{source}: {reason}");
        assert_eq!(
            verdict(&answer[0]),
            ("guest_panicked", cause, confidence),
            "{source}: {reason}"
        );
        assert_eq!(answer[0]["page"]["gpa"], "0x2beb000", "{source}");
    }
}

#[test]
fn a_guest_that_lives_reports_it() {
    let survives = |start: &str| {
        format!(
            "{start}[ 9.1] mce: Uncorrected hardware memory error in user-access at 2beb000\n\
             [ 9.2] Memory failure: 0x2beb: Sending SIGBUS to app:77 due to hardware memory corruption\n\
             [ 9.3] Memory failure: 0x2beb: recovery action for dirty LRU page: Recovered\n"
        )
    };
    let guest = explain_text(&survives("[ 0.0] Hypervisor detected: KVM\n"));
    assert_eq!(verdict(&guest[0]), ("survived", "contained", "likely"));
    assert_eq!(guest[0]["page"]["gpa"], "0x2beb000");
    // Beside the VMM's log the page is known to be the guest's.
    let logged_by_qemu = "qemu-system-x86_64: Guest MCE Memory Error at QEMU addr 0x7f0000001000 and GUEST addr 0x2beb000 of type BUS_MCEERR_AR injected\n";
    let guest = explain_text(&survives(logged_by_qemu));
    assert_eq!(verdict(&guest[0]), ("survived", "contained", "likely"));
    // A host prints the same lines: alone they are of a process that is no VMM.
    assert!(explain_text(&survives("")).is_empty());
}

#[test]
fn vmms_of_each_age() {
    const HVA: (&str, &str) = ("/page/hva", "0x7fccea9eb000");
    const GPA: (&str, &str) = ("/page/gpa", "0x2beb000");
    all_hold(&[
        Row {
            source: "QEMU 4.2 to 10.2, target/i386/kvm/kvm.c",
            text: "qemu-system-x86_64: Guest MCE Memory Error at QEMU addr 0x7fccea9eb000 and GUEST addr 0x2beb000 of type BUS_MCEERR_AR injected\n",
            verdict: UNKNOWN,
            holds: &[HVA, GPA, ("/injections/action_required", "1")],
        },
        Row {
            source: "QEMU with -msg timestamp=on,guest-name=on",
            text: "2026-11-22T15:45:34.000000Z db-7 qemu-kvm: warning: Guest MCE Memory Error at QEMU addr 0x7fccea9eb000 and GUEST addr 0x2beb000 of type BUS_MCEERR_AO injected\n",
            verdict: UNKNOWN,
            holds: &[
                HVA,
                GPA,
                ("/injections/action_optional", "1"),
                ("/started_at", "2026-11-22T15:45:34.000Z"),
            ],
        },
        Row {
            source: "QEMU 2.x to 4.1, hardware_memory_error()",
            text: "Hardware memory error for memory used by QEMU itself instead of guest system!\nHardware memory error!\n",
            verdict: ("vmm_exited", "vmm_own_memory", "likely"),
            holds: &[],
        },
        Row {
            source: "QEMU 4.2 to 10.2, hardware_memory_error()",
            text: "qemu-system-x86_64: QEMU got Hardware memory error at addr 0x7fccea9eb000\n",
            verdict: ("vmm_exited", "vmm_own_memory", "likely"),
            holds: &[],
        },
        Row {
            source: "QEMU 4.2 to 10.2 with -d cpu_reset, target/i386/helper.c",
            text: "qemu-system-x86_64: Guest MCE Memory Error at QEMU addr 0x7fccea9eb000 and GUEST addr 0x2beb000 of type BUS_MCEERR_AR injected\n\
                   CPU 0: Previous MCE still in progress, raising triple fault\n",
            verdict: ("guest_reset", "mce_nested", "certain"),
            holds: &[HVA, GPA],
        },
        Row {
            source: "the same, 5.2 to 10.2",
            text: "qemu-system-x86_64: Guest MCE Memory Error at QEMU addr 0x7fccea9eb000 and GUEST addr 0x2beb000 of type BUS_MCEERR_AR injected\n\
                   CPU 1: MCE capability is not enabled, raising triple fault\n",
            verdict: ("guest_reset", "mce_disabled", "certain"),
            holds: &[],
        },
        Row {
            source: "QEMU 8.x to 10.2, accel/kvm/kvm-all.c: guest_memfd",
            text: "error: kvm run failed Memory page has hardware error\nEAX=00000000 EBX=00000000 ECX=00000000 EDX=000806f3\n",
            verdict: ("unknown", "guest_memfd", "certain"),
            holds: &[],
        },
        Row {
            source: "Firecracker 0.2x to 1.x, src/vmm/src/signal_handler.rs",
            text: "2026-11-22T15:45:34.000000000 [anonymous-instance:fc_vcpu 0:ERROR:src/vmm/src/signal_handler.rs:42] Shutting down VM after intercepting signal 7, code 4.\n",
            verdict: ("vmm_exited", "sigbus_unhandled", "certain"),
            holds: &[],
        },
        Row {
            source: "QMP 5.2 to 10.2, qapi/run-state.json",
            text: "{\"timestamp\": {\"seconds\": 1795362334, \"microseconds\": 0}, \"event\": \"MEMORY_FAILURE\", \"data\": {\"recipient\": \"hypervisor\", \"action\": \"fatal\", \"flags\": {\"action-required\": true, \"recursive\": false}}}\n",
            // So it ends a guest without MCG_SER_P, too (kvm_arch_on_sigbus_vcpu).
            verdict: ("vmm_exited", "vmm_own_memory", "likely"),
            holds: &[("/started_at", "2026-11-22T15:45:34.000Z")],
        },
        Row {
            source: "QMP without timestamps, through a proxy",
            text: "{\"event\": \"MEMORY_FAILURE\", \"data\": {\"recipient\": \"guest\", \"action\": \"inject\", \"flags\": {\"action-required\": true, \"recursive\": false}}}\n\
                   {\"event\": \"GUEST_PANICKED\", \"data\": {\"action\": \"pause\"}}\n",
            verdict: ("guest_panicked", "unknown", "possible"),
            holds: &[("/injections/action_required", "1")],
        },
        Row {
            source: "virsh qemu-monitor-event --loop --timestamp",
            text: "2026-11-22 15:45:34.000+0000: event MEMORY_FAILURE for domain 'db-7': {\"recipient\":\"guest\",\"action\":\"reset\",\"flags\":{\"action-required\":true,\"recursive\":true}}\n",
            verdict: ("guest_reset", "mce_nested", "certain"),
            holds: &[("/vm/name", "db-7"), ("/started_at", "2026-11-22T15:45:34.000Z")],
        },
        Row {
            source: "virsh event --all --loop --timestamp, libvirt 6.9 to 11",
            text: "2026-11-22 15:45:34.000+0000: event 'memory-failure' for domain 'db-7':\nrecipient: guest\naction: reset\nflags:\n\taction required: 1\n\trecursive: 0\n\
                   2026-11-22 15:45:34.100+0000: event 'reboot' for domain 'db-7'\n",
            verdict: ("guest_reset", "mce_disabled", "certain"),
            holds: &[("/vm/name", "db-7")],
        },
        Row {
            source: "qmp-shell, Python 3",
            text: "{'timestamp': {'seconds': 1795362334, 'microseconds': 0}, 'event': 'MEMORY_FAILURE', 'data': {'recipient': 'guest', 'action': 'reset', 'flags': {'action-required': True, 'recursive': True}}}\n",
            verdict: ("guest_reset", "mce_nested", "certain"),
            holds: &[],
        },
    ]);
}
