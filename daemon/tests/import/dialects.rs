//! The same trace in the formats of other tools, options and kernels. The traces are real, recorded with tracefs on
//! 6.12; each test rewrites them in the format of the tool, option or kernel that it names.

use std::fs;

use serde_json::Value;

use crate::{amd, explain_text, misses, only, trace};

/// A line of tracefs, taken apart.
struct Line<'a> {
    comm: &'a str,
    tid: &'a str,
    cpu: &'a str,
    flags: &'a str,
    time: &'a str,
    name: &'a str,
    fields: &'a str,
}

fn parts(line: &str) -> Line<'_> {
    let (task, rest) = line.split_once(" [").unwrap();
    let (comm, tid) = task.trim().rsplit_once('-').unwrap();
    let (cpu, rest) = rest.split_once("] ").unwrap();
    let (flags, rest) = rest.split_once(' ').unwrap();
    let (time, event) = rest.trim().split_once(": ").unwrap();
    let end = event.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap();
    Line {
        comm,
        tid: tid.trim(),
        cpu,
        flags,
        time,
        name: &event[..end],
        fields: event[end..].strip_prefix(": ").unwrap_or(&event[end..]),
    }
}

/// Every line of the real traces, written by `write`.
fn rewritten(write: impl Fn(&Line<'_>) -> String) -> [(Value, String); 3] {
    [
        amd("ftrace.txt"),
        trace("intel-tiny-vmm/clflushopt-stepped-over.ftrace.txt"),
        trace("intel-tiny-vmm/load-mce-each-line.ftrace.txt"),
    ]
    .map(|file| {
        let text = fs::read_to_string(&file).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let text = lines.map(|line| write(&parts(line)) + "\n").collect();
        (only(&[file]), text)
    })
}

const ALL: [&str; 8] = [
    "outcome",
    "cause",
    "confidence",
    "page",
    "exits",
    "latency_ns",
    "injections",
    "signals",
];

#[track_caller]
fn gives_the_same(write: impl Fn(&Line<'_>) -> String, keys: &[&str]) {
    for (expected, text) in rewritten(write) {
        let answer = explain_text(&text);
        assert_eq!(answer.len(), 1, "{answer:#?}");
        for key in keys {
            assert_eq!(answer[0][key], expected[key], "{key}");
        }
    }
}

/// A syscall's event has no colon: `sys_ioctl(fd: f, …`.
fn event(line: &Line<'_>) -> String {
    let colon = if line.fields.starts_with('(') { "" } else { ": " };
    format!("{}{colon}{}", line.name, line.fields)
}

fn group(name: &str) -> &str {
    match name {
        "signal_generate" => "signal",
        "memory_failure_event" => "memory_failure",
        "sched_process_exit" => "sched",
        _ => "kvm",
    }
}

#[test]
fn tracefs_with_the_tgid_column() {
    gives_the_same(
        |l| {
            let tgid = if l.comm.starts_with("ld-linux") {
                "    221"
            } else {
                "-------"
            };
            format!(
                "{:>16}-{:<7} ({tgid}) [{}] {} {}: {}",
                l.comm,
                l.tid,
                l.cpu,
                l.flags,
                l.time,
                event(l)
            )
        },
        &ALL,
    );
}

#[test]
fn tracefs_without_flags_and_with_flags_of_older_kernels() {
    gives_the_same(
        |l| format!("{:>16}-{:<5} [{}] {}: {}", l.comm, l.tid, l.cpu, l.time, event(l)),
        &ALL,
    );
    gives_the_same(
        |l| {
            format!(
                "{:>16}-{:<5} [{}] {} {}: {}",
                l.comm,
                l.tid,
                l.cpu,
                &l.flags[..4],
                l.time,
                event(l)
            )
        },
        &ALL,
    );
}

#[test]
fn tracefs_with_latency_format() {
    // Times count from the first event, in microseconds.
    gives_the_same(
        |l| {
            let (s, us) = l.time.split_once('.').unwrap();
            let us: u64 = format!("{s}{us}").parse().unwrap();
            let mark = if l.tid.ends_with('9') { '+' } else { ' ' };
            let cpu: u32 = l.cpu.parse().unwrap();
            let comm: String = l.comm.chars().take(8).collect();
            format!(
                "{comm:>8}-{:<7} {cpu:>3}{} {us:>4}us{mark}: {}",
                l.tid,
                l.flags,
                event(l)
            )
        },
        &ALL,
    );
}

#[test]
fn trace_cmd_report() {
    gives_the_same(
        |l| {
            format!(
                "{:>16}-{:<5} [{}] {:>12}: {:<20} {}",
                l.comm,
                l.tid,
                l.cpu,
                l.time,
                format!("{}:", l.name),
                l.fields
            )
        },
        &ALL,
    );
    // With -l, and with nanoseconds (-t).
    gives_the_same(
        |l| {
            let cpu: u32 = l.cpu.parse().unwrap();
            format!(
                "{:>16}-{:<5} {cpu:>3}{} {}000: {:<20} {}",
                l.comm,
                l.tid,
                l.flags,
                l.time,
                format!("{}:", l.name),
                l.fields
            )
        },
        &ALL,
    );
}

#[test]
fn perf_script() {
    gives_the_same(
        |l| {
            format!(
                "{:>16} {:>7} [{}] {:>12}: {:>30}: {}",
                l.comm,
                l.tid,
                l.cpu,
                l.time,
                format!("{}:{}", group(l.name), l.name),
                l.fields
            )
        },
        &ALL,
    );
    // -F comm,tid,time,event,trace: no CPU. --ns: nanoseconds.
    gives_the_same(
        |l| {
            format!(
                "{:>16} {:>7} {}000: {}:{}: {}",
                l.comm,
                l.tid,
                l.time,
                group(l.name),
                l.name,
                l.fields
            )
        },
        &ALL,
    );
}

#[test]
fn other_line_ends_and_junk_at_both_ends_of_the_file() {
    gives_the_same(
        |l| {
            format!(
                "{:>16}-{:<5} [{}] {} {}: {}\r",
                l.comm,
                l.tid,
                l.cpu,
                l.flags,
                l.time,
                event(l)
            )
        },
        &ALL,
    );
    for (expected, text) in rewritten(|l| {
        format!(
            "{}-{} [{}] {} {}: {}",
            l.comm,
            l.tid,
            l.cpu,
            l.flags,
            l.time,
            event(l)
        )
    }) {
        let long = "x".repeat(300_000);
        let text = format!("\0\0\0{long}\n{text}vmm-9 [000] d..1. 99.0000");
        let answer = explain_text(&text);
        assert_eq!(answer.len(), 1);
        for key in ALL {
            assert_eq!(answer[0][key], expected[key], "{key}");
        }
    }
}

/// The fields as `trace-cmd report -R` prints them, or perf where it cannot read an event's format.
fn raw(l: &Line<'_>) -> String {
    let word = |key: &str| {
        let at = l.fields.find(&format!("{key} "))? + key.len() + 1;
        l.fields[at..].split([' ', ',', '[']).next()
    };
    let number = |key: &str| u64::from_str_radix(word(key)?.trim_start_matches("0x"), 16).ok();
    match l.name {
        "kvm_exit" => {
            let (isa, reason) = match word("reason").unwrap() {
                "EPT_VIOLATION" => (1, 48),
                "MSR_WRITE" => (1, 32),
                "IO_INSTRUCTION" => (1, 30),
                "npf" => (2, 0x400),
                "io" => (2, 0x7b),
                "msr" => (2, 0x7c),
                "vmmcall" => (2, 0x81),
                other => (1 + u32::from(other.chars().any(|c| c.is_ascii_lowercase())), 12),
            };
            format!(
                "exit_reason={reason} guest_rip={:#x} isa={isa} info1={} info2={} intr_info=0 error_code=0 vcpu_id=0",
                number("rip").unwrap(),
                number("info1").unwrap(),
                number("info2").unwrap()
            )
        }
        "kvm_page_fault" => format!(
            "vcpu_id=0 guest_rip={:#x} fault_address={} error_code={}",
            number("rip").unwrap(),
            number("address").unwrap(),
            number("error_code").unwrap()
        ),
        "kvm_entry" => format!("vcpu_id=0 rip={:#x} immediate_exit=0", number("rip").unwrap()),
        "kvm_userspace_exit" => match l.fields.contains("restart") {
            true => "reason=10 errno=-4".to_owned(),
            false => format!("reason={} errno=0", l.fields.split(['(', ')']).nth(1).unwrap()),
        },
        "kvm_inj_exception" => format!(
            "exception=18 has_error=0 error_code=0 reinjected={}",
            u32::from(l.fields.contains("reinjected"))
        ),
        "memory_failure_event" => {
            let pfn = u64::from_str_radix(
                word("pfn")
                    .unwrap()
                    .trim_start_matches("0x")
                    .trim_end_matches(':'),
                16,
            );
            format!("pfn={:#x} type=14 result=3", pfn.unwrap())
        }
        _ => l.fields.to_owned(),
    }
}

#[test]
fn raw_fields() {
    let but_the_pages_type = [
        "outcome",
        "cause",
        "confidence",
        "exits",
        "latency_ns",
        "injections",
        "signals",
    ];
    gives_the_same(
        |l| {
            format!(
                "{:>16}-{:<5} [{}] {}: {}:{}{}",
                l.comm,
                l.tid,
                l.cpu,
                l.time,
                l.name,
                if l.fields.starts_with('(') { "" } else { " " },
                raw(l)
            )
        },
        &but_the_pages_type,
    );
}

#[test]
fn events_of_4_19_to_6_0() {
    // kvm_exit without vCPU and with `info A B`, kvm_page_fault without vCPU and RIP and in bare hex (32 bits of an
    // NPF's error code), kvm_entry with the vCPU alone.
    let of_5_4 = |l: &Line<'_>| {
        let word = |key: &str| {
            let at = l.fields.find(&format!("{key} ")).unwrap() + key.len() + 1;
            l.fields[at..]
                .split([' ', ','])
                .next()
                .unwrap()
                .trim_start_matches("0x")
        };
        let hex = |key: &str| u64::from_str_radix(word(key), 16).unwrap();
        let fields = match l.name {
            "kvm_exit" => format!(
                "reason {} rip 0x{} info {:x} {:x}",
                word("reason"),
                word("rip"),
                hex("info1"),
                hex("info2")
            ),
            "kvm_page_fault" => format!(
                "address {:x} error_code {:x}",
                hex("address"),
                hex("error_code") & 0xffff_ffff
            ),
            "kvm_entry" => "vcpu 0".to_owned(),
            "kvm_inj_exception" => l.fields.replace(" [reinjected]", ""),
            _ => l.fields.to_owned(),
        };
        let colon = if fields.starts_with('(') { "" } else { ": " };
        format!(
            "{:>16}-{:<5} [{}] {} {}: {}{colon}{fields}",
            l.comm,
            l.tid,
            l.cpu,
            &l.flags[..4],
            l.time,
            l.name
        )
    };
    for (n, (expected, text)) in rewritten(of_5_4).into_iter().enumerate() {
        let answer = explain_text(&text);
        assert_eq!(answer.len(), 1);
        for key in ["outcome", "cause", "page", "exits", "latency_ns", "signals"] {
            assert_eq!(answer[0][key], expected[key], "{key} of trace {n}");
        }
    }
}

#[test]
fn a_clock_without_seconds_gives_counts_and_no_durations() {
    let counted = std::cell::Cell::new(0_u64);
    let write = |l: &Line<'_>| {
        counted.set(counted.get() + 1);
        format!(
            "{}-{} [{}] {} {}: {}",
            l.comm,
            l.tid,
            l.cpu,
            l.flags,
            counted.get(),
            event(l)
        )
    };
    for (expected, text) in rewritten(write) {
        let answer = explain_text(&text);
        assert_eq!(answer.len(), 1, "{answer:#?}");
        for key in [
            "outcome",
            "cause",
            "confidence",
            "page",
            "exits",
            "injections",
            "signals",
        ] {
            assert_eq!(answer[0][key], expected[key], "{key}");
        }
        let latency = &answer[0]["latency_ns"];
        assert!(
            latency.as_object().unwrap().values().all(Value::is_null),
            "{latency:#}"
        );
        assert!(misses(&answer[0], "the trace's clock"), "{:#}", answer[0]);
    }
}

#[test]
fn one_trace_in_two_dialects_is_counted_once() {
    let dir = tempfile::tempdir().unwrap();
    for (expected, text) in rewritten(|l| {
        format!(
            "{:>16} {:>7} [{}] {}: {}:{}: {}",
            l.comm,
            l.tid,
            l.cpu,
            l.time,
            group(l.name),
            l.name,
            l.fields
        )
    }) {
        let [perf, tracefs] = ["perf", "tracefs"].map(|name| dir.path().join(name));
        let again = text.replace("  ", " ");
        fs::write(&perf, text).unwrap();
        fs::write(&tracefs, again).unwrap();
        let answer = only(&[perf, tracefs]);
        for key in ALL {
            assert_eq!(answer[key], expected[key], "{key}");
        }
    }
}
