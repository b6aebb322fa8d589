//! `cargo xtask lab storm --twice`: one storm in two boots. The emulator's time is a count of instructions, so the same
//! must come out; else its latencies could not be compared at all.

use std::fmt;

use anyhow::{Context, Result};
use serde_json::Value;

/// Of the larger one.
const LIMIT: f64 = 0.01;

/// A latency in both boots, nanoseconds.
pub struct Pair {
    name: String,
    first: u64,
    second: u64,
}

impl Pair {
    fn difference(&self) -> f64 {
        let larger = self.first.max(self.second).max(1);
        self.first.abs_diff(self.second) as f64 / larger as f64
    }

    pub fn agrees(&self) -> bool {
        self.difference() <= LIMIT
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let remark = if self.agrees() { "" } else { "  DIFFERENT" };
        write!(
            f,
            "{:26}{:>14}{:>14}{:>10.3} %{remark}",
            self.name,
            self.first,
            self.second,
            self.difference() * 100.0
        )
    }
}

pub const HEADING: &str = "\
Two boots, ns                      first        second  difference";

/// `first` and `second`: the one incident of each boot.
pub fn compare(first: &Value, second: &Value) -> Result<Vec<Pair>> {
    let mut pairs = Vec::new();
    for (name, distribution) in [
        ("exit_to_entry", "exit_to_entry"),
        ("in_kernel", "in_kernel"),
        ("gup", "gup"),
        ("vmm", "vmm"),
        ("bare exit", "baseline_exit/exit_to_entry"),
    ] {
        for value in ["p50", "p99", "max", "sum"] {
            let pointer = format!("/latency_ns/{distribution}/{value}");
            let ns = |incident: &Value| {
                let ns = incident.pointer(&pointer).and_then(Value::as_u64);
                ns.with_context(|| format!("the report has no {pointer}"))
            };
            pairs.push(Pair {
                name: format!("{name} {value}"),
                first: ns(first)?,
                second: ns(second)?,
            });
        }
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn one_percent_is_the_same_and_more_is_not() {
        let incident = |gup: u64| {
            let same = json!({"p50": 1000, "p99": 1000, "max": 1000, "sum": 64_000});
            json!({"latency_ns": {
                "exit_to_entry": same, "in_kernel": same, "vmm": same, "baseline_exit": {"exit_to_entry": same},
                "gup": {"p50": gup, "p99": 1000, "max": 1000, "sum": 64_000},
            }})
        };
        let wrong = |gup| -> Vec<String> {
            let pairs = compare(&incident(1000), &incident(gup)).unwrap();
            let pairs = pairs.into_iter().filter(|pair| !pair.agrees());
            pairs.map(|pair| pair.name).collect()
        };
        assert_eq!(wrong(1010), Vec::<String>::new());
        assert_eq!(wrong(1020), ["gup p50"]);
        assert!(compare(&incident(1), &json!({})).is_err());
    }
}
