//! Evidence that gives an answer although nothing beside it is known: the end of a VMM, a panic, a trace's event. `holds` has
//! the keys of `tests/field/cases.json`.

use crate::field_cases::Case;

const ENDED: &str = r#"{"n": [1, 1], "want": [{"outcome": ["vmm_killed"], "cause": ["unknown"], "confidence": ["possible"]}], "never": [{"text": "host lost"}, {"text": "poisoned page"}, {"confidence": ["certain", "likely"]}], "never_output": ["?)"]}"#;
const NO_VMM: &str = r#"{"rc": [0, 1], "n": [0, 0]}"#;
const A_KERNEL: &str = r#"{"n": [1, 1], "want": [{"outcome": ["unknown"], "confidence": ["possible"], "text": "host's or a guest's"}], "never": [{"gpa": "any"}, {"pfn": "any"}], "never_output": ["virsh"]}"#;
const THE_GUEST: &str = r#"{"n": [1, 1], "want": [{"outcome": ["guest_panicked"]}], "never": [{"confidence": ["certain"]}, {"outcome": ["host_panicked"]}]}"#;
const BUG_CHECK: &str = r#"{"n": [1, 1], "want": [{"outcome": ["guest_panicked"], "text": "bug check 0x"}], "never": [{"confidence": ["certain"]}, {"text": "host lost"}, {"gpa": "any"}]}"#;
const OF_PAGE: &str = r#"{"rc": [0, 1], "n": [0, 0], "output": ["0x8aa9a1", "Recovered"], "never_output": ["nothing in these files", "it is not"]}"#;
const OWN_ACCESS: &str = r#"{"n": [1, 1], "want": [{"outcome": ["unknown"], "cause": ["vmm_own_memory"], "text": "0x7f0000000000"}], "never": [{"confidence": ["certain"]}, {"gpa": "any"}]}"#;
const IGNORED: &str = r#"{"n": [1, 1], "want": [{"outcome": ["running"], "cause": ["vmm_own_memory"]}], "never": [{"confidence": ["certain"]}, {"gpa": "any"}, {"text": "itself accessed"}]}"#;
const HANDLED: &str = r#"{"n": [1, 1], "want": [{"outcome": ["survived", "unknown"], "gpa": "0x8aa9a1000"}], "never": [{"confidence": ["certain"]}, {"pfn": "any"}]}"#;

pub const CASES: &[Case] = &[
    // A VMM's own access.
    Case {
        name: "own-access-of-qemu",
        files: &[
            "[ 4711.25] MCE: Killing qemu-system-x86:801 due to hardware memory corruption fault at 7f0000000040\n",
        ],
        holds: OWN_ACCESS,
    },
    Case {
        name: "own-access-of-a-vcpu-in-a-journal",
        files: &[
            "{\"MESSAGE\":\"MCE: Killing CPU 3/KVM:801 due to hardware memory corruption fault at 7f0000000040\",\"_TRANSPORT\":\"kernel\",\"_HOSTNAME\":\"h1\",\"__REALTIME_TIMESTAMP\":\"1795362334000000\"}\n",
        ],
        holds: OWN_ACCESS,
    },
    Case {
        name: "own-access-of-cloud-hypervisor-by-syslog",
        files: &[
            "Nov 22 15:45:34 h1 kernel: [ 4711.250000] MCE: Killing cloud-hyperviso:801 due to hardware memory corruption fault at 7f0000000040\n",
        ],
        holds: OWN_ACCESS,
    },
    Case {
        name: "own-access-of-a-database",
        files: &[
            "[ 4711.25] MCE: Killing mysqld:801 due to hardware memory corruption fault at 7f0000000040\n",
        ],
        holds: r#"{"rc": [0, 1], "n": [0, 0], "output": ["mysqld"], "never_output": ["nothing in these files"]}"#,
    },
    // A relayed kernel without a line of a machine check.
    Case {
        name: "relayed-failure-of-a-microvm",
        files: &[
            "Oct 24 10:52:07 h1 microvm@vm1[15894]: [  157.390000] Memory failure: 0x8aa9a1: Sending SIGBUS to java:1227 due to hardware memory corruption\n\
             Oct 24 10:52:07 h1 microvm@vm1[15894]: [  157.390100] Memory failure: 0x8aa9a1: recovery action for dirty LRU page: Recovered\n",
        ],
        holds: HANDLED,
    },
    Case {
        name: "relayed-failure-in-a-container",
        files: &[
            "db  | [  157.390000] Memory failure: 0x8aa9a1: Killing postgres:77 due to hardware memory corruption\n",
        ],
        holds: HANDLED,
    },
    Case {
        name: "relayed-failure-of-a-free-page-by-conserver",
        files: &[
            "Nov 12 03:14:07 con1 conserver[900]: [vmA] [  157.392905] Memory failure: 0x8aa9a1: recovery action for clean LRU page: Recovered\n",
        ],
        holds: HANDLED,
    },
    Case {
        name: "failure-of-a-guest-by-its-boot-log",
        files: &[
            "[    0.000000] Hypervisor detected: KVM\n[  157.39] Memory failure: 0x8aa9a1: Sending SIGBUS to redis-server:77 due to hardware memory corruption\n",
        ],
        holds: HANDLED,
    },
    // QEMU: memory of its own.
    Case {
        name: "own-memory-ignored",
        files: &[
            "2026-11-22T18:02:12.000000Z qemu-system-x86_64: warning: Hardware memory error at addr 0x7f1234567000 of type BUS_MCEERR_AO for memory used by QEMU itself instead of guest system!\n",
        ],
        holds: IGNORED,
    },
    Case {
        name: "own-memory-ignored-on-arm",
        files: &[
            "qemu-system-aarch64: Hardware memory error at addr 0x7f1234567000 for memory used by QEMU itself instead of guest system!\n",
        ],
        holds: IGNORED,
    },
    Case {
        name: "own-memory-ignored-before-4-2",
        files: &[
            "Nov 22 18:02:12 h1 qemu[801]: qemu-kvm: Hardware memory error for memory used by QEMU itself instead of guest system!\n",
        ],
        holds: IGNORED,
    },
    Case {
        name: "own-memory-ignored-by-qmp",
        files: &[
            "{\"timestamp\": {\"seconds\": 1795370532, \"microseconds\": 437000}, \"event\": \"MEMORY_FAILURE\", \"data\": {\"recipient\": \"hypervisor\", \"action\": \"ignore\", \"flags\": {\"action-required\": false, \"recursive\": false}}}\n",
        ],
        holds: IGNORED,
    },
    Case {
        name: "own-memory-ignored-by-virsh",
        files: &[
            "2026-11-22 15:45:35.000+0000: event 'memory-failure' for domain 'db-7':\nrecipient: hypervisor\naction: ignore\nflags:\n\taction required: 0\n\trecursive: 0\n",
        ],
        holds: r#"{"n": [1, 1], "want": [{"outcome": ["running"], "cause": ["vmm_own_memory"], "vm": "db-7"}]}"#,
    },
    Case {
        name: "own-memory-fatal-with-its-address",
        files: &[
            "2026-11-22T18:02:12.000000Z qemu-system-x86_64: QEMU got Hardware memory error at addr 0x7f1234567000\n",
        ],
        holds: r#"{"n": [1, 1], "want": [{"outcome": ["vmm_exited"]}], "output": ["0x7f1234567000"]}"#,
    },
    // virsh event.
    Case {
        name: "virsh-event-of-an-injection",
        files: &[
            "event 'memory-failure' for domain 'web-1':\nrecipient: guest\naction: inject\nflags:\n\taction required: 1\n\trecursive: 0\n",
        ],
        holds: r#"{"n": [1, 1], "want": [{"vm": "web-1", "told_ar": [1, 1], "outcome": ["unknown", "running"]}]}"#,
    },
    Case {
        name: "virsh-event-of-a-reset",
        files: &[
            "2026-11-22 15:45:35.000+0000: event 'memory-failure' for domain 'web-1':\nrecipient: guest\naction: reset\nflags:\n\taction required: 1\n\trecursive: 1\n",
        ],
        holds: r#"{"n": [1, 1], "want": [{"vm": "web-1", "outcome": ["guest_reset"], "cause": ["mce_nested"]}]}"#,
    },
    Case {
        name: "virsh-event-of-a-fatal-error",
        files: &[
            "event 'memory-failure' for domain 'web-1':\nrecipient: hypervisor\naction: fatal\nflags:\n\taction required: 1\n\trecursive: 0\nevent 'lifecycle' for domain 'web-1': Stopped Failed\n",
        ],
        holds: r#"{"n": [1, 1], "want": [{"vm": "web-1", "outcome": ["vmm_exited"], "cause": ["vmm_own_memory"]}]}"#,
    },
    // VMMs without a handler, behind syslog.
    Case {
        name: "firecracker-behind-syslog",
        files: &[
            "Nov 22 15:45:34 h1 firecracker[801]: 2026-11-22T15:45:34.123456789 [vm-a:fc_vcpu 0:ERROR:src/vmm/src/signal_handler.rs:42] Shutting down VM after intercepting signal 7, code 4.\n",
        ],
        holds: r#"{"n": [1, 1], "want": [{"outcome": ["vmm_exited"], "cause": ["sigbus_unhandled"]}]}"#,
    },
    Case {
        name: "firecracker-by-its-unit-alone",
        files: &[
            "Nov 22 15:45:34 h1 systemd[1]: firecracker@a.service: Main process exited, code=exited, status=149/n/a\n",
        ],
        holds: r#"{"n": [1, 1], "want": [{"outcome": ["vmm_exited"], "cause": ["unknown"], "confidence": ["possible"]}], "never": [{"text": "host lost"}]}"#,
    },
    Case {
        name: "cloud-hypervisor-by-its-unit-alone",
        files: &[
            "2026-11-22T15:45:34+0000 h1 systemd[1]: cloud-hypervisor@db.service: Main process exited, code=dumped, status=7/BUS\n",
        ],
        holds: ENDED,
    },
    Case {
        name: "crosvm-and-the-process-of-a-device",
        files: &[
            "[2026-03-02T02:19:16.667092811+00:00 ERROR crosvm::crosvm::sys::linux] child pcivirtio-block (pid 4545) exited: signo 17, status 7, code 3\n",
        ],
        holds: ENDED,
    },
    Case {
        name: "crosvm-behind-syslog",
        files: &[
            "Mar  2 02:19:16 h1 crosvm[4540]: child gpu device (pid 4546) exited: signo 17, status 7, code 2\n",
        ],
        holds: ENDED,
    },
    Case {
        name: "crosvm-and-another-signal",
        files: &[
            "Mar  2 02:19:16 h1 crosvm[4540]: child gpu device (pid 4546) exited: signo 17, status 31, code 3\n",
        ],
        holds: NO_VMM,
    },
    Case {
        name: "kvmtool-by-its-core",
        files: &[
            "Mar  2 02:19:16 h1 systemd-coredump[4541]: Process 4540 (lkvm) of user 0 terminated abnormally with signal 7/BUS, processing...\n",
        ],
        holds: ENDED,
    },
    // Core dumps alone.
    Case {
        name: "core-of-qemu",
        files: &[
            "May 16 12:59:57 h1 systemd-coredump[805]: Process 801 (qemu-system-x86) of user 107 terminated abnormally with signal 7/BUS, processing...\n\
             May 16 12:59:58 h1 systemd-coredump[805]: Process 801 (qemu-system-x86) of user 107 dumped core.\n",
        ],
        holds: ENDED,
    },
    Case {
        name: "core-of-qemu-by-coredumpctl-info",
        files: &[
            "           PID: 801 (qemu-kvm)\n           UID: 107 (qemu)\n           GID: 107 (qemu)\n        Signal: 7 (BUS)\n     Timestamp: Sun 2026-11-22 15:45:34 UTC (2min ago)\n",
        ],
        holds: ENDED,
    },
    Case {
        name: "core-of-qemu-by-coredumpctl-list",
        files: &[
            "TIME                           PID UID GID SIG    COREFILE EXE                          SIZE\nSun 2026-11-22 15:45:34 UTC    801 107 107 SIGBUS present  /usr/bin/qemu-system-x86_64 1.2G\n",
        ],
        holds: ENDED,
    },
    Case {
        name: "core-of-qemu-in-json",
        files: &[
            "{\"MESSAGE\":\"Process 801 (CPU 0/KVM) of user 107 dumped core.\",\"COREDUMP_PID\":\"801\",\"COREDUMP_SIGNAL\":\"7\",\"COREDUMP_COMM\":\"CPU 0/KVM\",\"COREDUMP_EXE\":\"/usr/bin/qemu-system-x86_64\",\"_HOSTNAME\":\"h1\",\"__REALTIME_TIMESTAMP\":\"1795362334000000\"}\n",
        ],
        holds: ENDED,
    },
    Case {
        name: "core-of-qemu-exported",
        files: &[
            "__REALTIME_TIMESTAMP=1795362334000000\n_HOSTNAME=h1\nCOREDUMP_PID=801\nCOREDUMP_SIGNAL=7\nCOREDUMP_SIGNAL_NAME=SIGBUS\nCOREDUMP_COMM=worker\nCOREDUMP_EXE=/usr/libexec/qemu-kvm\nMESSAGE=Process 801 (worker) of user 107 dumped core.\n\n",
        ],
        holds: ENDED,
    },
    Case {
        name: "core-of-qemu-by-abrt",
        files: &[
            "Nov 22 15:45:34 h1 abrt-hook-ccpp[901]: Process 801 (qemu-kvm) of user 107 killed by SIGBUS - dumping core\n",
        ],
        holds: ENDED,
    },
    Case {
        name: "core-of-qemu-by-another-signal-in-json",
        files: &[
            "{\"MESSAGE\":\"Process 801 (qemu-kvm) of user 107 dumped core.\",\"COREDUMP_PID\":\"801\",\"COREDUMP_SIGNAL\":\"11\",\"COREDUMP_COMM\":\"qemu-kvm\",\"COREDUMP_EXE\":\"/usr/libexec/qemu-kvm\",\"__REALTIME_TIMESTAMP\":\"1795362334000000\"}\n",
        ],
        holds: NO_VMM,
    },
    Case {
        name: "core-of-a-database",
        files: &[
            "May 16 12:59:57 h1 systemd-coredump[805]: Process 801 (mysqld) of user 107 terminated abnormally with signal 7/BUS, processing...\n",
        ],
        holds: NO_VMM,
    },
    // audit alone.
    Case {
        name: "abend-with-a-name-in-hexadecimal",
        files: &[
            "type=ANOM_ABEND msg=audit(1795362334.123:456): auid=4294967295 uid=107 gid=107 ses=4294967295 pid=801 comm=43505520302F4B564D exe=\"/usr/bin/qemu-system-x86_64\" sig=7 res=1\n",
        ],
        holds: ENDED,
    },
    Case {
        name: "abend-by-the-kernel",
        files: &[
            "[ 4711.250000] audit: type=1701 audit(1795362334.123:456): auid=4294967295 uid=107 gid=107 ses=4294967295 pid=801 comm=\"worker\" exe=\"/usr/libexec/qemu-kvm\" sig=7 res=1\n",
        ],
        holds: ENDED,
    },
    Case {
        name: "abend-by-ausearch",
        files: &[
            "----\ntype=ANOM_ABEND msg=audit(11/22/2026 15:45:34.123:456) : auid=unset uid=qemu gid=qemu ses=unset subj=system_u:system_r:svirt_t:s0 pid=801 comm=CPU 0/KVM exe=/usr/libexec/qemu-kvm sig=SIGBUS res=yes\n",
        ],
        holds: ENDED,
    },
    Case {
        name: "abend-by-another-signal",
        files: &[
            "type=ANOM_ABEND msg=audit(1795362334.123:456): auid=0 uid=107 gid=107 ses=1 pid=801 comm=\"qemu-kvm\" exe=\"/usr/libexec/qemu-kvm\" sig=6 res=1\n",
        ],
        holds: NO_VMM,
    },
    // Windows.
    Case {
        name: "whea-in-libvirts-log",
        files: &[
            "2026-11-22 15:45:34.100+0000: panic hyper-v: arg1='0x124', arg2='0x0', arg3='0xffffe48d3c458028', arg4='0xbd800000', arg5='0x134'\n",
        ],
        holds: BUG_CHECK,
    },
    Case {
        name: "machine-check-exception-by-qmp",
        files: &[
            "{\"timestamp\": {\"seconds\": 1795370534, \"microseconds\": 506000}, \"event\": \"GUEST_PANICKED\", \"data\": {\"action\": \"pause\", \"info\": {\"type\": \"hyper-v\", \"arg1\": 156, \"arg2\": 0, \"arg3\": 18446735277616529456, \"arg4\": 3179282432, \"arg5\": 308}}}\n",
        ],
        holds: BUG_CHECK,
    },
    Case {
        name: "whea-in-qemus-log",
        files: &["Guest crashed\nHV crash parameters: (0x124 0 0xffffe48d3c458028 0xbd800000 0x134)\n"],
        holds: BUG_CHECK,
    },
    Case {
        name: "whea-in-windows-own-log",
        files: &[
            "The computer has rebooted from a bugcheck.  The bugcheck was: 0x00000124 (0x0000000000000000, 0xffffe48d3c458028, 0x00000000bd800000, 0x0000000000000134). A dump was saved in: C:\\Windows\\MEMORY.DMP.\n",
        ],
        holds: BUG_CHECK,
    },
    Case {
        name: "whea-in-a-minidump",
        files: &["BugCheck 124, {0, ffffe48d3c458028, bd800000, 134}\n"],
        holds: BUG_CHECK,
    },
    Case {
        name: "whea-of-pci-express",
        files: &[
            "2026-11-22 15:45:34.100+0000: panic hyper-v: arg1='0x124', arg2='0x4', arg3='0xffffe48d3c458028', arg4='0x0', arg5='0x0'\n",
        ],
        holds: NO_VMM,
    },
    Case {
        name: "whea-of-a-cache",
        files: &[
            "2026-11-22 15:45:34.100+0000: panic hyper-v: arg1='0x124', arg2='0x0', arg3='0xffffe48d3c458028', arg4='0xbe000000', arg5='0x800400'\n",
        ],
        holds: r#"{"n": [1, 1], "want": [{"outcome": ["guest_panicked"], "cause": ["not_poison"], "confidence": ["possible"]}]}"#,
    },
    // A panic without a bank.
    Case {
        name: "panic-line-alone",
        files: &["[  157.392930] Kernel panic - not syncing: Fatal local machine check\n"],
        holds: A_KERNEL,
    },
    Case {
        name: "panic-of-a-timeout-alone",
        files: &[
            "[  306.335489][ T3298] mce: CPUs not responding to MCE broadcast (may include false positives): 1-3\n\
             [  306.336332][ T3298] Kernel panic - not syncing: Timeout: Not all CPUs entered broadcast exception handler\n",
        ],
        holds: A_KERNEL,
    },
    Case {
        name: "panic-of-old-alone",
        files: &["Kernel panic - not syncing: Fatal Machine check\n"],
        holds: A_KERNEL,
    },
    Case {
        name: "panic-line-of-a-guest",
        files: &[
            "[    0.000000] Hypervisor detected: KVM\n[  157.392930] Kernel panic - not syncing: Fatal local machine check\n",
        ],
        holds: THE_GUEST,
    },
    Case {
        name: "panic-line-of-a-relayed-guest",
        files: &[
            "Oct 24 10:52:07 h1 microvm@vm1[15894]: [  157.392930] Kernel panic - not syncing: Timeout: Not all CPUs entered broadcast exception handler\n",
        ],
        holds: THE_GUEST,
    },
    Case {
        name: "panic-line-of-a-host",
        files: &[
            "[   10.1] DMI: Supermicro SYS-1029/X11DPU, BIOS 3.3 02/21/2020\n[  157.392930] Kernel panic - not syncing: Fatal Machine check\n",
        ],
        holds: r#"{"n": [1, 1], "want": [{"outcome": ["host_panicked"]}], "never_output": ["start the guest again", "virsh"]}"#,
    },
    Case {
        name: "panic-and-its-reason-in-a-guest",
        files: &["[    0.000000] Hypervisor detected: Microsoft Hyper-V\n\
             [   84.977174] mce: [Hardware Error]: Machine check: Processor context corrupt\n\
             [   84.977175] Kernel panic - not syncing: Fatal machine check\n"],
        holds: r#"{"n": [1, 1], "want": [{"outcome": ["guest_panicked"]}], "never": [{"text": "host lost"}, {"text": "poisoned page"}, {"confidence": ["certain"]}], "never_output": ["virsh", "ras-mc-ctl"]}"#,
    },
    Case {
        name: "panic-before-its-bank",
        files: &["Kernel panic - not syncing: Fatal local machine check\n\
             mce: [Hardware Error]: CPU 0: Machine Check Exception: 5 Bank 9: bd80000000000134\n\
             mce: [Hardware Error]: TSC 1 ADDR 283c4000 MISC 8c\n\
             mce: [Hardware Error]: Machine check: Data load in unrecoverable area of kernel\n"],
        holds: r#"{"n": [1, 1], "want": [{"outcome": ["guest_panicked"], "cause": ["kernel_access"], "gpa": "0x283c4000"}]}"#,
    },
    Case {
        name: "panic-of-a-guest-newest-line-first",
        files: &[
            "Oct 24 10:52:07 h1 microvm@vm1[15894]: [  157.392930] Kernel panic - not syncing: Fatal local machine check\n\
             Oct 24 10:52:07 h1 microvm@vm1[15894]: [  157.392925] mce: [Hardware Error]: Machine check: Data load in unrecoverable area of kernel\n\
             Oct 24 10:52:07 h1 microvm@vm1[15894]: [  157.392921] mce: [Hardware Error]: PROCESSOR 0:50657 TIME 1605843017 SOCKET 0 APIC 0 microcode 1\n\
             Oct 24 10:52:07 h1 microvm@vm1[15894]: [  157.392919] mce: [Hardware Error]: TSC 1 ADDR 283c4000 MISC 8c\n\
             Oct 24 10:52:07 h1 microvm@vm1[15894]: [  157.392905] mce: [Hardware Error]: CPU 0: Machine Check Exception: 5 Bank 9: bd80000000000134\n",
        ],
        holds: r#"{"n": [1, 1], "want": [{"outcome": ["guest_panicked"], "cause": ["kernel_access"], "gpa": "0x283c4000"}]}"#,
    },
    Case {
        name: "panic-of-a-host-newest-line-first",
        files: &[
            "[  107.039065] Kernel panic - not syncing: Fatal local machine check\n\
             [  107.031295] mce: [Hardware Error]: Machine check: Data load in unrecoverable area of kernel\n\
             [  107.010283] mce: [Hardware Error]: PROCESSOR 0:50657 TIME 1605843017 SOCKET 1 APIC 40 microcode 5000021\n\
             [  107.001057] mce: [Hardware Error]: TSC ae4b410af0b8 ADDR 314d193000 MISC 86 PPIN 1e741e77539027db\n\
             [  106.962377] mce: [Hardware Error]: RIP 10:<ffffffffac58472a> {copy_page+0x7/0x10}\n\
             [  106.962373] mce: [Hardware Error]: CPU 18: Machine Check Exception: 5 Bank 7: bd80000001010091\n",
        ],
        holds: r#"{"n": [1, 1], "want": [{"outcome": ["host_panicked"], "cause": ["kernel_access"], "pfn": "0x314d193"}], "never": [{"gpa": "any"}]}"#,
    },
    // The event of a page's failure.
    Case {
        name: "failure-event-of-tracefs",
        files: &[
            "     kworker/0:1-71      [000] .....    34.190884: memory_failure_event: pfn 0x8aa9a1: recovery action for dirty LRU page: Recovered\n",
        ],
        holds: OF_PAGE,
    },
    Case {
        name: "failure-event-by-tp-printk",
        files: &[
            "Nov 22 15:45:34 h1 kernel: [   34.190884] memory_failure_event: pfn 0x8aa9a1: recovery action for dirty LRU page: Recovered\n",
        ],
        holds: OF_PAGE,
    },
    Case {
        name: "failure-event-by-perf-script-without-a-task",
        files: &[
            "34.190884: ras:memory_failure_event: pfn 0x8aa9a1: recovery action for dirty LRU page: Recovered\n",
        ],
        holds: OF_PAGE,
    },
    Case {
        name: "failure-event-by-perf-trace",
        files: &["     0.000 kworker/0:1/71 ras:memory_failure_event(pfn: 0x8aa9a1, type: 9, result: 3)\n"],
        holds: OF_PAGE,
    },
    Case {
        name: "failure-event-by-bpftrace",
        files: &["tracepoint:ras:memory_failure_event pfn=0x8aa9a1 type=9 result=3\n"],
        holds: OF_PAGE,
    },
    Case {
        name: "failure-event-by-rasdaemon",
        files: &[
            "Nov 22 15:45:34 h1 rasdaemon[801]:            <...>-71    [000]     0.003300: memory_failure_event: 2026-11-22 15:45:34 +0000 pfn=0x8aa9a1 page_type=dirty LRU page action_result=Recovered\n",
        ],
        holds: OF_PAGE,
    },
    Case {
        name: "failure-events-of-ras-mc-ctl",
        files: &[
            "Memory failure events:\n1 2020-10-28 23:20:41 -0800 error: pfn=0x8aa9a1, page_type=free buddy page, action_result=Recovered\n",
        ],
        holds: OF_PAGE,
    },
    Case {
        name: "failure-event-beside-the-signal-of-its-vmm",
        files: &[
            "34.190884: ras:memory_failure_event: pfn 0x8aa9a1: recovery action for dirty LRU page: Recovered\n",
            "[   34.190880] Memory failure: 0x8aa9a1: Sending SIGBUS to qemu-kvm:801 due to hardware memory corruption\n",
        ],
        holds: r#"{"together": true, "n": [1, 1], "want": [{"pfn": "0x8aa9a1"}]}"#,
    },
    // Software's poison.
    Case {
        name: "poison-by-madvise",
        files: &[
            "[   34.1] Injecting memory failure for pfn 0x8aa9a1 at process virtual address 0x7f3908d00000\n\
             [   34.2] Memory failure: 0x8aa9a1: Sending SIGBUS to qemu-system-x86:801 due to hardware memory corruption\n\
             [   34.3] Memory failure: 0x8aa9a1: recovery action for dirty LRU page: Recovered\n",
        ],
        holds: r#"{"n": [1, 1], "want": [{"pfn": "0x8aa9a1"}], "output": ["injected by software"], "never_output": ["DIMM", "ras-mc-ctl"]}"#,
    },
    Case {
        name: "poison-by-debugfs",
        files: &[
            "Nov 22 15:45:34 h1 kernel: Injecting memory failure at pfn 0x8aa9a1\n\
             Nov 22 15:45:34 h1 kernel: Memory failure: 0x8aa9a1: Sending SIGBUS to qemu-kvm:801 due to hardware memory corruption\n",
        ],
        holds: r#"{"n": [1, 1], "want": [{"pfn": "0x8aa9a1"}], "output": ["injected by software"], "never_output": ["DIMM", "ras-mc-ctl"]}"#,
    },
    Case {
        name: "poison-by-madvise-of-another-page",
        files: &[
            "[   34.1] Injecting memory failure for page 0x1234 at 0xb7786000\n\
             [   35.2] Memory failure: 0x8aa9a1: Sending SIGBUS to qemu-system-x86:801 due to hardware memory corruption\n",
        ],
        holds: r#"{"n": [1, 1], "want": [{"pfn": "0x8aa9a1"}], "output": ["DIMM"], "never_output": ["injected by software"]}"#,
    },
    // A platform of others.
    Case {
        name: "guest-of-vmware",
        files: &["[    0.000000] Hypervisor detected: VMware\n\
             [  157.392905] mce: [Hardware Error]: CPU 0: Machine Check Exception: 5 Bank 9: bd80000000000134\n\
             [  157.392919] mce: [Hardware Error]: TSC 1 ADDR 283c4000 MISC 8c\n\
             [  157.392930] Kernel panic - not syncing: Fatal local machine check\n"],
        holds: r#"{"n": [1, 1], "want": [{"outcome": ["guest_panicked"]}], "output": ["VMware"], "never_output": ["virsh", "ras-mc-ctl"]}"#,
    },
    Case {
        name: "guest-of-ec2-that-survived",
        files: &["[    0.000000] DMI: Amazon EC2 m5.large/, BIOS 1.0 10/16/2017\n\
             [    0.000000] Hypervisor detected: KVM\n\
             [  250.1] mce: Uncorrected hardware memory error in user-access at 7654000\n\
             [  250.2] Memory failure: 0x7654: Sending SIGBUS to java:900 due to hardware memory corruption\n\
             [  250.3] Memory failure: 0x7654: recovery action for dirty LRU page: Recovered\n"],
        holds: r#"{"n": [1, 1], "want": [{"outcome": ["survived"]}], "output": ["Amazon EC2"], "never_output": ["virsh", "ras-mc-ctl"]}"#,
    },
    Case {
        name: "guest-of-xen",
        files: &[
            "[    0.000000] Hypervisor detected: Xen HVM\n[  157.392930] Kernel panic - not syncing: Fatal machine check\n",
        ],
        holds: r#"{"n": [1, 1], "want": [{"outcome": ["guest_panicked"]}], "output": ["Xen"], "never_output": ["virsh", "ras-mc-ctl"]}"#,
    },
    Case {
        name: "guest-of-a-hypervisor-on-a-cloud",
        files: &[
            "[    0.0] DMI: Google Google Compute Engine/Google Compute Engine, BIOS Google 01/25/2024\n\
             [  900.1] Memory failure: 0x1f7a3c: Killing CPU 3/KVM:801 due to hardware memory corruption\n",
        ],
        holds: r#"{"n": [1, 1], "want": [{"pfn": "0x1f7a3c"}], "output": ["ras-mc-ctl"]}"#,
    },
    // A trace that a mailer broke.
    Case {
        name: "trace-broken-at-72-columns-between-words",
        files: &[
            "        vmm-4325   [000] d..1.  9014.601440: signal_generate: sig=7\n\
             errno=0 code=4 comm=vmm pid=4325 grp=0 res=0\n\
                     vmm-4325   [000] .....  9014.608682: kvm_userspace_exit: reason\n\
             restart (4)\n",
        ],
        holds: r#"{"n": [1, 1], "never": [{"text": "host lost"}]}"#,
    },
    Case {
        name: "trace-broken-in-words",
        files: &[
            "kworker/0:1-71   [000] .....    34.190884: memory_failure_event: pfn 0x8\n\
             aa9a1: recovery action for dirty LRU page: Recovered\n",
        ],
        holds: r#"{"rc": [0, 1], "n": [0, 0], "output": ["0x8aa9a1", "Recovered"]}"#,
    },
    Case {
        name: "trace-broken-and-quoted",
        files: &[
            "> CPU 0/KVM-4325  [000] d..1.  9014.601440: signal_generate: sig=7 errno=0\n\
             > code=5 comm=qemu-kvm pid=4311 grp=1 res=0\n\
             > kworker/0:1-71   [000] .....  9014.690884: memory_failure_event: pfn\n\
             > 0x8aa9a1: recovery action for dirty LRU page: Recovered\n",
        ],
        holds: r#"{"rc": [0, 1], "n": [0, 1], "output": ["0x8aa9a1"]}"#,
    },
];
