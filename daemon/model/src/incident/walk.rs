//! Walks: one instruction that goes over a page line by line, upwards, on one thread; also where some of its exits
//! were lost, or their addresses misread.
//!
//! | a walk has | why |
//! |---|---|
//! | [`WALK_LINES`] lines or more | fewer are in any structure that a kernel reads through |
//! | three lines of four between its first and its last | a stride of 128 bytes has one of two |
//! | its neighbouring lines one after the other, but for one of eight | random touches have them in any order |
//! | few moves beside the steps upwards | many random touches have every order somewhere |

use super::model::Confidence;
use crate::event::totals::{PageTotals, RipTotals};

/// Lines that make a walk.
pub const WALK_LINES: u32 = 8;
/// Lines from which on a walk is taken for one of the whole page.
pub const WHOLE_PAGE: u32 = 48;
/// Lines at an end of the page that such a walk may lack.
const EDGE: u32 = 2;
/// Mean steps that an exit at the end of a walk may lie from it.
const NEAR_STEPS: u64 = 16;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walk {
    /// The thread.
    pub tid: u32,
    /// `None`: its address is not the guest's own.
    pub page: Option<u64>,
    /// The guest's RIP.
    pub rip: u64,
    /// Bit n: line n was seen.
    pub lines: u64,
    /// Bit n: the walk must have passed line n.
    pub expected: u64,
    /// Exits for a write.
    pub writes: u64,
    /// Exits for an instruction fetch.
    pub fetches: u64,
    /// Exits of the walk without an address, or with one that the walk contradicts.
    pub unplaced: u64,
}

impl Walk {
    /// The longest walk among the RIPs of one thread on one page.
    pub fn of(tid: u32, gpa: Option<u64>, page: &PageTotals) -> Option<Self> {
        let walks = page.rips.iter().filter(|rip| is_walk(page, rip));
        let rip = walks.max_by_key(|rip| rip.lines.0.count_ones())?;
        Some(Self {
            tid,
            page: gpa,
            rip: rip.rip.0,
            lines: rip.lines.0,
            expected: expected(rip.lines.0),
            writes: rip.writes,
            fetches: rip.fetches,
            unplaced: 0,
        })
    }

    /// Lines that it must have passed and that no exit shows.
    pub const fn missing(&self) -> u64 {
        self.expected & !self.lines
    }

    /// How many exits the walk may have beside those that are known for its.
    pub fn room(&self) -> u64 {
        let ends = self.missing() & (1 | 1 << 63) == 0;
        let ends = u64::from(ends && self.may_begin_before()) + u64::from(ends && self.may_go_on());
        u64::from(self.missing().count_ones()) + ends
    }

    const fn may_begin_before(&self) -> bool {
        self.lines.count_ones() >= WHOLE_PAGE && self.lines & 1 == 0
    }

    const fn may_go_on(&self) -> bool {
        self.lines.count_ones() >= WHOLE_PAGE && self.lines >> 63 == 0
    }

    /// Certain without a hole; a hole in every eighth line is likely still a walk.
    pub fn confidence(&self) -> Confidence {
        let holes = u64::from(self.missing().count_ones()).max(self.unplaced);
        match holes {
            0 => Confidence::Certain,
            _ if holes * 8 <= u64::from(self.expected.count_ones()) => Confidence::Likely,
            _ => Confidence::Possible,
        }
    }

    /// Whether `odd`, the exits of the same thread on the page at `gpa`, are this walk's, and their address is misread:
    /// they are by its RIP and within its time. `page`: the walk's own exits; `counted`: the kernel counted so many more.
    pub fn contradicts(&self, page: &PageTotals, gpa: u64, odd: &PageTotals, counted: bool) -> bool {
        let only_rip = odd.other_rips == 0 && odd.rips.len() == 1 && odd.rips[0].rip.0 == self.rip;
        if self.page == Some(gpa) || !only_rip {
            return false;
        }
        let step = page.last_ns.saturating_sub(page.first_ns) / page.exits.max(2).saturating_sub(1);
        let near = |a: u64, b: u64| a.saturating_sub(b) <= step.saturating_mul(NEAR_STEPS);
        // A loop over several pages goes on in the next one.
        let neighbour = self
            .page
            .is_some_and(|page| page.abs_diff(gpa) <= super::limits::PAGE_SIZE);
        let before = (counted || self.may_begin_before()) && !neighbour && near(page.first_ns, odd.first_ns);
        let after = (counted || self.may_go_on()) && !neighbour && near(odd.last_ns, page.last_ns);
        (odd.first_ns > page.first_ns || before) && (odd.last_ns < page.last_ns || after)
    }
}

fn is_walk(page: &PageTotals, rip: &RipTotals) -> bool {
    let lines = rip.lines.0;
    let seen = lines.count_ones();
    if seen < WALK_LINES || seen * 4 < span(lines).count_ones() * 3 {
        return false;
    }
    let neighbours = u64::from((lines & (lines >> 1)).count_ones());
    let slack = u64::from(seen / 8);
    // The VMM may bounce a few times at each line.
    let moves = rip.exits.saturating_sub(1).saturating_sub(page.same_line);
    rip.ascending + slack >= neighbours
        && rip.ascending.saturating_mul(4) + u64::from(seen) >= moves.saturating_mul(3)
}

/// All lines from the lowest to the highest of these.
const fn span(lines: u64) -> u64 {
    if lines == 0 {
        return 0;
    }
    (u64::MAX << lines.trailing_zeros()) & (u64::MAX >> lines.leading_zeros())
}

const fn expected(lines: u64) -> u64 {
    let mut all = span(lines);
    if lines.count_ones() >= WHOLE_PAGE {
        if lines.trailing_zeros() <= EDGE {
            all |= (1 << EDGE) - 1;
        }
        if lines.leading_zeros() <= EDGE {
            all |= !(u64::MAX >> EDGE);
        }
    }
    all
}
