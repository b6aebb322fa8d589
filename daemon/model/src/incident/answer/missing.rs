//! Missing evidence: what was absent for a verdict.

use alloc::vec::Vec;

use crate::{
    event::{
        OtherAddress,
        probe::{ProbeId, ProbeStatus},
        session::Session,
    },
    hex::Hex,
    incident::{
        evidence::Evidence,
        exits::Total,
        missing::MissingEvidence,
        model::{Cause, Flush, FlushBasis, FlushVerdict, Outcome},
        termination::Termination,
        verdict::Verdict,
    },
};

/// The evidence that was absent for this verdict.
pub fn missing(
    e: &Evidence,
    total: &Total,
    flush: &Flush,
    v: Verdict,
    session: &Session,
) -> Vec<MissingEvidence> {
    use MissingEvidence as M;
    let mut missing = Vec::new();
    let mut note = |absent: bool, what: M| {
        if absent {
            missing.push(what);
        }
    };
    let died = matches!(v.outcome, Outcome::GuestPanicked | Outcome::GuestReset);
    let panic_seen = e
        .sign(|sign| matches!(sign, Termination::Panic | Termination::CrashLoaded))
        .is_some();
    note(died, M::GuestConsole);
    note(
        died && !panic_seen && v.outcome == Outcome::GuestPanicked,
        M::PanicDevice,
    );
    note(v.cause == Cause::MceDisabled && e.mce_enabled.is_none(), M::Cr4);
    note(v.cause == Cause::MceDropped, M::SetMceResult);
    note(v.cause == Cause::VmmOwnMemory, M::Memslots);
    note(
        v.cause == Cause::NotPoison && e.ends.iter().any(|end| end.sign == Termination::VmmExit(7)),
        M::SigbusCode,
    );
    note(e.joined_by_time, M::FailureSignal);
    note(
        flush.verdict == FlushVerdict::Undetermined && e.exits.any(),
        M::InstructionBytes,
    );
    note(flush.basis == FlushBasis::LineWalk, M::WalkInstructionBytes);
    if let Some(walk) = &total.walk {
        let rip = Hex(walk.rip);
        let lines = walk.missing();
        note(lines != 0, M::WalkLines { rip, lines });
        let exits = walk.unplaced;
        note(exits > 0, M::WalkAddresses { rip, exits });
    }
    // Nothing but flushes, and no signal before the first: the guest knew of the page by an injection that was not seen.
    let knew_before = flush.verdict == FlushVerdict::FlushOnly && e.exits.any();
    note(
        knew_before && e.ao_signals + e.own_access == 0,
        M::EarlierInjections,
    );
    note(e.pfn.is_none() && v.cause != Cause::GuestMemfd, M::MemoryFailure);
    note(e.predates, M::EarlierMemoryFailure);
    note(
        v.cause == Cause::GuestMemfd && e.gpa.is_none(),
        M::PrivatePageAddress,
    );
    match e.other_address {
        Some(OtherAddress::Virtual(_)) => note(true, M::GpaUnderShadowPaging),
        Some(OtherAddress::Nested(_)) => note(true, M::GpaOfNestedGuest),
        None => note(e.gpa.is_none() && v.cause != Cause::GuestMemfd, M::Gpa),
    }
    note(e.vmm.is_vmm != Some(true), M::VmmProcess);
    note(e.vmm.is_vmm == Some(true) && e.vmm.name.is_none(), M::VmName);
    note(
        !e.exits.any() && e.hardware.consumed.is_none() && e.action_required(total) > e.own_access,
        M::PoisonExit,
    );
    note(e.blind_ns > 0, M::EarlyTermination { ns: e.blind_ns });
    let exits = e.exits.recovered;
    let delay = e.attach_delay;
    note(exits.exits > 0, M::FirstExitTimes { exits, delay });
    note(e.lost > 0, M::Records { count: e.lost });
    note(e.runs_missed > 0, M::Runs { count: e.runs_missed });
    // What the instruction's probe would have shown is known in another way.
    let known = |status: &ProbeStatus| {
        status.probe == ProbeId::Instruction && flush.basis == FlushBasis::InstructionBytes
    };
    let absent = session.probes.iter().filter(|status| status.binding.is_none());
    missing.extend(absent.filter(|status| !known(status)).cloned().map(M::Probe));
    missing
}
