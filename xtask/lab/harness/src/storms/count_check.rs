//! poisontrace's counts, compared with the VMM's own.

use lab_protocol::storm::Counters;
use serde_json::Value;

pub struct Row {
    pub name: &'static str,
    pub vmm: String,
    pub poisontrace: String,
    /// This kernel need not show it: then it is unknown, but never another value.
    hidden: bool,
}

const UNKNOWN: &str = "unknown";

impl Row {
    pub fn agrees(&self) -> bool {
        self.poisontrace == self.vmm || (self.hidden && self.poisontrace == UNKNOWN)
    }
}

/// `incident` is one of `poisontrace explain --format json`; `hidden`: the rows that this kernel need not show.
pub fn compare(counters: &Counters, incident: &Value, hidden: &[&str]) -> Vec<Row> {
    let while_poisoning = |name: &str| {
        let signals = counters.sigbus_while_poisoning.iter();
        signals.filter(|signal| *signal == name).count() as u64
    };
    let mut numbers = vec![
        ("exits", "/exits/count", counters.exits),
        (
            "distinct lines",
            "/exits/distinct_lines",
            u64::from(counters.line_bitmap.count_ones()),
        ),
        ("distinct RIPs", "/exits/distinct_rips", counters.distinct_rips),
        (
            "SIGBUS, action required",
            "/signals/action_required",
            counters.sigbus_ar + while_poisoning("AR"),
        ),
        (
            "SIGBUS, action optional",
            "/signals/action_optional",
            counters.sigbus_ao + while_poisoning("AO"),
        ),
    ];
    if counters.injected > 0 {
        numbers.push((
            "machine checks injected",
            "/injections/action_required",
            counters.injected,
        ));
    }
    let addresses = [
        ("line bitmap", "/exits/line_bitmap", counters.line_bitmap),
        ("guest address", "/page/gpa", counters.gpa),
        ("host address", "/page/hva", counters.hva),
        ("page frame", "/page/pfn", counters.pfn),
    ];
    let row = |name, pointer: &str, vmm: String, hex: bool| Row {
        name,
        vmm,
        poisontrace: reported(incident, pointer, hex),
        hidden: hidden.contains(&name),
    };
    let numbers = numbers
        .into_iter()
        .map(|(name, pointer, count)| row(name, pointer, count.to_string(), false));
    let addresses = addresses
        .into_iter()
        .map(|(name, pointer, value)| row(name, pointer, format!("{value:#x}"), true));
    numbers.chain(addresses).collect()
}

/// Hexadecimal digits are compared as numbers: leading zeros are a matter of taste.
fn reported(incident: &Value, pointer: &str, hex: bool) -> String {
    match incident.pointer(pointer) {
        None | Some(Value::Null) => UNKNOWN.to_owned(),
        Some(Value::String(text)) if hex => text
            .strip_prefix("0x")
            .and_then(|digits| u64::from_str_radix(digits, 16).ok())
            .map_or_else(|| text.clone(), |value| format!("{value:#x}")),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn counts_agree_or_are_named() {
        let counters = Counters {
            sigbus_ar: 64,
            sigbus_while_poisoning: vec!["AR".to_owned()],
            exits: 64,
            line_bitmap: u64::MAX,
            distinct_rips: 1,
            gpa: 0x10_0000,
            hva: 0x7000,
            pfn: 7,
            ..Counters::default()
        };
        let mut incident = json!({
            "page": {"gpa": "0x100000", "hva": "0x0000000000007000", "pfn": "0x7"},
            "exits": {
                "count": 64, "distinct_lines": 64, "line_bitmap": "0xffffffffffffffff", "distinct_rips": 1
            },
            "signals": {"action_required": 65, "action_optional": 0},
        });
        let wrong = |incident: &Value, hidden: &[&str]| -> Vec<&'static str> {
            let rows = compare(&counters, incident, hidden);
            rows.iter()
                .filter(|row| !row.agrees())
                .map(|row| row.name)
                .collect()
        };
        assert_eq!(wrong(&incident, &[]), Vec::<&str>::new());
        incident["exits"]["count"] = json!(63);
        incident["exits"]["distinct_lines"] = Value::Null;
        assert_eq!(wrong(&incident, &[]), ["exits", "distinct lines"]);
        assert_eq!(wrong(&incident, &["distinct lines"]), ["exits"]);
    }
}
