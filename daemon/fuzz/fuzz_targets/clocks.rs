//! Sources whose clocks must be aligned: a trace and three logs that contain the same few events, at arbitrary times. Each
//! pair of bytes is an event and its source; the eight bytes after it are its time.

#![no_main]

use std::{fmt::Write as _, io::Cursor};

use libfuzzer_sys::fuzz_target;
use poisontrace_import as import;

fuzz_target!(|data: &[u8]| {
    let (mut trace, mut host, mut vmm, mut guest) =
        (String::new(), String::new(), String::new(), String::new());
    for chunk in data.chunks_exact(10).take(512) {
        let time = u64::from_le_bytes(chunk[2..].try_into().expect("eight bytes"));
        let (s, us) = (time / 1_000_000, time % 1_000_000);
        let page = chunk[1] & 3;
        let _ = match chunk[0] % 10 {
            0 => writeln!(
                trace,
                "a-1 [000] ..... {s}.{us:06}: memory_failure_event: pfn 0x{page}: recovery action for x: Recovered"
            ),
            1 => writeln!(
                trace,
                "a-1 [000] ..... {s}.{us:06}: signal_generate: sig=7 errno=0 code=5 comm=qemu pid=9 grp=0 res=0"
            ),
            2 => writeln!(
                trace,
                "CPU 0/KVM-10 [000] ..... {s}.{us:06}: kvm_exit: reason EPT_VIOLATION rip 0x1 info 581 0\n\
                 CPU 0/KVM-10 [000] ..... {s}.{us:06}: kvm_page_fault: address {page}000 error_code 581\n\
                 CPU 0/KVM-10 [000] ..... {s}.{us:06}: signal_generate: sig=7 errno=0 code=4 comm=CPU 0/KVM pid=10 grp=0 res=0\n\
                 CPU 0/KVM-10 [000] ..... {s}.{us:06}: kvm_inj_exception: #MC\n\
                 CPU 0/KVM-10 [000] ..... {s}.{us:06}: kvm_entry: vcpu 0, rip 0x1"
            ),
            3 => writeln!(
                host,
                "[{s}.{us:06}] Memory failure: 0x{page}: Sending SIGBUS to qemu:9 due to hardware memory corruption"
            ),
            4 => writeln!(
                host,
                "[{s}.{us:06}] Memory failure: 0x{page}: recovery action for x: Recovered"
            ),
            5 => writeln!(
                host,
                "{{\"MESSAGE\":\"Memory failure: 0x{page}: recovery action for x: Recovered\",\"__REALTIME_TIMESTAMP\":\"{time}\",\"_SOURCE_MONOTONIC_TIMESTAMP\":\"{us}\"}}"
            ),
            6 => writeln!(
                vmm,
                "{{\"timestamp\": {{\"seconds\": {}, \"microseconds\": {us}}}, \"event\": \"MEMORY_FAILURE\", \"data\": {{\"recipient\": \"guest\", \"action\": \"inject\", \"flags\": {{\"action-required\": true}}}}}}",
                s.cast_signed()
            ),
            7 => writeln!(
                vmm,
                "2026-11-{:02} 15:45:34.{us:06}+0000: shutting down, reason=crashed",
                s % 31
            ),
            8 => writeln!(
                vmm,
                "Guest MCE Memory Error at QEMU addr 0x7{page}000 and GUEST addr 0x{page}000 of type BUS_MCEERR_AR injected"
            ),
            _ => writeln!(
                guest,
                "[{s}.{us:06}] mce: [Hardware Error]: CPU 0: Machine Check Exception: 7 Bank 9: bd80000000000134\n\
                 [{s}.{us:06}] mce: [Hardware Error]: TSC 1 ADDR {page}000 MISC 8c \n\
                 [{s}.{us:06}] Kernel panic - not syncing: Fatal local machine check"
            ),
        };
    }
    let files = [("trace", trace), ("host", host), ("vmm", vmm), ("guest", guest)]
        .map(|(name, text)| (name.to_owned(), Cursor::new(text)));
    if let Ok(imported) = import::read_inputs(files.into(), true) {
        for incident in imported.incidents {
            serde_json::to_string(&poisontrace_report::document(incident)).expect("an incident is JSON");
        }
    }
});
