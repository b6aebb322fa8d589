//! Storms: many exits on one page, and of what kind.
//!
//! | kind | when |
//! |---|---|
//! | `page_touches` | a huge page, two or more of its 4 KiB pages touched |
//! | `line_walk` | one RIP goes over the lines upwards ([`super::walk`]): a CLFLUSH or CLWB loop, or loads of a stride of 64 |
//! | `same_line_spin` | [`SPIN_EXITS`] exits or more, nine of ten on the line of the exit before |
//!
//! The order counts: a walk at whose every line the VMM bounces a few times is a walk.

use super::{
    exits::Total,
    limits::{PAGE_SIZE, SPIN_EXITS},
    model::{Spin, Storm, StormKind},
};
use crate::hex::Hex;

/// The storm in these exits, if they are one. `size`: bytes lost.
pub fn storm(total: &Total, size: Option<u64>) -> Option<Storm> {
    let page = &total.page;
    let huge = size.is_some_and(|size| size > PAGE_SIZE);
    let (kind, spin) = if huge && total.lines_by_page.len() > 1 {
        (StormKind::PageTouches, None)
    } else if total.walk.is_some() {
        (StormKind::LineWalk, None)
    } else if page.exits >= SPIN_EXITS
        && page.same_line.saturating_mul(10) >= (page.exits - 1).saturating_mul(9)
    {
        let spin = if page.in_kernel * 2 > page.exits {
            Spin::InKernel
        } else {
            Spin::Bounced
        };
        (StormKind::SameLineSpin, Some(spin))
    } else {
        return None;
    };
    let walk = total.walk.as_ref().filter(|_| kind == StormKind::LineWalk);
    Some(Storm {
        kind,
        exits: page.exits,
        lines: total.distinct_lines(),
        duration_ns: (page.first_ns != 0 && page.last_entry_ns > page.first_ns)
            .then(|| page.last_entry_ns - page.first_ns),
        spin,
        missing_lines: walk
            .map(super::walk::Walk::missing)
            .filter(|lines| *lines != 0)
            .map(Hex),
        unknown_addresses: walk.map(|walk| walk.unplaced).filter(|exits| *exits > 0),
        confidence: walk.map(super::walk::Walk::confidence),
    })
}
