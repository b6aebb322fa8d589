//! What a host serves at /metrics: what the daemon served after it had replayed a recording.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab_protocol::daemon_cli::{KEEP_SERVING, LISTEN_ADDRESS, MAX_PAUSE};
use lab_protocol::daemon_lines;

use crate::prometheus::{self, Running};
use xtask_support::command;
use xtask_support::paths::Paths;

const REPLAYED_WITHIN: Duration = Duration::from_secs(60);

/// A series and its value, from the text of /metrics.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub name: String,
    /// Without braces.
    pub labels: String,
    pub value: f64,
}

impl Sample {
    fn parse(line: &str) -> Option<Self> {
        let (series, value) = line.rsplit_once(' ')?;
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        Some(Self {
            name: name.to_owned(),
            labels: labels.strip_suffix('}')?.to_owned(),
            value: value.parse().ok()?,
        })
    }

    /// The value of a label: none of ours holds a quotation mark.
    pub fn label(&self, name: &str) -> &str {
        self.labels
            .split("\",")
            .find_map(|label| label.strip_prefix(name)?.strip_prefix("=\""))
            .map_or("", |value| value.trim_end_matches('"'))
    }
}

pub struct Body {
    pub text: String,
    pub samples: Vec<Sample>,
}

impl Body {
    fn of(text: String) -> Result<Self> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let samples = lines
            .map(|line| Sample::parse(line).with_context(|| format!("not a sample: {line}")))
            .collect::<Result<_>>()?;
        Ok(Self { text, samples })
    }

    /// Replays a recording at once, and scrapes.
    pub fn of_recording(paths: &Paths, daemon: &Path, recording: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let log = folder.path().join("log");
        let target = format!("127.0.0.1:{}", prometheus::free_port()?);
        let mut replay = command::clean(daemon);
        replay
            .args(["replay", MAX_PAUSE, "0", KEEP_SERVING, LISTEN_ADDRESS, &target])
            .arg("--from")
            .arg(
                paths
                    .root
                    .join(format!("daemon/tests/recordings/{recording}.ptrace")),
            );
        let mut running = Running::start(&mut replay, &log)?;
        let begun = Instant::now();
        while !fs::read_to_string(&log)?.contains(daemon_lines::REPLAYED) {
            running
                .lives()
                .with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
            ensure!(
                begun.elapsed() < REPLAYED_WITHIN,
                "the replay of {recording} does not end"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        let mut answer = ureq::get(format!("http://{target}/metrics")).call()?;
        Self::of(answer.body_mut().read_to_string()?)
    }

    pub fn value(&self, name: &str, labels: &str) -> Option<f64> {
        let mut samples = self.samples.iter();
        let found = samples.find(|sample| sample.name == name && sample.labels == labels)?;
        Some(found.value)
    }

    /// By how much each series of a counter is above that of `healthy`, where it is.
    pub fn above<'a>(&'a self, healthy: &'a Self, name: &'a str) -> impl Iterator<Item = Sample> + 'a {
        let samples = self.samples.iter().filter(move |sample| sample.name == name);
        samples
            .map(|sample| Sample {
                value: sample.value - healthy.value(name, &sample.labels).unwrap_or(0.0),
                ..sample.clone()
            })
            .filter(|sample| sample.value > 0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_read_with_and_without_labels() {
        let text = "# TYPE up gauge\nup 1\nfailures_total{type=\"huge page\",result=\"Failed\"} 2\n";
        let body = Body::of(text.to_owned()).unwrap();
        assert_eq!(body.value("up", ""), Some(1.0));
        assert_eq!(body.samples[1].label("result"), "Failed");
        assert_eq!(body.samples[1].label("type"), "huge page");
        assert_eq!(body.samples[1].label("origin"), "");
    }

    #[test]
    fn what_an_incident_added_is_the_difference() {
        let [before, after] = [
            "n{a=\"1\"} 1\nn{a=\"2\"} 4\n",
            "n{a=\"1\"} 1\nn{a=\"2\"} 5\nn{a=\"3\"} 2\n",
        ]
        .map(|text| Body::of(text.to_owned()).unwrap());
        let above: Vec<f64> = after.above(&before, "n").map(|sample| sample.value).collect();
        assert_eq!(above, [1.0, 2.0]);
    }
}
