//! Events of KubeVirt, as `kubectl get events` and `kubectl describe` print them (pkg/virt-handler, 0.x to 1.x).

use poisontrace_model::{event::log_statement::LogStatement, text::sanitise};

const CRASHED: &[u8] = b"The VirtualMachineInstance crashed.";
const SHUT_DOWN: &[u8] = b"The VirtualMachineInstance was shut down.";
const MIGRATED: &[u8] = b"The VirtualMachineInstance migrated to node ";
/// The object of an event in a list.
const OBJECT: &str = "virtualmachineinstance/";

/// What became of a VM, and its name where the line has it.
pub fn event(line: &[u8]) -> Option<LogStatement> {
    let line = line.trim_ascii();
    if line.last() != Some(&b'.') {
        return None;
    }
    let at = memchr::memmem::find(line, b"The VirtualMachineInstance ")?;
    let (before, message) = line.split_at(at);
    let reason = match message {
        CRASHED => "crashed",
        SHUT_DOWN => "shutdown",
        _ if message.starts_with(MIGRATED) => "migrated",
        _ => return None,
    };
    let before = String::from_utf8_lossy(before);
    let columns: Vec<&str> = before.split_whitespace().collect();
    let wanted = if reason == "migrated" {
        "Migrated"
    } else {
        "Stopped"
    };
    let is_event = columns
        .windows(2)
        .any(|pair| matches!(pair[0], "Normal" | "Warning") && pair[1] == wanted);
    let domain = columns.iter().find_map(|column| column.strip_prefix(OBJECT));
    is_event.then(|| LogStatement::QmpShutdown {
        domain: domain.map(|name| sanitise(name, 128)),
        guest: false,
        reason: Some(reason.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_descriptions() {
        let of = |line: &str| match event(line.as_bytes())? {
            LogStatement::QmpShutdown { domain, reason, .. } => Some((domain, reason)),
            _ => None,
        };
        let db = Some("db-7".to_owned());
        assert_eq!(
            of(
                "52m         Warning   Stopped            virtualmachineinstance/db-7          The VirtualMachineInstance crashed."
            ),
            Some((db.clone(), Some("crashed".to_owned())))
        );
        assert_eq!(
            of(
                "prod   2m44s   Normal   Migrated   virtualmachineinstance/db-7   The VirtualMachineInstance migrated to node n2.example.com."
            ),
            Some((db, Some("migrated".to_owned())))
        );
        assert_eq!(
            of("  Normal  Stopped  3m  virt-handler  The VirtualMachineInstance was shut down."),
            Some((None, Some("shutdown".to_owned())))
        );
        assert_eq!(of("The VirtualMachineInstance crashed."), None, "prose");
        assert_eq!(
            of("Warning Stopped: The VirtualMachineInstance crashed. Why?"),
            None
        );
    }
}
