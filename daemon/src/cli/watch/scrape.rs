//! One reading of /metrics: the text format, as little of it as our own daemon writes.

use std::{collections::BTreeMap, time::Duration};

use poisontrace_model::{
    forecast::Counts,
    incident::terms::{Cause, Outcome},
};

const TIMEOUT: Duration = Duration::from_millis(800);
/// A daemon's whole page is some 30 KiB.
const MAX_BYTES: u64 = 4 << 20;

/// The samples of one reading.
#[derive(Clone, Debug, Default)]
pub struct Metrics(Vec<Sample>);

#[derive(Clone, Debug)]
struct Sample {
    name: String,
    labels: String,
    value: f64,
}

impl Metrics {
    /// # Errors
    /// In words for the screen, with what to do next.
    pub fn read(url: &str) -> Result<Self, String> {
        if url.starts_with("https:") {
            return Err(format!(
                "{url}: watch speaks http only; name a plain address with --metrics"
            ));
        }
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .build()
            .into();
        let mut answer = agent.get(url).call().map_err(|err| {
            format!("no daemon answers at {url} ({err}): `systemctl start poisontrace`, or `poisontrace run`")
        })?;
        let text = answer
            .body_mut()
            .with_config()
            .limit(MAX_BYTES)
            .read_to_string()
            .map_err(|err| format!("{url}: {err}"))?;
        let metrics = Self::parse(&text);
        if metrics.0.is_empty() {
            return Err(format!(
                "{url} is not a poisontrace: name its address with --metrics"
            ));
        }
        Ok(metrics)
    }

    pub(super) fn parse(text: &str) -> Self {
        let samples = text.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            name.starts_with("poisontrace_").then_some(())?;
            Some(Sample {
                name: name.to_owned(),
                labels: labels.to_owned(),
                value: value.parse().ok()?,
            })
        });
        Self(samples.collect())
    }

    /// Sum over all labels; `None` where the daemon has no such metric.
    pub fn sum(&self, name: &str) -> Option<f64> {
        let mut values = self.0.iter().filter(|sample| sample.name == name).peekable();
        values.peek()?;
        Some(values.map(|sample| sample.value).sum())
    }

    /// The daemon's last forecast; `None` where it has made none.
    pub fn forecast(&self) -> Option<Forecast> {
        const BY: &str = "poisontrace_vms_by_forecast";
        let lost: Vec<(&str, f64)> = self.by("poisontrace_vms_lost_by_forecast", "saved_by").collect();
        if lost.is_empty() {
            return None;
        }
        let causes = self.by(BY, "cause");
        let pairs = self.by(BY, "outcome").zip(causes);
        let pairs =
            pairs.map(|((outcome, vms), (cause, _))| ((outcome.to_owned(), cause.to_owned()), vms as u64));
        Some(Forecast {
            by_headline: pairs.collect(),
            lost: lost.iter().map(|(_, vms)| *vms as u64).sum(),
            setting_mends: lost
                .iter()
                .filter(|(saved_by, _)| *saved_by == "setting")
                .map(|(_, vms)| *vms as u64)
                .sum(),
        })
    }

    /// Values of the label `label` of `name`, each with its sample.
    pub fn by<'a>(&'a self, name: &'a str, label: &str) -> impl Iterator<Item = (&'a str, f64)> {
        let key = format!("{label}=\"");
        self.0
            .iter()
            .filter(move |sample| sample.name == name)
            .filter_map(move |sample| {
                let rest = sample.labels.split_once(&key)?.1;
                Some((rest.split_once('"')?.0, sample.value))
            })
    }
}

/// VMs by what an error would do, as /metrics has them.
pub struct Forecast {
    /// By outcome and cause.
    pub by_headline: BTreeMap<(String, String), u64>,
    pub lost: u64,
    setting_mends: u64,
}

impl Forecast {
    /// The sums alone.
    pub fn totals(&self) -> Counts {
        let unknown = (
            Outcome::Unknown.word().to_owned(),
            Cause::Unknown.word().to_owned(),
        );
        Counts {
            vms: self.by_headline.values().sum(),
            lost: self.lost,
            setting_mends: self.setting_mends,
            unknown: self.by_headline.get(&unknown).copied().unwrap_or(0),
            ..Counts::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Metrics;

    const PAGE: &str = "# HELP poisontrace_vms VMs\n# TYPE poisontrace_vms gauge\npoisontrace_vms 3\n\
        poisontrace_probe_attached{probe=\"kvm_exit\"} 1\npoisontrace_probe_attached{probe=\"gup\"} 0\n\
        go_threads 7\npoisontrace_torn";

    #[test]
    fn what_the_daemon_says_is_read_and_nothing_else() {
        let metrics = Metrics::parse(PAGE);
        assert_eq!(metrics.sum("poisontrace_vms"), Some(3.0));
        assert_eq!(metrics.sum("poisontrace_probe_attached"), Some(1.0));
        assert_eq!(metrics.sum("go_threads"), None);
        let probes: Vec<_> = metrics.by("poisontrace_probe_attached", "probe").collect();
        assert_eq!(probes, [("kvm_exit", 1.0), ("gup", 0.0)]);
    }
}
