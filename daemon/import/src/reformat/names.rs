//! Which machine and which console a collector's record is of. Collectors agree on no keys, but on their words: what the last
//! word of a key's path names (`host.name`, `kubernetes.pod_name`, `resource.labels.instance_id`) is what the value names.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::kubevirt;
use crate::origin::Origin;

/// How deep names lie in a record.
const MAX_DEPTH: usize = 4;
/// Attributes of one record.
const MAX_ATTRIBUTES: usize = 64;
/// Longest name.
const MAX_NAME: usize = 128;

/// Words of a machine that logs, and of what it holds.
const HOSTS: [&str; 14] = [
    "host",
    "hostname",
    "node",
    "nodename",
    "machine",
    "instance",
    "server",
    "computer",
    "computername",
    "beat",
    "agent",
    "fromhost",
    "sourcehost",
    "exporter",
];
const LABELS: [&str; 9] = [
    "pod",
    "podname",
    "container",
    "containername",
    "vm",
    "guest",
    "domain",
    "console",
    "logstreamname",
];
/// Words behind those, the better one first.
const KINDS: [&str; 5] = ["name", "hostname", "ip", "address", "id"];
/// Words of who sent a line to the collector: better than its own name.
const SENDERS: [&str; 7] = [
    "source",
    "client",
    "remote",
    "peer",
    "sender",
    "fromhost",
    "sourcehost",
];

#[derive(Default)]
struct Names {
    /// Rank of the word, and the name.
    host: Option<(usize, Arc<str>)>,
    labels: Vec<(usize, usize, Arc<str>)>,
}

/// The names in a record's own fields, and in the objects that it holds.
pub fn origin(map: &Map<String, Value>) -> Origin {
    let mut names = Names::default();
    names.look(map, &mut Vec::new());
    // The better name of each word; of a pod its containers are several consoles.
    names.labels.sort();
    names.labels.dedup_by_key(|(word, ..)| *word);
    let labels: Vec<&str> = names.labels.iter().map(|(.., name)| &**name).collect();
    Origin {
        host: names.host.map(|(_, name)| name),
        label: (!labels.is_empty()).then(|| labels.join("/").into()),
        domain: kubevirt::domain(map),
        of_domain: kubevirt::of_domain(map),
        ..Origin::default()
    }
}

impl Names {
    fn look(&mut self, map: &Map<String, Value>, path: &mut Vec<String>) {
        for (key, value) in map {
            let before = path.len();
            path.extend(split(key));
            match value {
                Value::String(name) => self.name(path, name),
                // A list of records has names of its own in each.
                Value::Object(inner) if before < MAX_DEPTH => self.look(inner, path),
                Value::Array(attributes) if before < MAX_DEPTH => self.attributes(attributes, path),
                _ => {}
            }
            path.truncate(before);
        }
    }

    /// `[{"key": "host.name", "value": {"stringValue": "h1"}}]` of OpenTelemetry.
    fn attributes(&mut self, attributes: &[Value], path: &mut Vec<String>) {
        for attribute in attributes.iter().take(MAX_ATTRIBUTES) {
            let (Some(key), Some(value)) = (attribute.get("key"), attribute.get("value")) else {
                return;
            };
            let value = value.get("stringValue").unwrap_or(value);
            let (Some(key), Some(value)) = (key.as_str(), value.as_str()) else {
                continue;
            };
            let before = path.len();
            path.extend(split(key));
            self.name(path, value);
            path.truncate(before);
        }
    }

    fn name(&mut self, path: &[String], name: &str) {
        let graphic = name.bytes().all(|b| b.is_ascii_graphic());
        if name.is_empty() || name.len() > MAX_NAME || !graphic {
            return;
        }
        let Some((last, before)) = path.split_last() else {
            return;
        };
        let kind = KINDS.iter().position(|kind| kind == last);
        let sent = path.iter().any(|word| SENDERS.contains(&word.as_str()));
        if sent && matches!(last.as_str(), "ip" | "address") {
            let address = name.rsplit_once(':').filter(|(host, _)| !host.contains(':'));
            let address = address.map_or(name, |(host, _)| host);
            self.host = Some((0, address.into()));
            return;
        }
        let (rank, word) = match (kind, before.last()) {
            (Some(rank), Some(word)) if named(word) => (rank, word),
            _ => (0, last),
        };
        if HOSTS.contains(&word.as_str()) {
            // The outermost name, then the better one.
            let rank = match sent {
                true => 1 + rank,
                false => path.len() * KINDS.len() + rank,
            };
            if self.host.as_ref().is_none_or(|(known, _)| rank < *known) {
                self.host = Some((rank, name.into()));
            }
        } else if (before.last().map(String::as_str), last.as_str()) == (Some("log"), "stream") {
            self.labels.push((LABELS.len(), rank, name.into()));
        } else if let Some(word) = LABELS.iter().position(|label| label == word) {
            self.labels.push((word, rank, name.into()));
        }
    }
}

fn named(word: &str) -> bool {
    HOSTS.contains(&word) || LABELS.contains(&word)
}

/// `kubernetes.pod_name`, `_HOSTNAME`, `podName`: the words.
fn split(key: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut lower = false;
    for c in key.chars().take(MAX_NAME) {
        let cut = matches!(c, '.' | '_' | '-' | '/' | '@');
        if cut || c.is_ascii_uppercase() && lower {
            words.push(String::new());
        }
        lower = c.is_ascii_lowercase();
        if !cut && let Some(word) = words.last_mut() {
            word.push(c.to_ascii_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(record: &str) -> (Option<String>, Option<String>) {
        let Value::Object(map) = serde_json::from_str(record).unwrap() else {
            panic!("{record}")
        };
        let origin = origin(&map);
        let text = |name: Option<Arc<str>>| name.map(|name| name.to_string());
        (text(origin.host), text(origin.label))
    }

    #[test]
    fn machines_and_consoles_by_any_collectors_keys() {
        let h1 = Some("h1".to_owned());
        for record in [
            r#"{"host":"h1"}"#,
            r#"{"host":{"name":"h1","id":"x","os":{"name":"Ubuntu"}},"agent":{"type":"filebeat"}}"#,
            r#"{"host.name":"h1"}"#,
            r#"{"_HOSTNAME":"h1"}"#,
            r#"{"agent":{"hostname":"h1"}}"#,
            r#"{"resource":{"labels":{"instance_id":"h1"}}}"#,
            r#"{"fromhost-ip":"h1"}"#,
            r#"{"nodeName":"h1"}"#,
            r#"{"host":{"name":"collector"},"log":{"source":{"address":"h1:6665"}}}"#,
            r#"{"host":"collector","source_host":"h1"}"#,
            r#"{"stream":{"node":"h1","job":"x"}}"#,
            r#"{"resource":{"attributes":[{"key":"os.type","value":{"stringValue":"linux"}},{"key":"host.name","value":{"stringValue":"h1"}}]}}"#,
        ] {
            assert_eq!(of(record), (h1.clone(), None), "{record}");
        }
        let pod = r#"{"kubernetes":{"host":"h1","pod_name":"p","pod_id":"7","container_name":"c","labels":{"app":"a"}}}"#;
        assert_eq!(of(pod), (h1, Some("p/c".to_owned())));
        for none in [
            r#"{"host":""}"#,
            r#"{"level":"info","os":{"name":"x"}}"#,
            r#"{"name":"x"}"#,
        ] {
            assert_eq!(of(none), (None, None), "{none}");
        }
    }
}
