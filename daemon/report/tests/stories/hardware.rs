//! Errors of the hardware: what the guest consumes by itself, what the host finds, and memory that cannot be taken out of use.

use poisontrace_model::event::{Access, EventKind, HostMce, McContext, McVendor, SigbusSeverity};
use poisontrace_model::hex::Hex;
use poisontrace_model::incident::model::{Cause, Confidence, FlushVerdict, OriginBasis, OriginKind, Outcome};

use super::*;

/// Flags of `memory_failure()` from kill_me_maybe().
const ACTION_REQUIRED: u64 = 1 << 1;
const EBUSY: i64 = -16;
const SIGKILL: i32 = 9;

fn begin(story: &mut Story, tid: u32, flags: u64, in_kvm_run: Option<bool>) {
    let pid = if tid == WORKER { WORKER } else { QEMU };
    let pfn = Hex(PFN);
    story.at(
        tid,
        pid,
        EventKind::FailureBegin {
            pfn,
            flags,
            in_kvm_run,
        },
    );
}

fn end(story: &mut Story, tid: u32, page_type: &str, result: &str, ret: i64) {
    let pid = if tid == WORKER { WORKER } else { QEMU };
    let action = EventKind::FailureAction {
        pfn: Hex(PFN),
        page_type: page_type.into(),
        result: result.into(),
    };
    story
        .at(tid, pid, action)
        .at(tid, pid, EventKind::FailureEnd { ret });
}

fn mce(status: u64, addr: u64, context: McContext, vendor: McVendor) -> EventKind {
    EventKind::HostMce(HostMce {
        cpu: Some(0),
        bank: Some(1),
        status: Hex(status),
        addr: Hex(addr),
        misc: Hex(0x8c),
        mcg_status: Hex(0),
        context,
        vendor,
    })
}

/// #MC while the guest runs: memory_failure() as task work on the vCPU's thread, and a forced SIGBUS.
fn consumes(story: &mut Story, seen_at: Option<u64>) {
    if let Some(rip) = seen_at {
        story.at(VCPU0, QEMU, EventKind::McExit { rip: Some(Hex(rip)) });
    }
    begin(story, VCPU0, ACTION_REQUIRED, Some(true));
    story.at(
        VCPU0,
        QEMU,
        EventKind::Sigbus {
            hva: Hex(HVA),
            severity: SigbusSeverity::ActionRequired,
            lsb: 12,
            target_tid: VCPU0,
            target_pid: QEMU,
            forced: true,
            comm: "qemu".into(),
        },
    );
    end(story, VCPU0, "dirty LRU page", "Recovered", 0);
}

#[test]
fn guest_kernel_consumes_the_hosts_first_error_and_panics() {
    let mut story = Story::new();
    story.vm();
    consumes(&mut story, None);
    story
        .record_injection(VCPU0, AMD_AR, GPA)
        .at(VCPU0, QEMU, EventKind::DeliveredAt { rip: Hex(KERNEL_RIP) })
        .pio(VCPU0, 0x505, 1);
    let incident = story.only();
    assert_eq!(
        verdict(&incident),
        (Outcome::GuestPanicked, Cause::KernelAccess, Confidence::Likely)
    );
    assert_eq!(incident.origin.how, OriginKind::ConsumedByGuest);
    assert_eq!(incident.origin.basis, OriginBasis::FailureFlags);
    // The #MC is no exit on the page, and no time of one.
    assert_eq!(incident.exits.count, Some(0));
    assert!(incident.latency_ns.in_kernel.is_none());
    // Where it was, its #MC shows that the VMM injects.
    let exit = incident.timeline.iter().find(|entry| entry.kind == "mc_exit");
    let message = exit.map_or("", |exit| &*exit.message);
    assert!(message.contains("RIP 0xffffffff8109e6e8"), "{message}");
}

#[test]
fn the_machine_check_exit_is_evidence_of_its_own() {
    let mut story = Story::new();
    story.vm().poison_other(3);
    consumes(&mut story, Some(KERNEL_RIP));
    story
        .record_injection(VCPU0, AMD_AR, GPA)
        .delivered(VCPU0)
        .pio(VCPU0, 0x505, 1);
    let all = story.incidents();
    let incident = all.last().unwrap();
    assert_eq!(
        verdict(incident),
        (Outcome::GuestPanicked, Cause::KernelAccess, Confidence::Likely)
    );
    assert_eq!(incident.origin.basis, OriginBasis::MachineCheck);
    let shown = incident
        .timeline
        .iter()
        .find(|entry| entry.kind == "mc_exit")
        .unwrap();
    assert!(
        shown.message.contains("RIP 0xffffffff8109e6e8"),
        "{}",
        shown.message
    );
}

/// 5.10 signals what was known for poisoned only after `memory_failure()`.
#[test]
fn what_the_guest_consumed_is_not_the_vmms_own_memory() {
    let mut story = Story::new();
    story.vm();
    begin(&mut story, VCPU0, ACTION_REQUIRED, Some(true));
    story
        .at(VCPU0, QEMU, EventKind::FailureEnd { ret: -133 })
        .at(
            VCPU0,
            QEMU,
            EventKind::Sigbus {
                hva: Hex(HVA),
                severity: SigbusSeverity::ActionRequired,
                lsb: 12,
                target_tid: VCPU0,
                target_pid: QEMU,
                forced: true,
                comm: "qemu".into(),
            },
        )
        .vmm_exit(7);
    assert_eq!(
        verdict(&story.only()),
        (Outcome::VmmKilled, Cause::SigbusUnhandled, Confidence::Certain)
    );
}

/// A huge page that VFIO has pinned cannot be split: kill_me_now() sends SIGBUS without an address.
#[test]
fn vmm_is_killed_because_its_page_cannot_be_taken_out_of_use() {
    let mut story = Story::new();
    story.vm();
    begin(&mut story, VCPU0, ACTION_REQUIRED, Some(true));
    end(&mut story, VCPU0, "unsplit thp", "Ignored", EBUSY);
    story.vmm_exit(7);
    let incident = story.only();
    assert_eq!(
        verdict(&incident),
        (Outcome::VmmKilled, Cause::UnmapFailed, Confidence::Certain)
    );
    assert_eq!(incident.page.pfn, Some(Hex(PFN)));
    assert!(
        incident.next_steps.iter().any(|step| step.contains("reboot it")),
        "{:?}",
        incident.next_steps
    );
}

#[test]
fn sigkill_after_a_failed_unmapping_may_be_anybodys() {
    let mut story = Story::new();
    story.vm();
    begin(&mut story, VCPU0, ACTION_REQUIRED, Some(true));
    end(&mut story, VCPU0, "unmapping failed page", "Ignored", EBUSY);
    story.vmm_exit(SIGKILL);
    assert_eq!(
        verdict(&story.only()),
        (Outcome::VmmKilled, Cause::UnmapFailed, Confidence::Likely)
    );
}

#[test]
fn memory_that_stays_in_use_is_a_risk_while_the_vmm_lives() {
    let mut story = Story::new();
    story.vm();
    begin(&mut story, VCPU0, ACTION_REQUIRED, Some(true));
    end(&mut story, VCPU0, "unsplit thp", "Ignored", EBUSY);
    let incident = story.only();
    assert_eq!(
        verdict(&incident),
        (Outcome::Running, Cause::UnmapFailed, Confidence::Likely)
    );
    assert!(incident.summary.contains("at risk"), "{}", incident.summary);
}

/// An older incident that the VMM outlived does not make it `not_poison`.
#[test]
fn an_older_incident_is_not_blamed_for_another_pages_death() {
    let mut story = Story::new();
    story.vm().poison_other(5).wait(60_000 * MS);
    begin(&mut story, VCPU0, ACTION_REQUIRED, Some(true));
    end(&mut story, VCPU0, "unsplit thp", "Ignored", EBUSY);
    story.vmm_exit(7);
    let all = story.incidents();
    let killed: Vec<_> = all.iter().map(|i| i.cause).collect();
    assert!(killed.contains(&Cause::UnmapFailed), "{killed:?}");
    assert!(!killed.contains(&Cause::NotPoison), "{killed:?}");
}

#[test]
fn a_poisoned_page_table_of_the_guest_is_walked_and_not_written() {
    let mut story = Story::new();
    story
        .vm()
        .poison(12)
        .touch(VCPU0, USER_RIP, GPA, Access::PageWalk, false)
        .at(
            VCPU0,
            QEMU,
            EventKind::GuestCode {
                rip: Hex(USER_RIP),
                // CLFLUSH [RDI], of whatever the page table maps.
                bytes: "0fae3f904883c740".into(),
            },
        );
    let incident = story.only();
    assert_eq!(incident.exits.by_access.page_walk, Some(1));
    assert_eq!(incident.exits.by_access.write, Some(0));
    assert_eq!(incident.flush.verdict, FlushVerdict::Undetermined);
}

#[test]
fn where_the_bit_is_not_handed_out_a_write_is_not_certain() {
    let mut story = Story::new();
    story
        .vm()
        .poison(12)
        .touch(VCPU0, USER_RIP, GPA, Access::WriteOrPageWalk, false);
    let incident = story.only();
    assert_eq!(incident.exits.by_access.page_walk, None);
    assert_eq!(incident.exits.by_access.write, None);
    assert_eq!(incident.flush.verdict, FlushVerdict::Undetermined);
    assert!(!incident.summary.contains("wrote to"), "{}", incident.summary);
}

#[test]
fn a_deferred_error_is_joined_by_its_address() {
    let mut story = Story::new();
    story.vm().at(
        WORKER,
        WORKER,
        mce(0x9c00_1800_0000_0000, PFN << 12, McContext::None, McVendor::Amd),
    );
    begin(&mut story, WORKER, 0, Some(false));
    story.sigbus(WORKER, QEMU, SigbusSeverity::ActionOptional, HVA, 12);
    end(&mut story, WORKER, "dirty LRU page", "Recovered", 0);
    story.at(
        WORKER,
        WORKER,
        EventKind::EdacError {
            addr: Hex(PFN << 12 | 0x40),
            label: "CPU_SrcID#0_MC#1_Chan#0_DIMM#0".into(),
        },
    );
    let origin = story.only().origin;
    assert_eq!(origin.how, OriginKind::FoundByScrubbing);
    let bank = origin.machine_check.unwrap();
    assert_eq!(bank.status, Some(Hex(0x9c00_1800_0000_0000)));
    assert_eq!(bank.addr, Some(Hex(PFN << 12)));
    assert_eq!(origin.dimm.unwrap().label, "CPU_SrcID#0_MC#1_Chan#0_DIMM#0");
}

/// AMD's memory controllers report an address of their own; the same worker hands it on.
#[test]
fn an_error_without_an_address_of_the_host_is_joined_by_thread_and_order() {
    let mut story = Story::new();
    story.vm().at(
        WORKER,
        WORKER,
        mce(0x9c00_1800_0000_0000, 0x40, McContext::None, McVendor::Amd),
    );
    begin(&mut story, WORKER, 0, Some(false));
    story.sigbus(WORKER, QEMU, SigbusSeverity::ActionOptional, HVA, 12);
    end(&mut story, WORKER, "dirty LRU page", "Recovered", 0);
    assert_eq!(story.only().origin.how, OriginKind::FoundByScrubbing);
}

/// The record of a bank follows memory_failure(), from a worker, where the access was the thread's own.
#[test]
fn a_bank_that_is_reported_after_memory_failure_still_names_who_consumed() {
    let mut story = Story::new();
    story.vm();
    consumes(&mut story, None);
    story.at(
        WORKER,
        WORKER,
        mce(
            0xbd80_0000_0000_0134,
            PFN << 12,
            McContext::Guest,
            McVendor::Intel,
        ),
    );
    let origin = story.only().origin;
    assert_eq!(origin.how, OriginKind::ConsumedByGuest);
    assert_eq!(origin.basis, OriginBasis::MachineCheck);
    assert_eq!(origin.machine_check.unwrap().mcacod, Some(Hex(0x134)));
}

#[test]
fn an_error_of_another_page_or_time_is_not_this_ones() {
    let mut story = Story::new();
    story
        .vm()
        .at(
            VCPU1,
            QEMU,
            mce(
                0x9c00_1800_0000_0000,
                (PFN + 1) << 12,
                McContext::None,
                McVendor::Amd,
            ),
        )
        .wait(2_000 * MS);
    begin(&mut story, WORKER, 0, Some(false));
    story.sigbus(WORKER, QEMU, SigbusSeverity::ActionOptional, HVA, 12);
    end(&mut story, WORKER, "dirty LRU page", "Recovered", 0);
    let origin = story.only().origin;
    assert_eq!(origin.how, OriginKind::Unknown);
    assert_eq!(origin.machine_check, None);
}

/// What lets the daemon disarm the probes.
#[test]
fn poison_is_held_until_the_last_vmm_with_it_has_ended() {
    let holds = |story: &Story| {
        let mut correlator = Correlator::new(session());
        for event in &story.events {
            correlator.feed(event);
        }
        correlator.holds_poison(story.now)
    };
    let mut story = Story::new();
    story.vm();
    assert!(!holds(&story));
    story.poison(12);
    assert!(holds(&story));
    story.vmm_exit(9);
    assert!(!holds(&story));
    // A file's page that no process has: a VM may map it yet.
    story.lose(PFN + 7, |_| {});
    assert!(holds(&story));
    story.wait(3_700_000 * MS);
    assert!(!holds(&story));
}

/// guest_memfd: the page fault of the exit names the page.
#[test]
fn private_memory_is_named_by_the_page_fault() {
    let mut story = Story::new();
    story.vm().at(
        VCPU0,
        QEMU,
        EventKind::UserspaceExit {
            reason: 39,
            errno: -133,
            gpa: Some(Hex(GPA + 0x40)),
        },
    );
    let incident = story.only();
    assert_eq!(incident.cause, Cause::GuestMemfd);
    assert_eq!(incident.page.gpa, Some(Hex(GPA)));
}

/// A count that the kernel cut short is no exact one.
#[test]
fn runs_that_the_kernel_skipped_are_missing() {
    let mut story = Story::new();
    story.vm().poison(12);
    story.at(0, 0, EventKind::RunsMissed { runs: 3 });
    let incident = story.only();
    let runs = incident
        .missing
        .iter()
        .find(|missing| missing.kind == "runs")
        .unwrap();
    assert!(runs.message.contains("3 runs"), "{}", runs.message);
}
