//! Version 1 (poisontrace 0.1.0): an event's kind and its fields lie beside its time (`{"t":5,…,"event":"sigbus","hva":…}`),
//! a statement of a log also under `said`. Each line is brought to version 2 and read as such.

use poisontrace_model::event::{Event, probe::ProbeId, session::Session};
use serde_json::{Map, Value};

use crate::clean;

/// The version's number in the header.
pub const VERSION: u32 = 1;

/// Keys of an event that are not its kind's.
const COMMON: [&str; 4] = ["t", "tid", "pid", "vcpu"];
/// Keys of a log's record that are not its statement's.
const RECORD: [&str; 4] = ["source", "line", "speaker", "own_clock"];

/// Kinds that version 2 names otherwise.
const RENAMED: [(&str, &str); 8] = [
    ("told_msrs", "set_msrs"),
    ("told_mce", "set_mce"),
    ("delivered", "mc_delivered"),
    ("engaged", "all_probes_attached"),
    ("sigbus_seen", "sigbus_no_address"),
    ("poison_found", "preexisting"),
    ("floor", "baseline_exit"),
    ("said", "log_statement"),
];

/// Names the probes of a session as version 2 does.
pub fn upgrade_session(session: &mut Session) {
    for status in &mut session.probes {
        if status.probe.name() == "kvm_inject_mce" {
            status.probe = ProbeId::VcpuIoctlMce;
        }
    }
}

/// Reads an event of version 1.
///
/// # Errors
/// What is not an event.
pub fn event(mut line: Value) -> serde_json::Result<Event> {
    if let Some(fields) = line.as_object_mut() {
        upgrade(fields);
    }
    clean::from_value(&line)
}

fn upgrade(fields: &mut Map<String, Value>) {
    let Some(Value::String(kind)) = fields.remove("event") else {
        return;
    };
    let mut own = take(fields, |key| !COMMON.contains(&key));
    if kind == "said" {
        let statement = own.remove("said");
        let rest = take(&mut own, |key| !RECORD.contains(&key));
        if let Some(Value::String(statement)) = statement {
            own.insert("statement".to_owned(), tagged(statement, rest));
        }
    }
    let renamed = RENAMED.iter().find(|(old, _)| *old == kind);
    let kind = renamed.map_or(kind, |(_, new)| (*new).to_owned());
    fields.insert("event".to_owned(), tagged(kind, own));
}

/// Takes the entries whose keys are `wanted`.
fn take(fields: &mut Map<String, Value>, wanted: impl Fn(&str) -> bool) -> Map<String, Value> {
    let (taken, left) = std::mem::take(fields)
        .into_iter()
        .partition(|(key, _)| wanted(key));
    *fields = left;
    taken
}

/// An enum's variant as serde writes it: its name, with its fields where it has some.
fn tagged(kind: String, fields: Map<String, Value>) -> Value {
    if fields.is_empty() {
        return Value::String(kind);
    }
    Value::Object(Map::from_iter([(kind, Value::Object(fields))]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use poisontrace_model::event::EventKind;

    #[test]
    fn events_of_version_1_are_those_that_were_written() {
        let read = |line: &str| event(serde_json::from_str(line).unwrap()).unwrap();
        let delivered = read(r#"{"t":5,"tid":2,"pid":1,"vcpu":3,"event":"delivered"}"#);
        assert_eq!(
            (delivered.t, delivered.vcpu, &delivered.what),
            (5, Some(3), &EventKind::Delivered)
        );
        let reentry = read(r#"{"t":5,"tid":2,"pid":1,"event":"reentry","exit_ns":1,"entry_ns":2}"#);
        let expected = EventKind::Reentry {
            exit_ns: 1,
            entry_ns: 2,
        };
        assert_eq!(reentry.what, expected);
        let said = read(
            r#"{"t":5,"tid":0,"pid":0,"event":"said","source":"QMP","said":"qmp_panicked","domain":null}"#,
        );
        assert_eq!(
            serde_json::to_string(&said.what).unwrap(),
            r#"{"log_statement":{"source":"QMP","statement":{"qmp_panicked":{"domain":null}}}}"#
        );
    }

    #[test]
    fn damaged_events_of_version_1_are_refused() {
        for line in [
            r#"{"t":5,"tid":2,"pid":1,"event":"sigbuss"}"#,
            r#"{"t":5,"tid":2,"pid":1}"#,
            r#"{"t":5,"pid":1,"event":"delivered"}"#,
            r#"{"t":5,"tid":2,"pid":1,"event":"reentry","exit_ns":-1,"entry_ns":2}"#,
            "[]",
        ] {
            assert!(event(serde_json::from_str(line).unwrap()).is_err(), "{line}");
        }
    }
}
