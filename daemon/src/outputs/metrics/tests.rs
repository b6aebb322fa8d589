use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::BufReader,
    path::Path,
};

use super::*;
use poisontrace_model::{
    correlate::Correlator,
    event::{
        Event,
        probe::{ProbeId, ProbeStatus},
    },
    forecast::Counts,
    hex::Hex,
    incident::model::{Cause, Outcome},
};
use poisontrace_recording::Reader;
use poisontrace_sources::host::kernel_counters::KernelCounters;

const DOCUMENT: &str = include_str!("../../../docs/metrics.md");

/// A recording through the correlator, as the daemon feeds it.
fn replayed(name: &str, max_vms: Option<usize>) -> Metrics {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/recordings")
        .join(name);
    let mut reader = Reader::new(BufReader::new(File::open(path).unwrap()), false).unwrap();
    let session = reader.session().clone();
    let mut metrics = Metrics::new(&session, session.clock, max_vms).unwrap();
    let mut correlator = Correlator::new(session);
    let mut now = 0;
    while let Some(event) = reader.next_event().unwrap() {
        metrics.event(&event);
        correlator.feed(&event);
        now = now.max(event.t);
        for update in correlator.take_changed() {
            metrics.update(&update);
        }
        metrics.tick(now);
    }
    metrics
}

/// Series of the text format, with their values.
fn series(text: &str) -> BTreeMap<String, f64> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
        .collect()
}

#[test]
fn a_guest_that_panics_is_counted_on_its_way_there() {
    let all = series(&replayed("panic-amd-6.12.ptrace", None).exposition());
    let value = |name: &str| all[&format!("poisontrace_{name}")];
    assert_eq!(value("incidents_opened_total"), 1.0);
    assert_eq!(
        value("incident_verdicts_total{cause=\"mce_overflow\",outcome=\"guest_panicked\"}"),
        1.0
    );
    assert_eq!(
        value(
            "memory_failures_total{origin=\"software_injection\",result=\"Recovered\",type=\"dirty LRU page\"}"
        ),
        1.0
    );
    assert_eq!(value("poison_exits_total{access=\"read\"}"), 1.0);
    assert_eq!(value("poison_exits_total{access=\"unknown\"}"), 0.0);
    assert_eq!(value("sigbus_total{severity=\"action_optional\"}"), 1.0);
    assert_eq!(
        value("machine_checks_queued_total{severity=\"action_required\"}"),
        1.0
    );
    assert_eq!(value("machine_checks_delivered_total"), 1.0);
    assert_eq!(value("exit_to_entry_seconds_count"), 1.0);
    assert!((value("exit_gup_seconds_sum") - 0.000_485_538).abs() < 1e-9);
    assert_eq!(value("exit_gup_seconds_bucket{le=\"0.00005\"}"), 0.0);
    assert_eq!(value("incidents_open"), 0.0, "the VMM is gone");
    assert_eq!(value("guests_at_risk"), 0.0);
    assert_eq!(value("probe_attached{probe=\"kvm_exit\"}"), 1.0);
    assert!(value("last_event_timestamp_seconds") > 1.7e9);
}

#[test]
fn a_guest_is_at_risk_from_the_poisoning_to_the_first_touch() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings/panic-amd-6.12.ptrace");
    let mut reader = Reader::new(BufReader::new(File::open(path).unwrap()), false).unwrap();
    let session = reader.session().clone();
    let mut metrics = Metrics::new(&session, session.clock, None).unwrap();
    let mut correlator = Correlator::new(session);
    let mut risks = Vec::new();
    while let Some(event) = reader.next_event().unwrap() {
        correlator.feed(&event);
        for update in correlator.take_changed() {
            metrics.update(&update);
        }
        metrics.tick(event.t);
        let at_risk = series(&metrics.exposition())["poisontrace_guests_at_risk"];
        if risks.last() != Some(&at_risk) {
            risks.push(at_risk);
        }
    }
    assert_eq!(risks, [0.0, 1.0, 0.0]);
}

/// Every series that there can be: every verdict there is, kinds of failure beyond the limit, every probe and
/// program.
fn flooded() -> Metrics {
    let probes = |n: usize| {
        (0..n).map(|n| ProbeStatus {
            probe: ProbeId::Other(format!("probe{n}")),
            binding: None,
            why: Vec::new(),
            unavailable_info: None,
        })
    };
    let session = Session {
        probes: probes(24).collect(),
        ..Session::default()
    };
    let mut metrics = Metrics::new(&session, session.clock, None).unwrap();
    let mut verdicts = incidents::Verdicts::default();
    for outcome in Outcome::ALL {
        for cause in Cause::ALL {
            let labels = verdicts.label([outcome.word(), cause.word()]);
            metrics.families.incidents.with_label_values(&labels);
        }
    }
    for n in 0..1000 {
        metrics.event(&Event {
            t: n,
            tid: 1,
            pid: 1,
            vcpu: None,
            what: EventKind::FailureAction {
                pfn: Hex(n),
                page_type: format!("page {n}"),
                result: "Ignored".into(),
            },
        });
    }
    let costs: Vec<ProgramCost> = (0..32)
        .map(|n| ProgramCost {
            name: format!("program{n}"),
            runs: 1,
            run_ns: 1,
            missed: 1,
        })
        .collect();
    metrics.programs(&costs);
    metrics.reattached([("kvm_exit", 1)].into_iter());
    metrics.forecast(&every_forecast(), session.clock);
    metrics.kernel(&KernelCounters {
        hardware_corrupted: Some(4096),
        nodes: Some([1; 5]),
    });
    metrics
}

/// A VM of each outcome and cause that there is.
fn every_forecast() -> Counts {
    let pairs = Outcome::ALL.iter().flat_map(|outcome| {
        let with = move |cause: &Cause| ((outcome.word(), cause.word()), 1);
        Cause::ALL.iter().map(with)
    });
    let by_headline: BTreeMap<_, _> = pairs.collect();
    Counts {
        vms: by_headline.len() as u64,
        lost: 5,
        setting_mends: 2,
        unknown: 1,
        hidden: 0,
        by_headline,
    }
}

#[test]
fn a_forecast_replaces_the_one_before() {
    let metrics = Metrics::new(&Session::default(), ClockPair::default(), None).unwrap();
    let none = series(&metrics.exposition());
    assert!(
        !none.keys().any(|name| name.contains("by_forecast")),
        "no forecast has been made"
    );
    metrics.forecast(&every_forecast(), ClockPair::default());
    let by = |all: &BTreeMap<String, f64>| -> f64 {
        let of = all.iter().filter(|(name, _)| name.contains("vms_by_forecast"));
        of.map(|(_, vms)| vms).sum()
    };
    assert_eq!(by(&series(&metrics.exposition())), every_forecast().vms as f64);
    let one = Counts {
        by_headline: BTreeMap::from([(("guest_panicked", "mce_overflow"), 3)]),
        vms: 3,
        lost: 3,
        setting_mends: 2,
        unknown: 0,
        hidden: 0,
    };
    metrics.forecast(&one, ClockPair::default());
    let all = series(&metrics.exposition());
    let value = |name: &str| all[&format!("poisontrace_{name}")];
    assert_eq!(by(&all), 3.0);
    assert_eq!(
        value("vms_by_forecast{cause=\"mce_overflow\",outcome=\"guest_panicked\"}"),
        3.0
    );
    assert_eq!(value("vms_lost_by_forecast{saved_by=\"setting\"}"), 2.0);
    assert_eq!(value("vms_lost_by_forecast{saved_by=\"none\"}"), 1.0);
}

#[test]
fn a_host_has_at_most_400_series_whatever_happens() {
    let all = series(&flooded().exposition());
    assert!(all.len() <= 400, "{} series", all.len());
    assert!(all.contains_key(
        "poisontrace_memory_failures_total{origin=\"unknown\",result=\"other\",type=\"other\"}"
    ));
}

#[test]
fn vms_beyond_the_limit_are_counted_together() {
    let all = series(&replayed("panic-amd-6.12.ptrace", Some(1)).exposition());
    assert_eq!(all["poisontrace_vm_poison_exits_total{vm=\"demo-guest\"}"], 1.0);
    let all = series(&replayed("panic-amd-6.12.ptrace", Some(0)).exposition());
    assert_eq!(
        all["poisontrace_vm_incident_verdicts_total{outcome=\"guest_panicked\",vm=\"other\"}"],
        1.0
    );
}

/// Name, type and labels, as a row of the document lists it.
type Described = (String, String, BTreeSet<String>);

fn documented() -> BTreeSet<Described> {
    let code =
        |cell: &str| -> Vec<String> { cell.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
    DOCUMENT
        .lines()
        .filter(|line| line.starts_with("| `poisontrace_") || line.starts_with("| `process_"))
        .map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let labels = code(cells[3]).into_iter().collect();
            (code(cells[1])[0].clone(), cells[2].to_owned(), labels)
        })
        .collect()
}

fn live(text: &str) -> BTreeSet<Described> {
    let mut found: BTreeMap<String, (String, BTreeSet<String>)> = BTreeMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            found.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
        } else if let Some((name, rest)) = line.split_once('{') {
            let labels = rest.rsplit_once('}').unwrap().0;
            let names = labels
                .split("\",")
                .map(|label| label.split_once('=').unwrap().0.to_owned());
            if let Some((_, known)) = found.get_mut(name) {
                known.extend(names);
            }
        }
    }
    found
        .into_iter()
        .map(|(name, (kind, labels))| (name, kind, labels))
        .collect()
}

#[test]
fn the_document_and_the_live_output_name_the_same_metrics() {
    let mut all = live(&flooded().exposition());
    all.extend(live(&replayed("panic-amd-6.12.ptrace", Some(10)).exposition()));
    assert_eq!(all, documented());
}

#[test]
fn no_label_tells_an_address_or_a_pid() {
    let forbidden = ["pfn", "gpa", "hva", "rip", "pid", "tid"];
    for (name, _, labels) in documented() {
        assert!(
            !labels.iter().any(|label| forbidden.contains(&label.as_str())),
            "{name}"
        );
    }
}
