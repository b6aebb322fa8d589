//! Synthetic traces of other kernels, processors, VMMs and tracer settings, after the formats of arch/x86/kvm/trace.h and
//! the lab's traces.

use std::{fmt::Write as _, fs};

use crate::{amd, explain_text, only, trace, verdict};

/// Lines of one thread, a microsecond apart.
struct Trace {
    text: String,
    us: u64,
}

impl Trace {
    fn new() -> Self {
        Self {
            text: String::new(),
            us: 7_000_000,
        }
    }

    fn on(&mut self, task: &str, event: &str) -> &mut Self {
        self.us += 1;
        let (s, us) = (self.us / 1_000_000, self.us % 1_000_000);
        writeln!(self.text, "{task} [000] d..1.     {s}.{us:06}: {event}").unwrap();
        self
    }

    fn vmm(&mut self, event: &str) -> &mut Self {
        self.on("vmm-205", event)
    }

    fn exit(&mut self, reason: &str, rip: u64, info1: u64, info2: u64) -> &mut Self {
        self.vmm(&format!(
            "kvm_exit: vcpu 0 reason {reason} rip {rip:#x} info1 {info1:#018x} info2 {info2:#018x} intr_info 0x00000000 error_code 0x00000000"
        ))
    }

    /// An exit on poison on Intel.
    fn poison(&mut self, rip: u64, gpa: u64) -> &mut Self {
        self.exit("EPT_VIOLATION", rip, 0x581, 0)
            .vmm(&format!(
                "kvm_page_fault: vcpu 0 rip {rip:#x} address {gpa:#018x} error_code 0x581"
            ))
            .vmm("signal_generate: sig=7 errno=0 code=4 comm=vmm pid=205 grp=0 res=0")
    }

    fn enter(&mut self, rip: u64) -> &mut Self {
        self.vmm(&format!("kvm_entry: vcpu 0, rip {rip:#x}"))
    }
}

#[test]
fn a_guest_whose_handler_flushes_the_page_touches_it_twice() {
    let mut t = Trace::new();
    t.poison(0x10011, 0x10_0000)
        .vmm("kvm_inj_exception: #MC")
        .enter(0x10011);
    t.exit("MSR_WRITE", 0x11010, 0, 0).enter(0x11012);
    t.poison(0x1101e, 0x10_0000)
        .vmm("kvm_inj_exception: #MC")
        .enter(0x1101e);
    t.exit("IO_INSTRUCTION", 0x11027, 0x0099_0048, 0);
    let all = explain_text(&t.text);
    assert_eq!(all.len(), 1, "{all:#?}");
    let i = &all[0];
    assert_eq!(
        (&i["exits"]["count"], &i["exits"]["distinct_rips"]),
        (&2.into(), &2.into())
    );
    assert_eq!(
        (&i["exits"]["distinct_lines"], &i["injections"]["delivered"]),
        (&1.into(), &2.into())
    );
    assert_eq!(i["flush"]["verdict"], "undetermined");
    assert_eq!(
        i["confidence"], "possible",
        "the trace does not contain the end: {i:#}"
    );
}

#[test]
fn an_instruction_that_kvm_emulated_elsewhere_in_the_trace_is_named() {
    let mut t = Trace::new();
    t.vmm("kvm_emulate_insn: 0:10011:66 0f ae 3f (prot64)");
    t.vmm("kvm_emulate_insn: 0:1101e:0f ae 3e (prot64)");
    t.vmm("kvm_emulate_insn: f0000:fff0:ea 5b e0 00 f0 (real)");
    t.poison(0x10011, 0x10_0000).enter(0x10015);
    t.poison(0x10011, 0x10_0040).enter(0x10015);
    let all = explain_text(&t.text);
    assert_eq!(
        all[0]["flush"]["basis"], "instruction_bytes",
        "{:#}",
        all[0]["flush"]
    );
    assert_eq!(
        (&all[0]["flush"]["verdict"], &all[0]["flush"]["instruction"]),
        (&"flush_only".into(), &"clflushopt [rdi]".into())
    );
}

#[test]
fn a_trace_without_injections_does_not_prove_that_there_were_none() {
    // Events as `cargo xtask lab storm --mode inject --ftrace` records them: no kvm_inj_exception, no signals.
    let mut t = Trace::new();
    for line in 0..64 {
        let gpa = 0x10_0000 + line * 64;
        t.exit("EPT_VIOLATION", 0x1001b, 0x181, 0)
            .vmm(&format!(
                "kvm_page_fault: vcpu 0 rip 0x1001b address {gpa:#018x} error_code 0x181"
            ))
            .vmm("gup_enter: (get_user_pages_unlocked+0x4/0x3b0)")
            .vmm("gup_return: (hva_to_pfn+0x149/0x4e0 [kvm] <- get_user_pages_unlocked) ret=-133")
            .vmm("kvm_userspace_exit: reason restart (4)")
            .enter(0x11000);
    }
    let all = explain_text(&t.text);
    assert_eq!(all.len(), 1);
    assert_eq!(all[0]["exits"]["distinct_lines"], 64);
    assert_eq!(all[0]["confidence"], "possible");
    let summary = all[0]["summary"].as_str().unwrap();
    assert!(
        summary.contains("no recorded event shows an injection"),
        "{summary}"
    );
}

#[test]
fn poison_by_the_vmms_own_madvise_is_no_exit() {
    // MADV_HWPOISON from 6.11: action required, to the caller, whose last exit (I/O) accessed nothing.
    let mut t = Trace::new();
    t.exit("IO_INSTRUCTION", 0x1000a, 0x0080_0048, 0);
    t.vmm("signal_generate: sig=7 errno=0 code=4 comm=vmm pid=205 grp=0 res=0");
    t.vmm("memory_failure_event: pfn 0x2adb: recovery action for dirty LRU page: Recovered");
    t.enter(0x1000c);
    t.poison(0x10011, 0x10_0000).enter(0x10015);
    let all = explain_text(&t.text);
    assert_eq!(all.len(), 1, "{all:#?}");
    let i = &all[0];
    assert_eq!(
        (&i["page"]["pfn"], &i["page"]["gpa"]),
        (&"0x2adb".into(), &"0x100000".into())
    );
    assert_eq!(
        (&i["exits"]["count"], &i["signals"]["action_required"]),
        (&1.into(), &2.into())
    );
}

#[test]
fn a_ring_that_begins_within_an_exit_loses_only_that_exits_time() {
    let mut t = Trace::new();
    t.poison(0x10011, 0x10_0000).enter(0x10015);
    t.poison(0x10011, 0x10_0040).enter(0x10015);
    let lines: Vec<&str> = t.text.lines().collect();
    for (begin, exits) in [(1, 2), (2, 1), (3, 1)] {
        let text = format!(
            "# entries-in-buffer/entries-written: 7/9000   #P:1\n{}\n",
            lines[begin..].join("\n")
        );
        let all = explain_text(&text);
        assert_eq!(all.len(), 1, "{begin}: {all:#?}");
        assert_eq!(all[0]["exits"]["count"], exits, "{begin}");
        assert_eq!(all[0]["latency_ns"]["exit_to_entry"]["count"], 1, "{begin}");
        assert!(
            crate::misses(&all[0], "earlier events were overwritten"),
            "{:#}",
            all[0]["missing"]
        );
    }
}

#[test]
fn lost_events_join_no_exit_with_a_later_entry() {
    let mut t = Trace::new();
    t.poison(0x10011, 0x10_0000);
    writeln!(t.text, "CPU:0 [LOST 4711 EVENTS]").unwrap();
    t.us += 500_000;
    t.enter(0x10015);
    t.poison(0x10011, 0x10_0040).enter(0x10015);
    let all = explain_text(&t.text);
    assert_eq!(all[0]["exits"]["count"], 2);
    let whole = &all[0]["latency_ns"]["exit_to_entry"];
    assert_eq!(
        (&whole["count"], &whole["max"]),
        (&1.into(), &3000.into()),
        "{whole:#}"
    );
    assert!(crate::misses(&all[0], "4711 events that the tracer lost"));
}

#[test]
fn a_vmm_that_raises_sigbus_again_is_killed_by_it() {
    let mut t = Trace::new();
    t.poison(0x10011, 0x10_0000);
    t.vmm("kvm_userspace_exit: reason restart (4)");
    t.vmm("signal_deliver: sig=7 errno=0 code=4 sa_handler=4014a0 sa_flags=4000004");
    t.vmm("signal_generate: sig=7 errno=0 code=-6 comm=vmm pid=205 grp=0 res=0");
    t.vmm("signal_deliver: sig=7 errno=0 code=-6 sa_handler=0 sa_flags=4000000");
    let all = explain_text(&t.text);
    assert_eq!(verdict(&all[0]), ("vmm_killed", "sigbus_unhandled", "certain"));
    assert_eq!(all[0]["signals"]["action_required"], 1);
}

#[test]
fn with_shadow_paging_the_faulting_address_is_no_guest_physical_one() {
    for reason in ["EXCEPTION_NMI", "PF excp"] {
        let mut t = Trace::new();
        t.exit(reason, 0xffff_ffff_8106_a01c, 0xffff_8880_1234_5000, 0)
            .vmm("kvm_page_fault: vcpu 0 rip 0xffffffff8106a01c address 0xffff888012345000 error_code 0x0")
            .vmm("signal_generate: sig=7 errno=0 code=4 comm=vmm pid=205 grp=0 res=0")
            .enter(0xffff_ffff_8106_a01c);
        let all = explain_text(&t.text);
        assert_eq!(all.len(), 1, "{reason}");
        assert_eq!(all[0]["page"]["gpa"], serde_json::Value::Null, "{reason}");
        assert_eq!(all[0]["exits"]["count"], 1, "{reason}");
    }
}

#[test]
fn kprobes_are_recognised_by_their_location_not_their_name() {
    let with = |enter: &str, leave: &str| {
        let mut t = Trace::new();
        t.exit("EPT_VIOLATION", 0x10011, 0x581, 0);
        t.vmm("kvm_page_fault: vcpu 0 rip 0x10011 address 0x0000000000100000 error_code 0x581");
        t.vmm(enter).vmm(leave).enter(0x10011);
        explain_text(&t.text)
    };
    for (enter, leave) in [
        (
            "gup_in: (get_user_pages_unlocked+0x0/0x290)",
            "gup_out: (hva_to_pfn+0x98/0x2f0 [kvm] <- get_user_pages_unlocked) ret=0xffffffffffffff7b",
        ),
        (
            "gup_enter: (get_user_pages_unlocked+0x0/0x90) start=0x7f0000001000",
            "gup_return: (hva_to_pfn+0xd9/0x3a0 <- get_user_pages_unlocked) ret=-133",
        ),
        (
            "p_get_user_pages_unlocked: (get_user_pages_unlocked+0x0/0x90)",
            "r_get_user_pages_unlocked: (kvm_follow_pfn+0x12/0x90 [kvm] <- get_user_pages_unlocked) arg1=0xffffff7b",
        ),
    ] {
        let all = with(enter, leave);
        assert_eq!(all.len(), 1, "{enter}");
        assert_eq!(
            (
                &all[0]["latency_ns"]["gup"]["sum"],
                &all[0]["latency_ns"]["gup_basis"]
            ),
            (&1000.into(), &"exact".into()),
            "{enter}"
        );
    }
    // Another function of the lookup reveals the poison, but not the duration of gup.
    let all = with(
        "p_hva_to_pfn: (hva_to_pfn+0x0/0x2f0 [kvm])",
        "r_hva_to_pfn: (__gfn_to_pfn_memslot+0x9/0x90 [kvm] <- hva_to_pfn) ret=9218868437227405313",
    );
    assert_eq!(all.len(), 1);
    assert_eq!(all[0]["latency_ns"]["gup"], serde_json::Value::Null);
    // A page that is present is not poisoned.
    let all = with(
        "gup_in: (get_user_pages_unlocked+0x0/0x290)",
        "gup_out: (hva_to_pfn+0x98/0x2f0 <- get_user_pages_unlocked) ret=1",
    );
    assert!(all.is_empty(), "{all:#?}");
}

#[test]
fn a_guest_that_powers_off_in_good_order_has_survived() {
    // The real trace of a guest that dies, with its last exits changed from the keyboard controller's reset port to the
    // power management's.
    let text = fs::read_to_string(amd("ftrace.txt")).unwrap();
    let text = text.replace("info1 0x0000000000640010", "info1 0x0000000006040028");
    let all = explain_text(&text);
    assert_eq!(all.len(), 1);
    assert_eq!(verdict(&all[0]), ("survived", "contained", "certain"));
}

#[test]
fn events_in_either_group_and_without_any_order_of_the_cpus_blocks() {
    // `trace-cmd report` of split buffers, or per_cpu/cpuN/trace one after the other in several files.
    let text = fs::read_to_string(amd("ftrace.txt")).unwrap();
    let expected = &explain_text(&text)[0];
    let of = |cpu: &str| -> String {
        text.lines()
            .filter(|line| line.contains(cpu))
            .map(|line| format!("{line}\n"))
            .collect()
    };
    let dir = tempfile::tempdir().unwrap();
    let files = ["[000]", "[001]"].map(|cpu| {
        let file = dir.path().join(cpu);
        fs::write(&file, of(cpu)).unwrap();
        file
    });
    let i = only(&files);
    for key in [
        "outcome",
        "cause",
        "page",
        "exits",
        "latency_ns",
        "injections",
        "signals",
    ] {
        assert_eq!(i[key], expected[key], "{key}");
    }
}

#[test]
fn function_traces_between_the_events_change_nothing() {
    let file = trace("intel-tiny-vmm/clflushopt-stepped-over.ftrace.txt");
    let expected = &only(std::slice::from_ref(&file));
    let text = fs::read_to_string(file).unwrap();
    let noisy: String = text
        .lines()
        .map(|line| {
            format!(
                " 0)   vmm-194    |               |  get_user_pages_unlocked() {{\n\
                 {line}\n\
                 vmm-194     [000] d..1.     7.343019: get_user_pages_unlocked <-hva_to_pfn\n\
                 vmm-194     [000] d..1.     7.343019: <stack trace>\n => get_user_pages_unlocked\n\
                 0)   1.234 us    |  }}\n"
            )
        })
        .collect();
    let all = explain_text(&noisy);
    for key in ["outcome", "cause", "page", "exits", "latency_ns", "signals"] {
        assert_eq!(all[0][key], expected[key], "{key}");
    }
}

/// A trace of signals and returns to user space alone, stamped by this clock.
fn signals_alone(exits: u64, stamp: impl Fn(u64) -> String) -> String {
    let mut text = String::new();
    for n in 0..exits {
        let (signal, back) = (stamp(2 * n), stamp(2 * n + 1));
        text += &format!(
            "vmm-4325 [000] d..1. {signal}: signal_generate: sig=7 errno=0 code=4 comm=vmm pid=4325 grp=0 res=0\n"
        );
        text += &format!("vmm-4325 [000] ..... {back}: kvm_userspace_exit: reason restart (4)\n");
    }
    text
}

#[test]
fn a_signal_for_its_own_access_to_a_vcpu_thread_is_an_exit_on_the_page() {
    let ticks = |n: u64| (15_609_014_601_440 + n * 7_000).to_string();
    let micros = |n: u64| format!("7.{:06}", 343_018 + n);
    for text in [signals_alone(64, ticks), signals_alone(64, micros)] {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("trace");
        fs::write(&file, text).unwrap();
        let i = only(&[file]);
        assert_eq!(i["exits"]["count"], 64, "{i:#}");
        assert_eq!(i["signals"]["action_required"], 64);
        assert_eq!(i["injections"]["action_required"], serde_json::Value::Null);
        assert_eq!(i["injections"]["delivered"], serde_json::Value::Null);
        assert_ne!(i["cause"], "not_touched");
    }
}

#[test]
fn a_signal_to_a_thread_that_no_kvm_event_shows_is_no_exit() {
    let text: String = signals_alone(8, |n| format!("7.{n:06}"))
        .lines()
        .filter(|line| line.contains("signal_generate"))
        .flat_map(|line| [line, "\n"])
        .collect();
    assert_eq!(explain_text(&text).len(), 0);
}
