//! What an import costs grows as its input does: twice the input takes at most 2.3 times the processor's time.
//! Held over two doublings, so that what else the machine does counts once and not in each.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking; its helper functions too"
)]

use std::{fmt::Write as _, io::Cursor, sync::Mutex, time::Duration};

use poisontrace_import::read_inputs;
use rustix::time::{ClockId, clock_gettime};

/// Times the cost of a quarter of the input that the whole may take.
const AT_MOST: f64 = 2.3 * 2.3;
/// Others use the machine too: the least of so many rounds counts, and fewer are enough where it fits.
const ROUNDS: usize = 12;

/// One measurement at a time.
static MACHINE: Mutex<()> = Mutex::new(());

fn processor_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap())
}

/// What an import of the text takes, and its incidents.
fn cost(text: &str) -> (Duration, usize) {
    let input = Cursor::new(text.to_owned());
    let begun = processor_time();
    let imported = read_inputs(vec![("input".to_owned(), input)], false).unwrap();
    (processor_time() - begun, imported.incidents.len())
}

fn grows_linearly(of: usize, input: impl Fn(usize) -> String, incidents: impl Fn(usize) -> usize) {
    let _alone = MACHINE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let (quarter, whole) = (input(of), input(4 * of));
    let (mut least_quarter, mut least_whole) = (Duration::MAX, Duration::MAX);
    for _ in 0..ROUNDS {
        let (took, known) = cost(&quarter);
        assert_eq!(known, incidents(of));
        least_quarter = least_quarter.min(took);
        let (took, known) = cost(&whole);
        assert_eq!(known, incidents(4 * of));
        least_whole = least_whole.min(took);
        if least_whole.as_secs_f64() <= AT_MOST * least_quarter.as_secs_f64() {
            return;
        }
    }
    panic!("{least_quarter:?} for a quarter, {least_whole:?} for the whole");
}

/// Exits on a page each; `more`: what the trace shows of each beside the signal.
fn pages(n: usize, tid: impl Fn(usize) -> usize, more: &[&str]) -> String {
    let mut text = String::new();
    for page in 0..n {
        let (tid, at) = (tid(page), page * 4096);
        let mut t = page * 20;
        let mut line = |rest: &str| {
            let _ = writeln!(
                text,
                "vmm-{tid} [000] d..1. {}.{:06}: {rest}",
                t / 1_000_000,
                t % 1_000_000
            );
            t += 1;
        };
        line(
            "kvm_exit: vcpu 0 reason EPT_VIOLATION rip 0x10011 info1 0x581 info2 0x0 intr_info 0x0 error_code 0x0",
        );
        line(&format!(
            "kvm_page_fault: vcpu 0 rip 0x10011 address {at:#018x} error_code 0x581"
        ));
        line(&format!(
            "signal_generate: sig=7 errno=0 code=4 comm=vmm pid={tid} grp=0 res=0"
        ));
        for rest in more {
            line(rest);
        }
    }
    text
}

#[test]
fn a_trace_of_one_vms_many_pages() {
    grows_linearly(1600, |n| pages(n, |_| 194, &[]), |n| n);
}

#[test]
fn a_trace_of_pages_whose_machine_checks_are_handled() {
    let more = [
        "kvm_userspace_exit: reason restart (4)",
        "kvm_inj_exception: #MC (0x0)",
        "kvm_entry: vcpu 0, rip 0x10011",
        "kvm_msr: msr_write 17a = 0x0",
        "kvm_entry: vcpu 0, rip 0x10011",
    ];
    grows_linearly(1000, |n| pages(n, |_| 194, &more), |n| n);
}

#[test]
fn a_trace_of_many_vms() {
    grows_linearly(1600, |n| pages(n, |page| 194 + page, &[]), |n| n);
}

#[test]
fn a_trace_of_failures_that_are_signalled_and_named() {
    let input = |n: usize| {
        let mut text = String::from("CPU 0/KVM-300 [000] d..1. 0.000001: kvm_entry: vcpu 0, rip 0x10011\n");
        for page in 0..n {
            let (t, pfn) = (page * 20 + 10, 0x1000 + page);
            let mut line = |at: usize, rest: &str| {
                let t = t + at;
                let _ = writeln!(
                    text,
                    "mce-50 [001] d..1. {}.{:06}: {rest}",
                    t / 1_000_000,
                    t % 1_000_000
                );
            };
            line(
                0,
                "signal_generate: sig=7 errno=0 code=5 comm=CPU 0/KVM pid=300 grp=0 res=0",
            );
            line(
                1,
                &format!("memory_failure_event: pfn {pfn:#x}: recovery action for dirty LRU page: Recovered"),
            );
        }
        text
    };
    grows_linearly(1600, input, |n| n);
}

/// A recording of one page in `n` VMs.
fn shared_page(n: usize) -> String {
    let session = r#"{"host":{"hostname":"h","kernel":"6.12.0","poisontrace":"0.1.0","emulated":false},"clock":{"monotonic_ns":0,"wall_ns":null},"probes":[]}"#;
    let mut text = format!("{{\"poisontrace_recording\":1,\"session\":{session}}}\n");
    let mut events = 0;
    let mut line = |rest: String| {
        let _ = writeln!(text, "{{\"t\":{},{rest}}}", 1000 + events);
        events += 1;
    };
    for pid in 100..100 + n {
        line(format!(
            r#""tid":{pid},"pid":{pid},"event":"vmm","is_vmm":true,"name":"v{pid}","uuid":null,"vmm":"qemu","start_ticks":1"#
        ));
    }
    line(r#""tid":1,"pid":1,"event":"failure_begin","pfn":"0x109d3","flags":32"#.to_owned());
    for pid in 100..100 + n {
        line(format!(
            r#""tid":1,"pid":1,"event":"sigbus","hva":"0x7f0000000000","severity":"action_optional","lsb":12,"target_tid":{pid},"target_pid":{pid},"forced":false,"comm":"q""#
        ));
    }
    line(r#""tid":1,"pid":1,"event":"failure_action","pfn":"0x109d3","page_type":"dirty LRU page","result":"Recovered""#.to_owned());
    line(r#""tid":1,"pid":1,"event":"failure_end","ret":0"#.to_owned());
    let _ = writeln!(text, "{{\"end\":{{\"events\":{events}}}}}");
    text
}

#[test]
fn a_recording_of_a_page_that_many_vms_share() {
    grows_linearly(1600, shared_page, |n| n);
}

/// Lines of a kernel's log, of each page.
fn kernel_log(n: usize, line: impl Fn(usize) -> String) -> String {
    let mut text = String::new();
    for page in 0..n {
        let _ = writeln!(
            text,
            "[{:5}.{:06}] {}",
            page / 1000,
            page % 1000 * 1000,
            line(page)
        );
    }
    text
}

fn signalled(page: usize, pid: usize) -> String {
    format!(
        "Memory failure: {:#x}: Sending SIGBUS to qemu-system-x86:{pid} due to hardware memory corruption",
        0x1000 + page
    )
}

#[test]
fn a_kernel_log_of_many_vms() {
    grows_linearly(1600, |n| kernel_log(n, |page| signalled(page, 200 + page)), |n| n);
}

#[test]
fn a_kernel_log_of_vmms_that_are_killed() {
    let killed = |page: usize| {
        format!(
            "Memory failure: {:#x}: Killing qemu-system-x86:{} due to hardware memory corruption",
            0x1000 + page,
            200 + page
        )
    };
    grows_linearly(1600, |n| kernel_log(n, killed), |n| n);
}

#[test]
fn virsh_events_of_many_domains() {
    let reboots = |n: usize| {
        (0..n).fold(String::new(), |mut text, vm| {
            let _ = writeln!(
                text,
                "2026-11-22 15:45:34.123+0000: event 'reboot' for domain 'vm-{vm}'"
            );
            text
        })
    };
    grows_linearly(1600, reboots, |_| 0);
    let failures = |n: usize| {
        (0..n).fold(String::new(), |mut text, vm| {
            let _ = writeln!(
                text,
                "event MEMORY_FAILURE for domain 'vm-{vm}': {{\"recipient\":\"guest\",\"action\":\"inject\",\"flags\":{{\"action-required\":true}}}}"
            );
            text
        })
    };
    grows_linearly(1600, failures, |n| n);
}

#[test]
fn a_journal_of_the_kernels_lines() {
    let input = |n: usize| {
        (0..n).fold(String::new(), |mut text, page| {
            let _ = writeln!(
                text,
                "{{\"__MONOTONIC_TIMESTAMP\":\"{}\",\"_TRANSPORT\":\"kernel\",\"SYSLOG_IDENTIFIER\":\"kernel\",\"MESSAGE\":\"{}\"}}",
                1000 + page,
                signalled(page, 200 + page)
            );
            text
        })
    };
    grows_linearly(800, input, |n| n);
}

/// Records of one VM whose pages are lost one after the other.
#[test]
fn a_recording_of_one_vms_many_pages() {
    let input = |n: usize| {
        let session = r#"{"host":{"hostname":"h","kernel":"6.12.0","poisontrace":"0.1.0","emulated":false},"clock":{"monotonic_ns":0,"wall_ns":null},"probes":[]}"#;
        let mut text = format!("{{\"poisontrace_recording\":1,\"session\":{session}}}\n");
        let _ = writeln!(
            text,
            r#"{{"t":1,"tid":140,"pid":140,"event":"vmm","is_vmm":true,"name":"v","uuid":"u","vmm":"qemu","start_ticks":1}}"#
        );
        for page in 0..n {
            let (t, hva) = (10 + page, 0x7f00_0000_0000_u64 + page as u64 * 4096);
            let _ = writeln!(
                text,
                r#"{{"t":{t},"tid":1,"pid":1,"event":"sigbus","hva":"{hva:#x}","severity":"action_optional","lsb":12,"target_tid":140,"target_pid":140,"forced":false,"comm":"q"}}"#
            );
        }
        let _ = writeln!(text, "{{\"end\":{{\"events\":{}}}}}", n + 1);
        text
    };
    grows_linearly(1600, input, |n| n);
}

#[test]
fn a_kernel_log_of_one_vms_many_pages() {
    grows_linearly(1600, |n| kernel_log(n, |page| signalled(page, 200)), |n| n);
}

#[test]
fn a_log_of_a_vmm_that_injects_for_many_pages() {
    let injected = |n: usize| {
        (0..n).fold(String::new(), |mut text, page| {
            let _ = writeln!(
                text,
                "qemu-system-x86_64: Guest MCE Memory Error at QEMU addr {:#x} and GUEST addr {:#x} of type BUS_MCEERR_AR injected",
                0x7f00_0000_0000_u64 + page as u64 * 4096,
                page * 4096
            );
            text
        })
    };
    grows_linearly(1600, injected, |n| n);
}

#[test]
fn a_console_of_a_guest_that_survives_many_machine_checks() {
    let handled = |page: usize| {
        let lines = [
            "mce: [Hardware Error]: Machine check events logged".to_owned(),
            "mce: [Hardware Error]: CPU 0: Machine Check: 0 Bank 9: bd80000000000134".to_owned(),
            format!("mce: [Hardware Error]: TSC 0 ADDR {:x} MISC 8c", page * 4096),
            "mce: [Hardware Error]: PROCESSOR 0:a20f12 TIME 1795362334 SOCKET 0 APIC 0 microcode 1000065"
                .to_owned(),
            format!("Memory failure: {page:#x}: recovery action for dirty LRU page: Recovered"),
        ];
        let stamp = format!("\n[{:5}.{:06}] ", page / 1000, page % 1000 * 1000);
        lines.join(&stamp)
    };
    grows_linearly(800, |n| kernel_log(n, handled), |n| n);
}

/// The host's kernel signals all of them before the VMM injects for the first: which is which page's no line shows.
#[test]
fn logs_of_a_vm_whose_pages_are_signalled_before_any_is_injected() {
    let both = |n: usize| {
        let mut text = String::new();
        for page in 0..n {
            let _ = writeln!(
                text,
                "2026-11-22T15:00:{:02}.{:06}+00:00 h1 kernel: {}",
                page / 1000,
                page % 1000 * 1000,
                signalled(page, 1234)
            );
        }
        for page in 0..n {
            let _ = writeln!(
                text,
                "2026-11-22T15:10:{:02}.{:06}+00:00 h1 qemu-system-x86_64[1234]: Guest MCE Memory Error at QEMU addr {:#x} and GUEST addr {:#x} of type BUS_MCEERR_AR injected",
                page / 1000,
                page % 1000 * 1000,
                0x7f00_0000_0000_u64 + page as u64 * 4096,
                page * 4096
            );
        }
        text
    };
    grows_linearly(800, both, |n| 2 * n);
}
