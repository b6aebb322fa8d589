//! Cases beside those of `tests/field`: the same kinds with other senders, orders, formats and values. `holds` has the keys
//! of `tests/field/cases.json`.

pub struct Case {
    pub name: &'static str,
    pub files: &'static [&'static str],
    pub holds: &'static str,
}

const NO_GUEST: &str = r#"{"rc": [0, 1], "n": [0, 1], "never": [{"outcome": ["guest_panicked", "survived", "vmm_exited", "vmm_killed", "guest_reset"]}, {"gpa": "any"}]}"#;
const NOTHING: &str = r#"{"rc": [0, 1, 2], "n": [0, 0]}"#;
const PAGE_ONLY: &str = r#"{"n": [1, 1], "want": [{"pfn": "0x1f7a3c", "outcome": ["unknown", "running"]}]}"#;

pub const CASES: &[Case] = &[
    // The host's own death.
    Case {
        name: "host-panic-amd-scalable-mca",
        files: &[
            "[ 8311.102211] mce: [Hardware Error]: CPU 44: Machine Check Exception: 7 Bank 18: bea0000001000108\n\
             [ 8311.102215] mce: [Hardware Error]: RIP 10:<ffffffff9a2b8c11> {clear_page_erms+0x7/0x10}\n\
             [ 8311.102219] mce: [Hardware Error]: TSC 1c9be8c8d2c4 ADDR 7f5fc4d00 PPIN 2b4f3a9c6e0c04f SYND 5d000002 IPID 9600150f00\n\
             [ 8311.102224] mce: [Hardware Error]: PROCESSOR 2:a00f11 TIME 1700000000 SOCKET 1 APIC 6e microcode a0011d1\n\
             [ 8311.102230] mce: [Hardware Error]: Machine check: Uncorrected unrecoverable error in kernel context\n\
             [ 8311.102231] Kernel panic - not syncing: Fatal local machine check\n",
        ],
        holds: r#"{"n": [1, 1], "want": [{"outcome": ["host_panicked"], "confidence": ["certain"]}], "never": [{"gpa": "any"}, {"text": "start the guest"}]}"#,
    },
    Case {
        name: "host-panic-known-by-its-dmi-behind-the-panic",
        files: &[
            "Mar 03 04:05:06 node17 kernel: mce: [Hardware Error]: CPU 3: Machine Check Exception: 5 Bank 1: bd80000000100134\n\
             Mar 03 04:05:06 node17 kernel: mce: [Hardware Error]: TSC 1 ADDR 3b7e4c0c0 MISC 86\n\
             Mar 03 04:05:06 node17 kernel: mce: [Hardware Error]: Machine check: Data load in unrecoverable area of kernel\n\
             Mar 03 04:05:06 node17 kernel: Kernel panic - not syncing: Fatal local machine check\n\
             Mar 03 04:05:06 node17 kernel: CPU: 3 PID: 991 Comm: kvm Tainted: G   M  5.15.0\n\
             Mar 03 04:05:06 node17 kernel: Hardware name: HPE ProLiant DL380 Gen10/ProLiant DL380 Gen10, BIOS U30 02/02/2023\n",
        ],
        holds: r#"{"n": [1, 1], "want": [{"outcome": ["host_panicked"], "cause": ["kernel_access"], "pfn": "0x3b7e4c"}], "never": [{"gpa": "any"}]}"#,
    },
    Case {
        name: "host-panic-beside-a-vm-that-runs",
        files: &[
            "[   10.1] DMI: Supermicro SYS-1029/X11DPU, BIOS 3.3 02/21/2020\n\
             [  501.2] mce: [Hardware Error]: CPU 60: Machine Check Exception: f Bank 7: be00000001010091\n\
             [  501.3] mce: [Hardware Error]: TSC 1 ADDR 314d193000 MISC 200400c008002086\n\
             [  501.4] mce: [Hardware Error]: Machine check: Processor context corrupt\n\
             [  501.5] Kernel panic - not syncing: Fatal machine check\n",
            "2026-11-20 10:00:00.000+0000: starting up libvirt version: 10.0.0, qemu version: 8.2.2, kernel: 6.8.0, hostname: h\n",
        ],
        holds: NO_GUEST,
    },
    // Joins.
    Case {
        name: "two-units-an-hour-apart",
        files: &[
            "Apr 02 10:00:00 h1 kernel: Memory failure: 0x1f7a3c: Sending SIGBUS to firecracker:801 due to hardware memory corruption\n\
             Apr 02 11:00:00 h1 systemd[1]: fc@b.service: Main process exited, code=exited, status=149/n/a\n",
        ],
        holds: PAGE_ONLY,
    },
    Case {
        name: "another-pid-ends",
        files: &[
            "Apr 02 10:00:00 h1 kernel: Memory failure: 0x1f7a3c: Sending SIGBUS to qemu-kvm:801 due to hardware memory corruption\n\
             Apr 02 10:00:00 h1 systemd-coredump[999]: Process 802 (qemu-kvm) of user 107 terminated abnormally with signal 7/BUS, processing...\n",
        ],
        holds: PAGE_ONLY,
    },
    Case {
        name: "the-console-of-another-host",
        files: &[
            "2026-04-02T10:00:00+00:00 h1 kernel: Memory failure: 0x1f7a3c: Sending SIGBUS to qemu-kvm:801 due to hardware memory corruption\n",
            "2026-04-02T10:00:01+00:00 h2 vm@x[801]: [ 9.1] mce: [Hardware Error]: CPU 0: Machine Check Exception: 5 Bank 9: bd80000000000134\n\
             2026-04-02T10:00:01+00:00 h2 vm@x[801]: [ 9.1] mce: [Hardware Error]: TSC 1 ADDR 7654000 MISC 8c\n\
             2026-04-02T10:00:01+00:00 h2 vm@x[801]: [ 9.1] Kernel panic - not syncing: Fatal local machine check\n",
        ],
        holds: r#"{"n": [2, 2], "never": [{"pfn": "0x1f7a3c", "outcome": ["guest_panicked"]}, {"pfn": "0x1f7a3c", "gpa": "any"}]}"#,
    },
    Case {
        name: "one-key-joins-in-json",
        files: &[
            "{\"MESSAGE\":\"Memory failure: 0x1f7a3c: Sending SIGBUS to qemu-system-x86:801 due to hardware memory corruption\",\"_TRANSPORT\":\"kernel\",\"_HOSTNAME\":\"h1\",\"_BOOT_ID\":\"b\",\"__REALTIME_TIMESTAMP\":\"1795362334000000\"}\n\
             {\"MESSAGE\":\"[   77.1] mce: [Hardware Error]: CPU 1: Machine Check Exception: 7 Bank 9: fd80000000000134\",\"_PID\":\"801\",\"SYSLOG_IDENTIFIER\":\"vm-console\",\"_HOSTNAME\":\"h1\",\"_BOOT_ID\":\"b\",\"__REALTIME_TIMESTAMP\":\"1795365934000000\"}\n\
             {\"MESSAGE\":\"[   77.2] mce: [Hardware Error]: TSC 1 ADDR 7654000 MISC 8c\",\"_PID\":\"801\",\"SYSLOG_IDENTIFIER\":\"vm-console\",\"_HOSTNAME\":\"h1\",\"_BOOT_ID\":\"b\",\"__REALTIME_TIMESTAMP\":\"1795365934000000\"}\n\
             {\"MESSAGE\":\"[   77.3] Kernel panic - not syncing: Fatal local machine check\",\"_PID\":\"801\",\"SYSLOG_IDENTIFIER\":\"vm-console\",\"_HOSTNAME\":\"h1\",\"_BOOT_ID\":\"b\",\"__REALTIME_TIMESTAMP\":\"1795365934000000\"}\n",
        ],
        holds: r#"{"n": [1, 1], "want": [{"outcome": ["guest_panicked"], "pfn": "0x1f7a3c", "gpa": "0x7654000"}]}"#,
    },
    Case {
        name: "one-engine-logs-two-containers",
        files: &[
            "Nov 12 03:14:07 hv c1[55]: [  157.390000] mce: Uncorrected hardware memory error in user-access at 283c4000\n\
             Nov 12 03:14:07 hv c1[55]: [  157.390100] Memory failure: 0x283c4: Sending SIGBUS to systemd:1 due to hardware memory corruption\n\
             Nov 12 03:14:07 hv c1[55]: [  157.390200] Memory failure: 0x283c4: recovery action for dirty LRU page: Recovered\n\
             Nov 12 03:14:07 hv c2[55]: [  157.391000] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000007\n",
        ],
        holds: r#"{"never": [{"outcome": ["guest_panicked"], "gpa": "0x283c4000"}, {"confidence": ["certain"]}]}"#,
    },
    Case {
        name: "one-console-server-logs-two-guests",
        files: &[
            "Nov 12 03:14:07 con1 conserver[900]: [vmA] [  157.392905] mce: [Hardware Error]: CPU 0: Machine Check Exception: 5 Bank 9: bd80000000000134\n\
             Nov 12 03:14:07 con1 conserver[900]: [vmA] [  157.392919] mce: [Hardware Error]: TSC 1 ADDR 283c4000 MISC 8c\n\
             Nov 12 03:14:07 con1 conserver[900]: [vmB] [  157.392930] Kernel panic - not syncing: Fatal local machine check\n",
        ],
        holds: r#"{"never": [{"outcome": ["guest_panicked"], "gpa": "0x283c4000"}, {"confidence": ["certain"]}]}"#,
    },
    Case {
        name: "a-hosts-console-by-a-console-server",
        files: &[
            "Nov 12 03:14:07 con1 conserver[900]: [hv7] [  157.392905] mce: [Hardware Error]: CPU 0: Machine Check Exception: 5 Bank 1: bd80000000100134\n\
             Nov 12 03:14:07 con1 conserver[900]: [hv7] [  157.392919] mce: [Hardware Error]: TSC 1 ADDR 283c4000 MISC 86 PPIN 2be2b2b5b2c2d2e2\n\
             Nov 12 03:14:07 con1 conserver[900]: [hv7] [  157.392925] mce: [Hardware Error]: Machine check: Data load in unrecoverable area of kernel\n\
             Nov 12 03:14:07 con1 conserver[900]: [hv7] [  157.392930] Kernel panic - not syncing: Fatal local machine check\n",
        ],
        holds: r#"{"n": [1, 1], "want": [{"outcome": ["host_panicked"]}], "never": [{"outcome": ["guest_panicked"]}]}"#,
    },
    Case {
        name: "a-guest-with-names-of-its-own",
        files: &["[  157.3] Hardware name: Acme Corp VM100/VM100, BIOS 1.0\n\
             [  157.392905] mce: [Hardware Error]: CPU 0: Machine Check Exception: 5 Bank 9: bd80000000000134\n\
             [  157.392919] mce: [Hardware Error]: TSC 1 ADDR 283c4000 MISC 8c\n\
             [  157.392930] Kernel panic - not syncing: Fatal local machine check\n"],
        holds: r#"{"n": [1, 1], "want": [{"outcome": ["guest_panicked"]}], "never": [{"outcome": ["host_panicked"]}]}"#,
    },
    Case {
        name: "a-memory-controller-with-a-corrupt-context",
        files: &[
            "[  157.1] DMI: Dell Inc. PowerEdge R650/0WJ2V5, BIOS 1.5.5 02/10/2022\n\
             [  157.392905] mce: [Hardware Error]: CPU 0: Machine Check Exception: 5 Bank 7: be00000000800091\n\
             [  157.392919] mce: [Hardware Error]: TSC 1 ADDR 283c4000 MISC 86 PPIN 2be2b2b5b2c2d2e2\n\
             [  157.392925] mce: [Hardware Error]: Machine check: Processor context corrupt\n\
             [  157.392930] Kernel panic - not syncing: Fatal machine check\n",
        ],
        holds: r#"{"n": [1, 1], "want": [{"outcome": ["host_panicked"]}], "never": [{"cause": ["not_poison"]}]}"#,
    },
    // Speakers.
    Case {
        name: "a-container-per-guest",
        files: &[
            "web  | [    5.1] mce: Uncorrected hardware memory error in user-access at 7654000\n\
             db   | [  157.392905] mce: [Hardware Error]: CPU 0: Machine Check Exception: 5 Bank 9: bd80000000000134\n\
             web  | [    5.2] Memory failure: 0x7654: Sending SIGBUS to nginx:77 due to hardware memory corruption\n\
             db   | [  157.392919] mce: [Hardware Error]: TSC 1 ADDR 224ae5000 MISC 8c\n\
             web  | [    5.3] Memory failure: 0x7654: recovery action for dirty LRU page: Recovered\n\
             db   | [  157.392924] mce: [Hardware Error]: Machine check: Data load in unrecoverable area of kernel\n\
             db   | [  157.392925] Kernel panic - not syncing: Fatal local machine check\n",
        ],
        holds: r#"{"n": [2, 2], "want": [{"outcome": ["survived"], "gpa": "0x7654000"}, {"outcome": ["guest_panicked"], "cause": ["kernel_access"], "gpa": "0x224ae5000"}]}"#,
    },
    Case {
        name: "kata-relays-its-guest",
        files: &[
            "May 01 10:00:00 h1 kernel: DMI: Dell Inc. PowerEdge R650/0PYXKY, BIOS 1.6.5 04/15/2022\n\
             May 01 10:00:02 h1 kata[700]: time=\"2026-05-01T10:00:02Z\" level=debug sandbox=ab12 vmconsole=\"[    5.1] mce: Uncorrected hardware memory error in user-access at 7654000\"\n\
             May 01 10:00:02 h1 kata[700]: time=\"2026-05-01T10:00:02Z\" level=debug sandbox=ab12 vmconsole=\"[    5.2] Memory failure: 0x7654: Sending SIGBUS to nginx:77 due to hardware memory corruption\"\n\
             May 01 10:00:02 h1 kata[700]: time=\"2026-05-01T10:00:02Z\" level=debug sandbox=ab12 vmconsole=\"[    5.3] Memory failure: 0x7654: recovery action for dirty LRU page: Recovered\"\n",
        ],
        holds: r#"{"n": [1, 1], "want": [{"outcome": ["survived"], "gpa": "0x7654000"}]}"#,
    },
    Case {
        name: "an-l1-on-google-cloud-signals-its-vmm",
        files: &[
            "[    0.0] DMI: Google Google Compute Engine/Google Compute Engine, BIOS Google 01/25/2024\n\
             [  900.1] Memory failure: 0x1f7a3c: Killing CPU 3/KVM:801 due to hardware memory corruption\n\
             [  900.2] Memory failure: 0x1f7a3c: recovery action for dirty LRU page: Recovered\n",
        ],
        holds: r#"{"n": [1, 1], "want": [{"pfn": "0x1f7a3c", "outcome": ["unknown", "running"]}], "never": [{"gpa": "any"}, {"outcome": ["survived"]}]}"#,
    },
    // Phrases.
    Case {
        name: "a-changelog",
        files: &[
            "* fix: do not exit on \"Hardware memory error!\" when the page is the guest's\n\
             * Kernel panic - not syncing: Fatal machine check -- seen once, see the bug\n",
        ],
        holds: NOTHING,
    },
    Case {
        name: "a-question-that-quotes-a-line-in-a-sentence",
        files: &[
            "Does anybody know what \"Memory failure: 0x8aa9a1: Sending SIGBUS to qemu-system-x86:4711 due to hardware memory corruption\" means?\n",
        ],
        holds: NOTHING,
    },
    Case {
        name: "source-code",
        files: &[
            "\tpr_err(\"Memory failure: %#lx: Sending SIGBUS to %s:%d due to hardware memory corruption\\n\", pfn, t->comm, t->pid);\n\
             \terror_report(\"Guest MCE Memory Error at QEMU addr %p and GUEST addr 0x%\" HWADDR_PRIx \" of type %s injected\", addr, paddr, \"BUS_MCEERR_AR\");\n",
        ],
        holds: NOTHING,
    },
    // Names.
    Case {
        name: "find-names-no-vm",
        files: &["$ find /var/lib/libvirt -name web-1 -uuid 1\n\
             [  900.1] Memory failure: 0x1f7a3c: Sending SIGBUS to qemu-system-x86:801 due to hardware memory corruption\n"],
        holds: r#"{"n": [1, 1], "never": [{"vm": "any"}]}"#,
    },
    Case {
        name: "pgrep-names-the-pid",
        files: &[
            "800 /usr/libexec/qemu-kvm -name guest=web-1,debug-threads=on -S\n\
             801 /usr/libexec/qemu-kvm -name guest=db-7,debug-threads=on -S\n\
             [  900.1] Memory failure: 0x1f7a3c: Sending SIGBUS to qemu-kvm:801 due to hardware memory corruption\n",
        ],
        holds: r#"{"n": [1, 1], "want": [{"vm": "db-7", "pfn": "0x1f7a3c"}]}"#,
    },
    Case {
        name: "two-domains-logs",
        files: &[
            "2026-11-20 10:00:00.000+0000: starting up libvirt version: 10.0.0, qemu version: 8.2.2, kernel: 6.8.0, hostname: h\n\
             /usr/bin/qemu-system-x86_64 \\\n-name guest=web-1,debug-threads=on \\\n-uuid 11111111-0000-4000-8000-000000000001\n",
            "2026-11-20 10:00:00.000+0000: starting up libvirt version: 10.0.0, qemu version: 8.2.2, kernel: 6.8.0, hostname: h\n\
             /usr/bin/qemu-system-x86_64 \\\n-name guest=db-7,debug-threads=on \\\n-uuid 22222222-0000-4000-8000-000000000002\n\
             2026-11-22T18:02:12.000000Z qemu-system-x86_64: Guest MCE Memory Error at QEMU addr 0x7f0000001000 and GUEST addr 0x5000000 of type BUS_MCEERR_AR injected\n",
        ],
        holds: r#"{"n": [1, 1], "want": [{"vm": "db-7", "gpa": "0x5000000"}]}"#,
    },
    // Processes that are no VMMs.
    Case {
        name: "a-test-of-injection",
        files: &["[  333.1] EINJ: Error INJection is initialized.\n\
             [  334.1] Memory failure: 0x1f7a3c: Sending SIGBUS to einj_mem_uc:801 due to hardware memory corruption\n\
             [  334.2] Memory failure: 0x1f7a3c: recovery action for dirty LRU page: Recovered\n"],
        holds: r#"{"rc": [0, 1], "n": [0, 0], "output": ["0x1f7a3c", "einj_mem_uc"], "never_output": ["nothing in these files is poison"]}"#,
    },
    Case {
        name: "a-database-in-a-journal",
        files: &[
            "2026-11-22T15:45:34+0000 db1 kernel: Memory failure: 0x1f7a3c: Sending SIGBUS to mysqld:801 due to hardware memory corruption\n",
        ],
        holds: r#"{"rc": [0, 1], "n": [0, 0], "output": ["mysqld"]}"#,
    },
    Case {
        name: "a-page-without-a-process",
        files: &["[  334.2] Memory failure: 0x1f7a3c: recovery action for free buddy page: Delayed\n"],
        holds: r#"{"rc": [0, 1], "n": [0, 0], "output": ["0x1f7a3c", "Delayed"]}"#,
    },
    // Sentences.
    Case {
        name: "a-survivor-of-an-early-notice",
        files: &["[    0.0] Hypervisor detected: KVM\n\
             [   25.1] mce: Uncorrected hardware memory error in user-access at 7654000\n\
             [   25.2] Memory failure: 0x7654: Killing postgres:900 due to hardware memory corruption\n\
             [   25.3] Memory failure: 0x7654: recovery action for clean LRU page: Recovered\n"],
        holds: r#"{"n": [1, 1], "want": [{"outcome": ["survived"], "text": "postgres"}], "never": [{"text": "in advance"}, {"text": "nothing has"}, {"text": "host lost"}]}"#,
    },
    Case {
        name: "a-corrupt-context-in-a-guest",
        files: &["[    0.0] Hypervisor detected: Microsoft Hyper-V\n\
             [   84.1] mce: [Hardware Error]: CPU 2: Machine Check Exception: 4 Bank 0: b200000080060001\n\
             [   84.2] mce: [Hardware Error]: TSC 2db9f8ee73\n\
             [   84.3] mce: [Hardware Error]: Machine check: Processor context corrupt\n\
             [   84.4] Kernel panic - not syncing: Fatal machine check\n"],
        holds: r#"{"n": [0, 1], "never": [{"text": "poisoned page"}, {"text": "host lost"}, {"cause": ["kernel_access", "clflush", "mce_overflow"]}]}"#,
    },
    Case {
        name: "an-injection-alone",
        files: &[
            "qemu-kvm: warning: Guest MCE Memory Error at QEMU addr 0x7f0000001000 and GUEST addr 0x5000 of type BUS_MCEERR_AO injected\n",
        ],
        holds: r#"{"n": [1, 1], "want": [{"gpa": "0x5000", "outcome": ["unknown", "running"]}], "never": [{"text": "host lost"}, {"text": "nothing has touched"}], "never_output": ["0 action required", "told 0"]}"#,
    },
    // Late, unrelated deaths.
    Case {
        name: "a-hung-task-hours-later",
        files: &["[    0.0] Hypervisor detected: KVM\n\
             [  250.1] mce: Uncorrected hardware memory error in user-access at 7654000\n\
             [  250.2] Memory failure: 0x7654: Sending SIGBUS to java:900 due to hardware memory corruption\n\
             [  250.3] Memory failure: 0x7654: recovery action for dirty LRU page: Recovered\n\
             [ 9250.3] Kernel panic - not syncing: hung_task: blocked tasks\n"],
        holds: r#"{"n": [1, 1], "want": [{"outcome": ["survived"]}], "never": [{"outcome": ["guest_panicked"]}]}"#,
    },
    Case {
        name: "an-operators-sysrq",
        files: &["[    0.0] Hypervisor detected: KVM\n\
             [  250.1] mce: Uncorrected hardware memory error in user-access at 7654000\n\
             [  250.2] Memory failure: 0x7654: Sending SIGBUS to java:900 due to hardware memory corruption\n\
             [  250.3] Memory failure: 0x7654: recovery action for dirty LRU page: Recovered\n\
             [  300.3] Kernel panic - not syncing: sysrq triggered crash\n"],
        holds: r#"{"n": [1, 1], "want": [{"outcome": ["survived"]}], "never": [{"outcome": ["guest_panicked"]}]}"#,
    },
    Case {
        name: "a-shutdown-days-later",
        files: &[
            "2026-11-20 10:00:00.000+0000: starting up libvirt version: 10.0.0, qemu version: 8.2.2, kernel: 6.8.0, hostname: h\n\
             2026-11-22T18:02:12.000000Z qemu-system-x86_64: warning: Guest MCE Memory Error at QEMU addr 0x7f0000001000 and GUEST addr 0x5000000 of type BUS_MCEERR_AO injected\n\
             2026-11-29 08:00:41.000+0000: shutting down, reason=shutdown\n",
        ],
        holds: r#"{"n": [1, 1], "want": [{"outcome": ["survived", "running"]}]}"#,
    },
    // Answers that logs do give.
    Case {
        name: "auditd-in-its-own-log",
        files: &[
            "Memory failure: 0x1f7a3c: Sending SIGBUS to cloud-hyperviso:801 due to hardware memory corruption\n\
             type=ANOM_ABEND msg=audit(1795362334.123:456): auid=0 uid=0 gid=0 ses=1 subj=unconfined pid=801 comm=\"vcpu0\" exe=\"/usr/bin/cloud-hypervisor\" sig=7 res=1\n",
        ],
        holds: r#"{"n": [1, 1], "want": [{"outcome": ["vmm_killed"], "cause": ["sigbus_unhandled", "second_sigbus"], "pfn": "0x1f7a3c"}]}"#,
    },
    Case {
        name: "a-core-dump",
        files: &[
            "May 16 12:59:57 h1 kernel: Memory failure: 0x1f7a3c: Sending SIGBUS to VBoxHeadless:801 due to hardware memory corruption\n\
             May 16 12:59:57 h1 systemd-coredump[805]: Process 801 (VBoxHeadless) of user 1000 terminated abnormally with signal 7/BUS, processing...\n",
        ],
        holds: r#"{"n": [1, 1], "want": [{"outcome": ["vmm_killed"], "pfn": "0x1f7a3c"}]}"#,
    },
    Case {
        name: "migration-refused",
        files: &[
            "2026-11-22T18:02:12.000000Z qemu-system-x86_64: Guest MCE Memory Error at QEMU addr 0x7f0000001000 and GUEST addr 0x5000000 of type BUS_MCEERR_AR injected\n\
             2026-11-22T19:02:12.000000Z qemu-system-x86_64: Can't migrate this vm with hardware poisoned memory, please reboot the vm and try again\n",
        ],
        holds: r#"{"n": [1, 1], "want": [{"gpa": "0x5000000", "outcome": ["running", "survived", "unknown"]}]}"#,
    },
    // Logs that hold nothing relevant.
    Case {
        name: "a-boot",
        files: &[
            "[    0.000000] Linux version 6.1.0-13-amd64 (debian) #1 SMP\n[    0.100000] Memory: 2048K available\n",
        ],
        holds: r#"{"rc": [0, 1], "n": [0, 0], "never_output": ["it is not"]}"#,
    },
    Case {
        name: "a-soft-lockup",
        files: &[
            "Jan 02 10:00:00 h1 kernel: watchdog: BUG: soft lockup - CPU#3 stuck for 22s! [qemu-kvm:801]\n",
        ],
        holds: r#"{"rc": [0, 1], "n": [0, 0], "never_output": ["it is not"]}"#,
    },
    Case {
        name: "an-entry-failure",
        files: &[
            "2026-11-22T18:02:12.000000Z qemu-system-x86_64: warning: host doesn't support requested feature\nKVM: entry failed, hardware error 0x7\n",
        ],
        holds: r#"{"rc": [0, 1], "n": [0, 0], "never_output": ["it is not"]}"#,
    },
];
