//! Records of KubeVirt: its components' log, and events as the API server gives them. The name of the libvirt domain is that of
//! the namespace and of the VM (`api.VMINamespaceKeyFunc()`, pkg/virt-launcher/virtwrap/api).

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::origin::OfDomain;

fn text<'a>(map: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    let text = map.get(key)?.as_str()?;
    (!text.is_empty()).then_some(text)
}

fn component(map: &Map<String, Value>) -> Option<&str> {
    text(map, "component").filter(|component| component.starts_with("virt-"))
}

/// What an event is about, where that is a VM.
fn object(map: &Map<String, Value>) -> Option<&Map<String, Value>> {
    let object = map.get("involvedObject").or_else(|| map.get("regarding"))?;
    let object = object.as_object()?;
    (text(object, "kind") == Some("VirtualMachineInstance")).then_some(object)
}

/// Whether a document may hold events of VMs.
pub fn is_in(document: &[u8]) -> bool {
    memchr::memmem::find(document, b"\"VirtualMachineInstance\"").is_some()
}

/// The domain that a record is about.
pub fn domain(map: &Map<String, Value>) -> Option<Arc<str>> {
    let of = match component(map) {
        Some(_) => map,
        None => object(map)?,
    };
    Some(format!("{}_{}", text(of, "namespace")?, text(of, "name")?).into())
}

/// Whether the record is of the pod that runs one VM.
pub fn of_domain(map: &Map<String, Value>) -> OfDomain {
    match component(map) {
        Some("virt-launcher") => OfDomain::Launcher,
        _ => OfDomain::Record,
    }
}

/// An event as `kubectl get events` prints it, and its time.
pub fn event(map: &Map<String, Value>) -> Option<(Option<&str>, String)> {
    let name = text(object(map)?, "name")?;
    let message = text(map, "message").or_else(|| text(map, "note"))?;
    let times = [
        "lastTimestamp",
        "eventTime",
        "deprecatedLastTimestamp",
        "firstTimestamp",
    ];
    let time = times.iter().find_map(|key| text(map, key));
    let (kind, reason) = (text(map, "type")?, text(map, "reason")?);
    Some((
        time,
        format!("{kind}   {reason}   virtualmachineinstance/{name}   {message}"),
    ))
}
