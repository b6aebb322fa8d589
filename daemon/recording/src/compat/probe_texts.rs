//! Version 1, and version 2 before its release, have text where the probe table has types now: what a probe was attached to
//! is brought to types. Reasons stay text, which is shown and never read; each row's effect has its words in the report.

use poisontrace_model::event::{
    probe::{Hook, ProbeBinding, ProbeId},
    session::Session,
};

/// Reads the texts of a session's probe table.
pub fn upgrade(session: &mut Session) {
    for status in &mut session.probes {
        if let Some(ProbeBinding::Text(text)) = &status.binding
            && let Some(binding) = binding(text)
        {
            status.binding = Some(binding);
        }
        if !matches!(status.probe, ProbeId::Other(_)) {
            status.unavailable_info = None;
        }
    }
}

fn binding(text: &str) -> Option<ProbeBinding> {
    if text == "imported" {
        return Some(ProbeBinding::Imported);
    }
    match text.strip_prefix("until there is poison ") {
        Some("nothing") => Some(ProbeBinding::Standby(Vec::new())),
        Some(hooks) => Some(ProbeBinding::Standby(all(hooks)?)),
        None => Some(ProbeBinding::Attached(all(text)?)),
    }
}

fn all(text: &str) -> Option<Vec<Hook>> {
    text.split(", ").map(hook).collect()
}

fn hook(text: &str) -> Option<Hook> {
    let (kind, name) = text.split_once(' ')?;
    let kind = match kind {
        "tracepoint" => Hook::Tracepoint,
        "raw_tracepoint" => Hook::RawTracepoint,
        "fentry" => Hook::Fentry,
        "fexit" => Hook::Fexit,
        "kprobe" => Hook::Kprobe,
        "kretprobe" => Hook::Kretprobe,
        _ => return None,
    };
    Some(kind(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use poisontrace_model::event::probe::{ProbeReason, ProbeStatus};

    fn read(row: &str) -> ProbeStatus {
        let mut session = Session {
            probes: vec![serde_json::from_str(row).unwrap()],
            ..Session::default()
        };
        upgrade(&mut session);
        session.probes.remove(0)
    }

    #[test]
    fn texts_of_former_versions_become_types() {
        let held = read(r#"{"name":"kvm_exit","binding":"until there is poison raw_tracepoint kvm_exit"}"#);
        let standby = vec![Hook::RawTracepoint("kvm_exit".to_owned())];
        assert_eq!(held.binding, Some(ProbeBinding::Standby(standby)));
        let nothing = read(r#"{"name":"kvm_pio","binding":"until there is poison nothing"}"#);
        assert_eq!(nothing.binding, Some(ProbeBinding::Standby(Vec::new())));
        let pair = read(r#"{"name":"gup","binding":"fentry a, fexit a","why":"b; c"}"#);
        let (enter, exit) = (Hook::Fentry("a".to_owned()), Hook::Fexit("a".to_owned()));
        assert_eq!(pair.binding, Some(ProbeBinding::Attached(vec![enter, exit])));
        assert_eq!(pair.why, [ProbeReason::Text("b; c".to_owned())]);
    }

    #[test]
    fn a_row_and_a_binding_of_another_version_are_kept_as_they_are() {
        let row = r#"{"name":"mmu_notifier","binding":"uprobe x","lost":"its data"}"#;
        let other = read(row);
        assert_eq!(other.probe, ProbeId::Other("mmu_notifier".to_owned()));
        assert_eq!(other.binding, Some(ProbeBinding::Text("uprobe x".to_owned())));
        assert_eq!(
            serde_json::to_string(&other).unwrap(),
            row.replace("lost", "unavailable_info")
        );
        assert_eq!(read(&serde_json::to_string(&other).unwrap()), other);
        let absent = read(r#"{"name":"gup","binding":null,"why":"no kprobes","lost":"its time"}"#);
        assert_eq!((absent.binding, absent.unavailable_info), (None, None));
    }

    #[test]
    fn a_row_of_this_version_is_read_as_it_was_written() {
        use poisontrace_model::event::probe::MissingField;
        let field = MissingField {
            global: "EXIT_RIP".to_owned(),
            name: "guest_rip".to_owned(),
            shapes: vec!["u64".to_owned()],
        };
        let status = ProbeStatus {
            probe: ProbeId::KvmExit,
            binding: Some(ProbeBinding::Attached(vec![Hook::Tracepoint(
                "kvm:kvm_exit".to_owned(),
            )])),
            why: vec![
                ProbeReason::NoKprobes,
                ProbeReason::NoField(field),
                ProbeReason::Text("cannot attach: EPERM".to_owned()),
            ],
            unavailable_info: None,
        };
        assert_eq!(read(&serde_json::to_string(&status).unwrap()), status);
    }
}
