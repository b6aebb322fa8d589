//! What QEMU injects for an error, and what the guest makes of it: `kvm_arch_on_sigbus_vcpu()`, `kvm_mce_inject()` and
//! `do_inject_x86_mce()` of QEMU 5.2 to 10.2, then `mce_severity()` of a Linux guest (arch/x86/kernel/cpu/mce/severity.c).

use alloc::{vec, vec::Vec};

use super::{
    Branch, Expected, expected,
    guest::Guest,
    terms::{Basis, Condition, Notice, Page, Reason},
};
use crate::incident::{
    next_steps::NextStep,
    terms::{Cause, Outcome},
};

/// What comes of it, and the exceptions.
pub type Answer = Result<(Expected, Vec<Branch>), Reason>;

/// What an early notice leaves behind.
enum Noticed {
    /// The guest is lost, or stuck, by the notice alone.
    Lost(Expected),
    /// The guest's kernel took the page out of use: its process is killed when it touches it.
    Handled,
    /// It waits in the bank for the guest's kernel to read it.
    Deferred,
    /// The guest's handler returned without ending the machine check.
    Unfinished,
    /// Nothing came into the guest.
    Ignored,
}

/// `first`: the vCPU that meets the page is the one that got the early notice.
pub fn qemu(guest: &Guest, first: bool, page: Page, notice: Notice) -> Answer {
    if !guest.vmm_injects {
        return Ok((without_injection(page), Vec::new()));
    }
    let noticed = match notice {
        Notice::ActionRequired => Noticed::Ignored,
        Notice::ActionOptional => early_notice(guest),
    };
    match (noticed, page) {
        (Noticed::Lost(lost), _) => Ok((lost, Vec::new())),
        (Noticed::Handled, Page::GuestProcess | Page::Untouched) => Ok((contained(&[]), Vec::new())),
        // Its handler took nothing out of use, and is not wanted again.
        (Noticed::Deferred | Noticed::Ignored | Noticed::Unfinished, Page::Untouched) => {
            Ok((not_touched(), Vec::new()))
        }
        // A page of the kernel cannot be taken from it: it meets the error when it reads the page.
        (Noticed::Handled, Page::GuestKernel) => access(guest, page).map(|e| (e, Vec::new())),
        (Noticed::Ignored, _) => access(guest, page).map(|e| (e, Vec::new())),
        (Noticed::Unfinished, _) => access(
            &Guest {
                in_progress: true,
                ..*guest
            },
            page,
        )
        .map(|e| (e, Vec::new())),
        (Noticed::Deferred, _) => deferred(guest, first, page),
    }
}

/// Without MCG_SER_P QEMU ignores an early notice, and ends itself for an access.
fn without_injection(page: Page) -> Expected {
    match page {
        Page::Untouched => not_touched(),
        _ => expected(
            Outcome::VmmExited,
            Cause::SigbusUnhandled,
            &[Basis::NoMachineChecks],
            &[NextStep::EnableMachineChecks],
        ),
    }
}

fn early_notice(guest: &Guest) -> Noticed {
    if guest.in_progress {
        return Noticed::Ignored;
    }
    // Without UC: no test of CR4.MCE, no #MC.
    if guest.amd && guest.defers {
        return Noticed::Deferred;
    }
    if !guest.controls_on {
        return Noticed::Ignored;
    }
    if !guest.mce_enabled {
        return Noticed::Lost(disabled());
    }
    if guest.mce_off {
        return Noticed::Unfinished;
    }
    if guest.amd {
        // Intel's status, without DEFERRED: an uncorrected error.
        return match (guest.bank_held && !guest.overflow_recov, guest.succor) {
            (true, _) => Noticed::Lost(overflow(guest, Basis::BankHeld)),
            (false, false) => Noticed::Lost(expected(
                Outcome::GuestPanicked,
                Cause::FatalNotification,
                &[Basis::IntelInjection, Basis::NoSuccor],
                &[NextStep::UpdateQemu],
            )),
            (false, true) => Noticed::Handled,
        };
    }
    match guest.ser {
        true => Noticed::Handled,
        false => Noticed::Lost(no_error_recovery()),
    }
}

/// The deferred error is in the bank of the first vCPU until the guest's kernel reads it (machine_check_poll(), each five minutes
/// by default), which takes the page out of its use.
fn deferred(guest: &Guest, first: bool, page: Page) -> Answer {
    let waits = Guest {
        bank_held: guest.bank_held || first,
        ..*guest
    };
    let mut met = access(&waits, page)?;
    if !first || guest.bank_held || met.cause != Cause::MceOverflow {
        return Ok((met, Vec::new()));
    }
    for basis in &mut met.basis {
        if *basis == Basis::BankHeld {
            *basis = Basis::DeferredUnread;
        }
    }
    let after = match page {
        Page::GuestKernel => access(guest, page)?,
        Page::GuestProcess | Page::Untouched => contained(&[Basis::GuestRecovers]),
    };
    let read_before = Branch {
        when: vec![Condition::BankRead],
        expected: after,
    };
    Ok((met, vec![read_before]))
}

/// The vCPU accesses the page: an action-required error.
fn access(guest: &Guest, page: Page) -> Result<Expected, Reason> {
    let reset = |cause, basis: Basis, step| expected(Outcome::GuestReset, cause, &[basis], &[step]);
    // AMD's status has no AR: QEMU takes it for an early notice, and leaves it out.
    let skips = guest.amd && guest.defers;
    let nested = |basis: Basis| match skips {
        true => expected(
            Outcome::Running,
            Cause::MceNested,
            &[basis],
            &[NextStep::RestartBeforeError],
        ),
        false => reset(Cause::MceNested, basis, NextStep::RestartBeforeError),
    };
    if guest.in_progress && skips {
        return Ok(nested(Basis::InProgress));
    }
    if !guest.controls_on {
        return Ok(expected(
            Outcome::Running,
            Cause::SigbusSpin,
            &[Basis::ControlsOff],
            &[NextStep::FixMceControls],
        ));
    }
    if !guest.mce_enabled {
        return Ok(disabled());
    }
    if guest.in_progress {
        return Ok(match guest.mce_off {
            true => mce_off(nested(Basis::MceOffRequested)),
            false => nested(Basis::InProgress),
        });
    }
    if guest.mce_off {
        return Ok(mce_off(nested(Basis::MceOffRequested)));
    }
    match guest.amd {
        true => Ok(amd(guest, page)),
        false => intel(guest, page),
    }
}

/// `mce_severity_amd()`.
fn amd(guest: &Guest, page: Page) -> Expected {
    if guest.bank_held && !guest.overflow_recov {
        return overflow(guest, Basis::BankHeld);
    }
    if !guest.succor {
        return expected(
            Outcome::GuestPanicked,
            Cause::FatalNotification,
            &[Basis::NoSuccor],
            &[NextStep::AddOverflowRecovery],
        );
    }
    consumed(page)
}

/// `mce_severity_intel()`.
fn intel(guest: &Guest, page: Page) -> Result<Expected, Reason> {
    if guest.bank_held {
        return Ok(overflow(guest, Basis::BankHeld));
    }
    match (guest.ser, page) {
        (true, _) => Ok(consumed(page)),
        (false, Page::GuestKernel) => Ok(expected(
            Outcome::GuestPanicked,
            Cause::KernelAccess,
            &[Basis::NoErrorRecovery, Basis::KernelMode],
            &[NextStep::UseHostVendor],
        )),
        // "Uncorrected", below MCE_AR_SEVERITY: the handler returns, and the process meets the page again.
        (false, _) => Err(Reason::PlainRetry),
    }
}

fn consumed(page: Page) -> Expected {
    match page {
        Page::GuestKernel => expected(
            Outcome::GuestPanicked,
            Cause::KernelAccess,
            &[Basis::KernelMode],
            &[],
        ),
        _ => contained(&[Basis::GuestRecovers]),
    }
}

fn overflow(guest: &Guest, held: Basis) -> Expected {
    let (basis, step) = match guest.amd {
        true => (
            vec![held, Basis::NoOverflowRecovery],
            NextStep::AddOverflowRecovery,
        ),
        false => (vec![held], NextStep::RestartBeforeError),
    };
    expected(Outcome::GuestPanicked, Cause::MceOverflow, &basis, &[step])
}

fn no_error_recovery() -> Expected {
    expected(
        Outcome::GuestPanicked,
        Cause::FatalNotification,
        &[Basis::NoErrorRecovery],
        &[NextStep::UseHostVendor],
    )
}

fn disabled() -> Expected {
    expected(
        Outcome::GuestReset,
        Cause::MceDisabled,
        &[Basis::MachineChecksOff],
        &[NextStep::EnableMachineChecks],
    )
}

fn mce_off(e: Expected) -> Expected {
    Expected {
        next_steps: vec![NextStep::EnableMachineChecks],
        ..e
    }
}

/// Nothing of the guest meets it.
pub fn not_touched() -> Expected {
    expected(Outcome::Unaffected, Cause::NotTouched, &[Basis::NoAccess], &[])
}

fn contained(basis: &[Basis]) -> Expected {
    expected(Outcome::Survived, Cause::Contained, basis, &[])
}

/// The same by a VMM that calls KVM_X86_SET_MCE, as far as KVM decides it (`kvm_vcpu_ioctl_x86_set_mce()`); the rest is
/// the guest's.
pub fn set_mce(guest: &Guest, page: Page) -> Result<Expected, Reason> {
    let of = |outcome, cause, basis: Basis, step| {
        Ok(expected(outcome, cause, &[Basis::VmmInjects, basis], &[step]))
    };
    if !guest.has_banks {
        return of(
            Outcome::VmmExited,
            Cause::SigbusUnhandled,
            Basis::NoMachineChecks,
            NextStep::EnableMachineChecks,
        );
    }
    if !guest.controls_on {
        return of(
            Outcome::Running,
            Cause::MceDropped,
            Basis::ControlsOff,
            NextStep::FixMceControls,
        );
    }
    if guest.in_progress {
        return of(
            Outcome::GuestReset,
            Cause::MceNested,
            Basis::InProgress,
            NextStep::RestartBeforeError,
        );
    }
    if !guest.mce_enabled {
        return of(
            Outcome::GuestReset,
            Cause::MceDisabled,
            Basis::MachineChecksOff,
            NextStep::EnableMachineChecks,
        );
    }
    match guest.amd {
        true => Ok(amd(guest, page)),
        false => intel(guest, page),
    }
}
