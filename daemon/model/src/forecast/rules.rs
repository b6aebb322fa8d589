//! What comes before the guest: the host's settings and processor, what is behind the memory, and the VMM's handling of SIGBUS.

use alloc::{vec, vec::Vec};

use super::{
    Branch, Expected, Forecast, expected,
    facts::{Backing, HostFacts, Known, VmFacts},
    guest,
    machine_check::{self, Answer, not_touched},
    terms::{Basis, Condition, Notice, Page, Reason, Sigbus, VmmKind},
};
use crate::incident::{
    next_steps::NextStep,
    terms::{Cause, Outcome},
};

fn sure(expected: Expected) -> Forecast {
    Forecast::Outcome {
        expected,
        unless: Vec::new(),
    }
}

/// Cases that hang on a condition each; those of an answer get it in front of theirs.
fn cases(of: Vec<(Condition, Forecast)>) -> Forecast {
    let mut all = Vec::new();
    let mut unknowable = Vec::new();
    for (condition, forecast) in of {
        let mut under = |when: Vec<Condition>, expected: Expected| {
            let when = [condition].into_iter().chain(when).collect();
            all.push(Branch { when, expected });
        };
        match forecast {
            Forecast::Outcome { expected, unless } => {
                under(Vec::new(), expected);
                unless
                    .into_iter()
                    .for_each(|branch| under(branch.when, branch.expected));
            }
            Forecast::Cases(cases) => cases
                .into_iter()
                .for_each(|branch| under(branch.when, branch.expected)),
            Forecast::Unknowable(reasons) => unknowable.extend(reasons),
            Forecast::NotPossible => {}
        }
    }
    match all.is_empty() {
        true => Forecast::Unknowable(unknowable),
        false => together(all),
    }
}

/// Cases that all come to the same are none.
fn together(cases: Vec<Branch>) -> Forecast {
    let same = |a: &Expected, b: &Expected| {
        (a.outcome, a.cause, &a.next_steps) == (b.outcome, b.cause, &b.next_steps)
    };
    match cases.first() {
        Some(first) if cases.iter().all(|case| same(&case.expected, &first.expected)) => {
            sure(first.expected.clone())
        }
        _ => Forecast::Cases(cases),
    }
}

/// The answer for one kind of page and notice.
pub fn forecast(host: &HostFacts, vm: &VmFacts, page: Page, notice: Notice) -> Forecast {
    if page == Page::Untouched && notice == Notice::ActionRequired {
        return Forecast::NotPossible;
    }
    match host.recovery {
        Known::Not(reason) => return Forecast::Unknowable(vec![reason]),
        // memory_failure(): "Memory failure on page %lx", panic().
        Known::Is(false) => {
            return sure(expected(
                Outcome::HostPanicked,
                Cause::FatalNotification,
                &[Basis::RecoveryOff],
                &[NextStep::EnableRecovery],
            ));
        }
        Known::Is(true) => {}
    }
    if notice == Notice::ActionOptional {
        return by_memory(host, vm, page, notice);
    }
    let lost = || {
        sure(expected(
            Outcome::HostPanicked,
            Cause::FatalNotification,
            &[Basis::HostCannotRecover],
            &[NextStep::UseRecoveringHost],
        ))
    };
    match host.recovers {
        Known::Is(true) => by_memory(host, vm, page, notice),
        Known::Is(false) => lost(),
        Known::Not(_) => cases(vec![
            (Condition::HostRecovers, by_memory(host, vm, page, notice)),
            (Condition::HostCannotRecover, lost()),
        ]),
    }
}

fn by_memory(host: &HostFacts, vm: &VmFacts, page: Page, notice: Notice) -> Forecast {
    let Known::Is(backing) = &vm.backing else {
        // Nothing but private memory and what is pinned changes more than the size of the loss.
        return by_vmm(host, vm, page, notice, false);
    };
    if backing.guest_memfd {
        return cases(vec![
            (Condition::PrivatePage, private(page)),
            (Condition::SharedPage, by_size(host, vm, backing, page, notice)),
        ]);
    }
    by_size(host, vm, backing, page, notice)
}

/// guest_memfd: no SIGBUS; KVM_RUN fails with EHWPOISON at the next access, upon which QEMU stops the guest.
fn private(page: Page) -> Forecast {
    sure(match page {
        Page::Untouched => not_touched(),
        _ => expected(
            Outcome::Unknown,
            Cause::GuestMemfd,
            &[Basis::PrivateMemory],
            &[NextStep::RestartPrivateGuest],
        ),
    })
}

fn by_size(host: &HostFacts, vm: &VmFacts, backing: &Backing, page: Page, notice: Notice) -> Forecast {
    let huge = |huge| by_vmm(host, vm, page, notice, huge);
    match backing.in_hugetlb() {
        Some(true) => huge(true),
        Some(false) => by_pins(backing, notice, || huge(false)),
        None => cases(vec![
            (Condition::HugetlbPage, huge(true)),
            (Condition::SmallPage, by_pins(backing, notice, || huge(false))),
        ]),
    }
}

/// A transparent huge page that is pinned cannot be split (`try_to_split_thp_page()`), and stays in use.
fn by_pins(backing: &Backing, notice: Notice, otherwise: impl Fn() -> Forecast) -> Forecast {
    if !backing.vfio {
        return otherwise();
    }
    let outcome = match notice {
        Notice::ActionOptional => Outcome::Running,
        Notice::ActionRequired => Outcome::VmmKilled,
    };
    let stays = || {
        sure(expected(
            outcome,
            Cause::UnmapFailed,
            &[Basis::PinnedHugePage],
            &[NextStep::AvoidPinnedThp],
        ))
    };
    match backing.in_transparent() {
        Some(true) => stays(),
        Some(false) => otherwise(),
        None => cases(vec![
            (Condition::TransparentHugePage, stays()),
            (Condition::SmallPage, otherwise()),
        ]),
    }
}

/// Whether the VMM gets a signal before anything accesses the page.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Early {
    No,
    /// It asked for it (PR_MCE_KILL_EARLY).
    Asked,
    /// vm.memory_failure_early_kill is 1.
    ByHost,
}

/// `None`: it is not known. QEMU asks; Firecracker, cloud-hypervisor and crosvm do not; nothing shows it of another program.
fn early(host: &HostFacts, vm: &VmFacts, sigbus: Sigbus, page: Page, notice: Notice) -> Option<Early> {
    if notice == Notice::ActionRequired {
        return Some(Early::No);
    }
    if vm.kind == VmmKind::Qemu && sigbus == Sigbus::Caught {
        return Some(Early::Asked);
    }
    match host.early_kill {
        Known::Is(true) => Some(Early::ByHost),
        // Where the guest accesses the page it changes nothing.
        Known::Is(false) if vm.kind != VmmKind::Other || page != Page::Untouched => Some(Early::No),
        Known::Is(false) | Known::Not(_) => None,
    }
}

/// `huge`: a whole huge page of hugetlbfs is lost.
fn by_vmm(host: &HostFacts, vm: &VmFacts, page: Page, notice: Notice, huge: bool) -> Forecast {
    let sigbus = match vm.sigbus {
        Known::Is(sigbus) => sigbus,
        Known::Not(reason) => return Forecast::Unknowable(vec![reason]),
    };
    let of = |early| signalled(host, vm, page, notice, sigbus, early, huge);
    match early(host, vm, sigbus, page, notice) {
        Some(early) => of(early),
        None => cases(vec![
            (Condition::EarlyNotice, of(Early::Asked)),
            (Condition::NoEarlyNotice, of(Early::No)),
        ]),
    }
}

fn signalled(
    host: &HostFacts,
    vm: &VmFacts,
    page: Page,
    notice: Notice,
    sigbus: Sigbus,
    early: Early,
    huge: bool,
) -> Forecast {
    if page == Page::Untouched && early == Early::No {
        return sure(not_touched());
    }
    let dies = |outcome, basis: Basis| {
        let (basis, steps) = match early {
            Early::ByHost => (vec![Basis::EarlyKill, basis], [NextStep::DisableEarlyKill]),
            Early::Asked | Early::No => (vec![basis], [NextStep::AvoidVmm]),
        };
        sure(expected(outcome, Cause::SigbusUnhandled, &basis, &steps))
    };
    match (sigbus, vm.kind) {
        (Sigbus::Default, _) => dies(Outcome::VmmKilled, Basis::SigbusDefault),
        // force_sig_mceerr() overrides both; KVM's own signal for a page that is lost already (send_sig_mceerr()) does not.
        (Sigbus::Ignored | Sigbus::Blocked, _) => {
            let basis = match sigbus {
                Sigbus::Ignored => Basis::SigbusIgnored,
                _ => Basis::SigbusBlocked,
            };
            match (notice, page) {
                (Notice::ActionRequired, _) => dies(Outcome::VmmKilled, basis),
                (_, Page::Untouched) => sure(not_touched()),
                _ => sure(expected(
                    Outcome::Running,
                    Cause::SigbusSpin,
                    &[basis],
                    &[NextStep::AvoidVmm],
                )),
            }
        }
        (Sigbus::Caught, VmmKind::Qemu) => qemu(host, vm, page, notice, huge),
        (Sigbus::Caught, VmmKind::Firecracker) => dies(Outcome::VmmExited, Basis::VmmExits),
        // The handler is that of Rust's runtime, which looks for overflows of the stack and takes itself away.
        (Sigbus::Caught, VmmKind::CloudHypervisor | VmmKind::Crosvm) => {
            dies(Outcome::VmmKilled, Basis::RuntimeHandler)
        }
        (Sigbus::Caught, VmmKind::Other) => unknown_handler(host, vm, page, huge),
    }
}

/// What an unknown program's handler does is not to be seen from outside.
fn unknown_handler(host: &HostFacts, vm: &VmFacts, page: Page, huge: bool) -> Forecast {
    let kinds = guest::kinds(host, vm);
    let injected = kinds.iter().map(|kind| {
        let answer = match page {
            // An early notice, as QEMU passes it on.
            Page::Untouched => machine_check::qemu(&kind.guest, kind.first, page, Notice::ActionOptional),
            _ => machine_check::set_mce(&kind.guest, page).map(|e| (with_size(e, page, huge), Vec::new())),
        };
        (kind.when.clone(), answer)
    });
    let ends = expected(
        Outcome::VmmExited,
        Cause::SigbusUnhandled,
        &[Basis::VmmExits],
        &[NextStep::AvoidVmm],
    );
    let swallows = match page {
        Page::Untouched => not_touched(),
        _ => expected(Outcome::Running, Cause::SigbusSpin, &[], &[NextStep::AvoidVmm]),
    };
    cases(vec![
        (Condition::VmmInjects, by_kind(injected.collect())),
        (Condition::VmmEnds, sure(ends)),
        (Condition::VmmSwallows, sure(swallows)),
    ])
}

fn qemu(host: &HostFacts, vm: &VmFacts, page: Page, notice: Notice, huge: bool) -> Forecast {
    let kinds = guest::kinds(host, vm);
    let answers = kinds.iter().map(|kind| {
        let answer = machine_check::qemu(&kind.guest, kind.first, page, notice);
        let answer = answer.map(|(e, unless)| {
            let unless = unless.into_iter().map(|branch| Branch {
                expected: with_size(branch.expected, page, huge),
                ..branch
            });
            (with_size(e, page, huge), unless.collect())
        });
        (kind.when.clone(), answer)
    });
    let mut answers: Vec<(Vec<Condition>, Answer)> = answers.collect();
    // An early notice that decides alone came to the first vCPU, whichever vCPU would have met the page.
    if notice == Notice::ActionOptional
        && let Some(lost) = by_first_alone(&kinds, page)
    {
        answers.retain(|_| false);
        answers.push((Vec::new(), Ok((lost, Vec::new()))));
    }
    by_kind(answers)
}

/// The first vCPU's answer to a page that nothing touches, where that is a loss.
fn by_first_alone(kinds: &[guest::Kind], page: Page) -> Option<Expected> {
    let [first] = *kinds.iter().filter(|kind| kind.first).collect::<Vec<_>>() else {
        return None;
    };
    let (alone, _) = machine_check::qemu(&first.guest, true, Page::Untouched, Notice::ActionOptional).ok()?;
    (super::is_loss(&alone) || page == Page::Untouched).then_some(alone)
}

/// QEMU names 4 KiB of a huge page; the rest of it is lost as well, and a kernel that knows nothing of that meets it by itself.
fn with_size(e: Expected, page: Page, huge: bool) -> Expected {
    match (huge, page, e.outcome) {
        (true, Page::GuestProcess, Outcome::Survived) => expected(
            Outcome::GuestPanicked,
            Cause::KernelAccess,
            &[Basis::HugePage, Basis::KernelMode],
            &[NextStep::AvoidHugePages],
        ),
        _ => e,
    }
}

fn by_kind(answers: Vec<(Vec<Condition>, Answer)>) -> Forecast {
    let mut branches: Vec<Branch> = Vec::new();
    let mut reasons: Vec<(Vec<Condition>, Reason)> = Vec::new();
    let mut exceptions: Vec<Branch> = Vec::new();
    let single = answers.len() == 1;
    for (when, answer) in answers {
        match answer {
            Ok((expected, unless)) => {
                for branch in unless {
                    let when = when.iter().copied().chain(branch.when).collect();
                    exceptions.push(Branch {
                        when,
                        expected: branch.expected,
                    });
                }
                branches.push(Branch { when, expected });
            }
            Err(reason) => reasons.push((when, reason)),
        }
    }
    if branches.is_empty() {
        let mut reasons: Vec<Reason> = reasons.into_iter().map(|(_, reason)| reason).collect();
        reasons.dedup();
        return Forecast::Unknowable(reasons);
    }
    // One case among others of which nothing follows.
    branches.extend(reasons.into_iter().map(|(when, _)| Branch {
        when,
        expected: expected(
            Outcome::Unknown,
            Cause::Unknown,
            &[Basis::PlainRetry],
            &[NextStep::UseHostVendor],
        ),
    }));
    if single && let Some(only) = branches.pop() {
        return Forecast::Outcome {
            expected: only.expected,
            unless: exceptions,
        };
    }
    match exceptions.is_empty() {
        true => together(branches),
        false => {
            branches.extend(exceptions);
            Forecast::Cases(branches)
        }
    }
}
