//! The forecast: what an error in a guest's memory would do, asked before it happens. Facts in, outcome and cause out: the rules of
//! the verdict (`crate::incident::verdict`) the other way round. What is not known is stated with its reason; where the answer
//! hangs on it, each case is given.
//!
//! | part | holds |
//! |---|---|
//! | [`facts`] | of the host, of a VM, of its vCPUs, each known or not |
//! | [`terms`] | the words of the answer |
//! | `guest` | a guest's machine checks: known, or each that it may have |
//! | `rules` | host, memory and VMM: what comes before the guest |
//! | `machine_check` | what a QEMU guest's processor and kernel make of it |

pub mod facts;
mod guest;
mod machine_check;
mod rules;
pub mod terms;

#[cfg(test)]
mod tests;

use alloc::{collections::BTreeMap, vec::Vec};

use crate::incident::{
    next_steps::NextStep,
    terms::{Cause, Outcome},
};
use facts::{HostFacts, VmFacts};
use terms::{Basis, Condition, Notice, Page, Reason};

/// What is to be expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// What would become of the guest.
    pub outcome: Outcome,
    /// Why.
    pub cause: Cause,
    /// The facts that it rests on.
    pub basis: Vec<Basis>,
    /// What to change.
    pub next_steps: Vec<NextStep>,
}

/// One answer.
fn expected(outcome: Outcome, cause: Cause, basis: &[Basis], steps: &[NextStep]) -> Expected {
    Expected {
        outcome,
        cause,
        basis: basis.to_vec(),
        next_steps: steps.to_vec(),
    }
}

/// What is to be expected where all of `when` holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Branch {
    /// What is not known, or not decided yet.
    pub when: Vec<Condition>,
    /// The answer in that case.
    pub expected: Expected,
}

/// The answer for one kind of page and of notice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Forecast {
    /// The likely outcome, and when there would be another.
    Outcome {
        /// The likely one.
        expected: Expected,
        /// Exceptions.
        unless: Vec<Branch>,
    },
    /// It hangs on facts that are not known.
    Cases(Vec<Branch>),
    /// It cannot be known.
    Unknowable(Vec<Reason>),
    /// An error is not consumed in a page that nothing accesses.
    NotPossible,
}

/// The answer about one VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmForecast {
    /// Each kind of page with each kind of notice.
    pub entries: Vec<(Page, Notice, Forecast)>,
}

/// Applies the rules.
pub fn forecast(host: &HostFacts, vm: &VmFacts) -> VmForecast {
    let pages = Page::ALL.iter();
    let both = pages.flat_map(|page| Notice::ALL.iter().map(|notice| (*page, *notice)));
    let entries = both.map(|(page, notice)| (page, notice, rules::forecast(host, vm, page, notice)));
    VmForecast {
        entries: entries.collect(),
    }
}

/// One outcome and cause of a VM, for counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Headline {
    /// Its place in [`Outcome::ALL`] decides nothing; see [`VmForecast::headline`].
    pub outcome: Word,
    /// Why.
    pub cause: Word,
    /// The guest would be lost ([`is_loss`]).
    pub lost: bool,
    /// A setting of the host or of the guest's definition would change it.
    pub setting_mends: bool,
}

/// VMs by their headlines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// By outcome and cause.
    pub by_headline: BTreeMap<(Word, Word), u64>,
    /// All of them.
    pub vms: u64,
    /// Those that would be lost.
    pub lost: u64,
    /// Of these, those that a setting would save.
    pub setting_mends: u64,
    /// Those of which it cannot be known.
    pub unknown: u64,
    /// Processes that could not be looked at: VMs may be among them.
    pub hidden: u64,
}

impl Counts {
    /// Counts them.
    pub fn of<'a>(forecasts: impl Iterator<Item = &'a VmForecast>) -> Self {
        let mut counts = Self::default();
        for headline in forecasts.map(VmForecast::headline) {
            *counts
                .by_headline
                .entry((headline.outcome, headline.cause))
                .or_default() += 1;
            counts.vms += 1;
            counts.lost += u64::from(headline.lost);
            counts.setting_mends += u64::from(headline.setting_mends);
            counts.unknown += u64::from(!headline.lost && headline.outcome == Outcome::Unknown.word());
        }
        counts
    }
}

/// A stable word of [`Outcome`] or [`Cause`].
pub type Word = &'static str;

/// Whether the guest is gone, or stuck for good.
pub const fn is_loss(expected: &Expected) -> bool {
    match expected.outcome {
        Outcome::GuestPanicked
        | Outcome::HostPanicked
        | Outcome::GuestReset
        | Outcome::VmmKilled
        | Outcome::VmmExited => true,
        // A vCPU that gets no further, or a page that stays in use.
        Outcome::Running => !matches!(expected.cause, Cause::NotTouched),
        Outcome::Unknown => matches!(expected.cause, Cause::GuestMemfd),
        Outcome::Unaffected | Outcome::Survived => false,
    }
}

impl Forecast {
    /// The one outcome: also of cases that agree in it. The first case is that of most vCPUs.
    pub fn single(&self) -> Option<&Expected> {
        match self {
            Self::Outcome { expected, .. } => Some(expected),
            Self::Cases(cases) => {
                let first = &cases.first()?.expected;
                cases
                    .iter()
                    .all(|case| case.expected.outcome == first.outcome)
                    .then_some(first)
            }
            Self::Unknowable(_) | Self::NotPossible => None,
        }
    }

    /// Each answer that is possible.
    pub fn all(&self) -> impl Iterator<Item = &Expected> {
        let (one, cases): (Option<&Expected>, &[Branch]) = match self {
            Self::Outcome { expected, unless } => (Some(expected), unless),
            Self::Cases(cases) => (None, cases),
            Self::Unknowable(_) | Self::NotPossible => (None, &[]),
        };
        one.into_iter().chain(cases.iter().map(|case| &case.expected))
    }
}

impl VmForecast {
    /// The answer for this kind of page and notice.
    pub fn of(&self, page: Page, notice: Notice) -> Option<&Forecast> {
        let mut entries = self.entries.iter();
        entries
            .find(|(p, n, _)| *p == page && *n == notice)
            .map(|(.., f)| f)
    }

    /// What an error in the memory of a process of the guest would do: the memory that a guest has most of. Of the two notices
    /// the one by which the guest is lost, if there is one; `unknown` where that hangs on what is not known.
    pub fn headline(&self) -> Headline {
        let of = |notice| self.of(Page::GuestProcess, notice).and_then(Forecast::single);
        let (optional, required) = (of(Notice::ActionOptional), of(Notice::ActionRequired));
        let lost = [optional, required].into_iter().flatten().find(|e| is_loss(e));
        let chosen = match (lost, optional, required) {
            (Some(lost), ..) => Some(lost),
            (None, Some(optional), Some(_)) => Some(optional),
            _ => None,
        };
        match chosen {
            Some(e) => Headline {
                outcome: e.outcome.word(),
                cause: e.cause.word(),
                lost: is_loss(e),
                setting_mends: is_loss(e) && e.next_steps.iter().any(NextStep::is_setting),
            },
            None => Headline {
                outcome: Outcome::Unknown.word(),
                cause: Cause::Unknown.word(),
                lost: false,
                setting_mends: false,
            },
        }
    }
}
