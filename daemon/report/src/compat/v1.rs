//! Schema version 1 (poisontrace 0.1.0): its keys become those of version 2, its text stays as it was written.

use serde_json::{Map, Value, json};

/// Kind of a timeline entry or of missing evidence that version 1 has as text alone.
const TEXT: &str = "text";

/// Whether this is an incident of version 1.
pub fn is(incident: &Value) -> bool {
    incident.get("sentence").is_some()
}

/// Makes an incident of version 1 one of version 2.
pub fn upgrade(incident: &mut Value) {
    let Some(incident) = incident.as_object_mut() else {
        return;
    };
    for (old, new) in [
        ("sentence", "summary"),
        ("advice", "next_steps"),
        ("linked", "related_incidents"),
    ] {
        rename(incident, old, new);
    }
    within(incident, "page", |page| rename(page, "recovery", "action_result"));
    within(incident, "injections", |injections| {
        rename(injections, "told", "events");
    });
    within(incident, "latency_ns", |latency| {
        rename(latency, "floor", "baseline_exit");
        within(latency, "claim_63_exits", |claim| {
            rename(claim, "floor_ns", "baseline_exit_ns");
        });
    });
    each(incident, "timeline", |entry| {
        let t_ns = entry.get("t_ns").cloned().unwrap_or(json!(0));
        json!({"t_ns": t_ns, "kind": TEXT, "message": entry.get("event"), "source": null})
    });
    each(incident, "missing", |text| json!({"kind": TEXT, "message": text}));
}

fn rename(object: &mut Map<String, Value>, old: &str, new: &str) {
    if let Some(value) = object.remove(old) {
        object.insert(new.to_owned(), value);
    }
}

fn within(object: &mut Map<String, Value>, key: &str, change: impl FnOnce(&mut Map<String, Value>)) {
    if let Some(inner) = object.get_mut(key).and_then(Value::as_object_mut) {
        change(inner);
    }
}

fn each(object: &mut Map<String, Value>, key: &str, change: impl Fn(&Value) -> Value) {
    for value in object
        .get_mut(key)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        *value = change(value);
    }
}
