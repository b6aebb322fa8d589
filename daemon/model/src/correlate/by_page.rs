//! Incidents by the addresses that logs name, so that a log of many pages costs a look-up per line, not a search through
//! all incidents. Kept only where logs are imported: live, no statement names a page of another's.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};

use super::IncidentNo;
use crate::incident::{evidence::Evidence, limits::PAGE_SIZE};

/// A page as a statement names it, and as an incident is known: pfn, HVA, GPA.
pub type Addresses = [Option<u64>; 3];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Pfn,
    Hva,
    Gpa,
}

/// What was noted of an incident, to take it back.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Noted {
    addresses: Addresses,
    shift: u32,
    /// It has guest addresses beside its own.
    more: bool,
}

/// See the module. Entries are candidates: each is held against its incident.
#[derive(Default)]
pub(super) struct ByPage {
    noted: BTreeMap<IncidentNo, Noted>,
    /// By the number of the page, in units of the poisoned page's own size.
    pages: BTreeSet<(Kind, u32, u64, IncidentNo)>,
    /// How many poisoned pages have a size, by its exponent.
    sizes: BTreeMap<u32, usize>,
    /// Without such an address.
    lacking: BTreeSet<(Kind, IncidentNo)>,
    /// With several guest addresses: looked at one by one.
    several: BTreeSet<IncidentNo>,
}

impl ByPage {
    pub fn note(&mut self, no: IncidentNo, e: &Evidence) {
        let smallest = PAGE_SIZE.trailing_zeros();
        let noted = Noted {
            addresses: [e.pfn, e.hva, e.gpa],
            shift: e.lsb.unwrap_or(smallest).clamp(smallest, u64::BITS - 1),
            more: !e.gpas.is_empty(),
        };
        if self.noted.get(&no) == Some(&noted) {
            return;
        }
        self.remove(no);
        for (kind, address) in kinds(noted.addresses) {
            match address {
                Some(address) => {
                    self.pages
                        .insert((kind, noted.shift, unit(kind, noted.shift, address), no));
                }
                None => {
                    self.lacking.insert((kind, no));
                }
            }
        }
        if noted.more {
            self.several.insert(no);
        }
        *self.sizes.entry(noted.shift).or_default() += 1;
        self.noted.insert(no, noted);
    }

    pub fn remove(&mut self, no: IncidentNo) {
        let Some(noted) = self.noted.remove(&no) else {
            return;
        };
        for (kind, address) in kinds(noted.addresses) {
            match address {
                Some(address) => {
                    self.pages
                        .remove(&(kind, noted.shift, unit(kind, noted.shift, address), no));
                }
                None => {
                    self.lacking.remove(&(kind, no));
                }
            }
        }
        self.several.remove(&no);
        if let Some(count) = self.sizes.get_mut(&noted.shift) {
            *count -= 1;
            if *count == 0 {
                self.sizes.remove(&noted.shift);
            }
        }
    }

    /// All incidents that may be of the page, oldest first.
    pub fn candidates(&self, named: Addresses) -> Vec<IncidentNo> {
        let mut found: Vec<IncidentNo> = self.several.iter().copied().collect();
        for (kind, address) in kinds(named) {
            let Some(address) = address else { continue };
            for shift in self.sizes.keys() {
                let at = unit(kind, *shift, address);
                // A range of the VMM's memory may begin within a unit, hence in the one before.
                for at in at.saturating_sub(1)..=at {
                    let same = self
                        .pages
                        .range((kind, *shift, at, 0)..=(kind, *shift, at, IncidentNo::MAX));
                    found.extend(same.map(|(.., no)| *no));
                }
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Those without an address of the first kind that is named, newest first.
    pub fn lacking(&self, named: Addresses) -> impl Iterator<Item = IncidentNo> + '_ {
        let kind = kinds(named)
            .into_iter()
            .find_map(|(kind, address)| address.map(|_| kind));
        let of_kind = kind.map(|kind| self.lacking.range((kind, 0)..=(kind, IncidentNo::MAX)).rev());
        of_kind.into_iter().flatten().map(|(_, no)| *no)
    }
}

fn kinds(addresses: Addresses) -> [(Kind, Option<u64>); 3] {
    let [pfn, hva, gpa] = addresses;
    [(Kind::Pfn, pfn), (Kind::Hva, hva), (Kind::Gpa, gpa)]
}

/// A frame's number is one of 4 KiB already, and is compared as it is.
fn unit(kind: Kind, shift: u32, address: u64) -> u64 {
    match kind {
        Kind::Pfn => address,
        Kind::Hva | Kind::Gpa => address >> shift,
    }
}
