//! Events of KubeVirt, as `kubectl get events` and `kubectl describe` print them (pkg/virt-handler, 0.x to 1.x).

use poisontrace_model::{event::log_statement::LogStatement, text::sanitise};

/// How virt-handler begins what it logs of a VM's state.
const PHASE: &[u8] = b"VMI is in phase: ";
const CRASHED: &[u8] = b"The VirtualMachineInstance crashed.";
const SHUT_DOWN: &[u8] = b"The VirtualMachineInstance was shut down.";
const MIGRATED: &[u8] = b"The VirtualMachineInstance migrated to node ";
/// The object of an event in a list.
const OBJECT: &str = "virtualmachineinstance/";

/// Whether a message begins as one of KubeVirt's does: none of its words is a name that a logger put before it.
pub fn begins(message: &[u8]) -> bool {
    let event = message
        .strip_prefix(b"Normal ")
        .or_else(|| message.strip_prefix(b"Warning "));
    message.starts_with(PHASE)
        || event.is_some_and(|rest| memchr::memmem::find(rest, OBJECT.as_bytes()).is_some())
}

/// What became of a VM, and its name where the line has it.
pub fn event(line: &[u8]) -> Option<LogStatement> {
    let line = line.trim_ascii();
    if let Some(statement) = status(line) {
        return Some(statement);
    }
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

/// `VMI is in phase: Failed | Domain status: Shutoff, reason: Crashed` of virt-handler (`logDomainAndVMI…()`, pkg/virt-handler/vm.go);
/// the record names the VM.
fn status(line: &[u8]) -> Option<LogStatement> {
    let rest = line.strip_prefix(PHASE)?;
    let at = memchr::memmem::find(rest, b" | Domain ")?;
    let reason = match &rest[at + 10..] {
        b"status: Shutoff, reason: Crashed" | b"status: Crashed, reason: Unknown" => "crashed",
        b"status: Shutoff, reason: Failed" => "failed",
        b"status: Shutoff, reason: Migrated" => "migrated",
        b"status: Shutoff, reason: Shutdown" => "shutdown",
        b"status: Shutoff, reason: Destroyed" => "destroyed",
        _ => return Some(LogStatement::Other),
    };
    Some(LogStatement::QmpShutdown {
        domain: None,
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
