//! What the host lost that is of no VM that is known: a line each.

use super::hex;
use poisontrace_model::incident::model::HostEvent;

/// One event in a line.
pub fn line(event: &HostEvent) -> String {
    let mut text = match (event.pfn, &event.dimm) {
        (Some(_), _) => format!("host page pfn {}", hex(event.pfn)),
        (None, Some(_)) => "host memory error".to_owned(),
        (None, None) => "host memory error, page unknown".to_owned(),
    };
    if let Some(process) = &event.process {
        let pid = event.pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
        text.push_str(&format!(": SIGBUS to {process}{pid}, not known to be a VMM"));
    }
    if let Some(result) = &event.action_result {
        text.push_str(&format!(", kernel's action: {result}"));
    }
    if let Some(dimm) = &event.dimm {
        text.push_str(&format!(", uncorrected error on DIMM {}", dimm.label));
    }
    format!("{text}  [{}]", event.source)
}
