//! What the host lost that is of no VM that is known: a line each.

use super::hex;
use poisontrace_model::incident::model::HostEvent;

/// One event in a line.
pub fn line(event: &HostEvent) -> String {
    let mut text = match (event.pfn, &event.dimm) {
        (Some(_), _) => format!("host page pfn {}", hex(event.pfn)),
        (None, Some(_)) => "host memory error".to_owned(),
        // SIGBUS alone has other reasons too.
        (None, None) if event.killed => "perhaps a host memory error".to_owned(),
        (None, None) => "host memory error, page unknown".to_owned(),
    };
    if let Some(process) = &event.process {
        let pid = event.pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
        let what = match event.vm_helper {
            true => "a helper process of a VM",
            false => "not known to be a VMM",
        };
        text.push_str(&format!(": SIGBUS to {process}{pid}, {what}"));
        if event.killed {
            text.push_str(", which it killed");
        }
    }
    if let Some(result) = &event.action_result {
        text.push_str(&format!(", kernel's action: {result}"));
    }
    if let Some(dimm) = &event.dimm {
        text.push_str(&format!(", uncorrected error on DIMM {}", dimm.label));
    }
    format!("{text}  [{}]", event.source)
}
