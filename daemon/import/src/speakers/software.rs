//! Machine checks that software of the same kernel injects (mce-inject): what its kernel does about them is real, the loss is
//! not.

use crate::text::Item;
use poisontrace_model::event::log_statement::LogStatement;

/// Lines, and nanoseconds, between an injection and what its kernel states about it.
const WITHIN_LINES: u64 = 64;
const WITHIN_NS: u64 = 5_000_000_000;

/// By statement of a kernel's boot: the injection that it comes of.
pub fn injections<'a>(items: &[&'a Item]) -> Vec<Option<&'a Item>> {
    let mut last: Option<&Item> = None;
    items
        .iter()
        .map(|item| {
            if matches!(item.statement, LogStatement::SoftwareMachineCheck { .. }) {
                last = Some(item);
                return None;
            }
            last.filter(|injection| comes_of(injection, item))
        })
        .collect()
}

fn comes_of(injection: &Item, item: &Item) -> bool {
    let lines = item.line.abs_diff(injection.line) <= WITHIN_LINES;
    let soon = match (injection.stamp.boot, item.stamp.boot) {
        (Some(injection), Some(item)) => item.abs_diff(injection) <= WITHIN_NS,
        _ => true,
    };
    lines && soon
}
