//! All hosts: who is at risk, who died, and whether poisontrace sees. Cheap at any size: its numbers are recorded by
//! `dashboards/prometheus/recording.yml`.

use serde_json::Value;

use super::panel::{Kind, Panel, Row, dashboard as whole, variable};

pub fn dashboard() -> Value {
    let rows = [
        Row("Now", now()),
        Row("What became of guests", guests()),
        Row("Hosts", hosts()),
        Row("Does poisontrace see", health()),
    ];
    whole(
        "poisontrace-fleet",
        "poisontrace / fleet",
        "Poisoned memory under KVM guests, all hosts",
        vec![variable(
            "instance",
            "Host",
            "label_values(poisontrace_build_info, instance)",
            true,
        )],
        &rows,
    )
}

fn now() -> Vec<Panel> {
    vec![
        Panel::new(Kind::Stat, "none", "Hosts", "Hosts whose daemon answers")
            .query(r#"count(poisontrace_build_info{instance=~"$instance"})"#, "hosts"),
        Panel::new(
            Kind::Alarm,
            "none",
            "Guests at risk",
            "Guests that run with a poisoned page which nothing has touched yet: restart them while they live",
        )
        .query(r#"sum(poisontrace_guests_at_risk{instance=~"$instance"})"#, "guests"),
        Panel::new(
            Kind::Alarm,
            "none",
            "Guests lost, last hour",
            "Guests that panicked, were reset, or whose VMM ended by poison",
        )
        .query(
            r#"sum(instance:poisontrace_guests_lost:increase1h{instance=~"$instance"})"#,
            "guests",
        ),
        Panel::new(Kind::Stat, "none", "Incidents open", "Poisoned pages in guests whose VMM still runs")
            .query(r#"sum(poisontrace_incidents_open{instance=~"$instance"})"#, "incidents"),
        Panel::new(Kind::Stat, "none", "Poisoned pages", "4 KiB pages of guests that run now")
            .query(r#"sum(poisontrace_poisoned_pages{instance=~"$instance"})"#, "pages"),
        Panel::new(
            Kind::Alarm,
            "none",
            "Blind hosts",
            "Hosts on which a probe that every verdict needs is not attached",
        )
        .query(
            r#"count(instance:poisontrace_probes_missing:count{instance=~"$instance"} > 0) or vector(0)"#,
            "hosts",
        ),
    ]
}

fn guests() -> Vec<Panel> {
    vec![
        Panel::new(Kind::Stacked, "none", "Incidents by outcome, per hour", "A verdict that changes counts anew").query(
            r#"sum by (outcome) (instance_outcome:poisontrace_incidents:increase1h{instance=~"$instance"})"#,
            "{{outcome}}",
        ),
        Panel::new(Kind::Stacked, "none", "Memory failures, per hour", "Pages that the hosts' kernels gave up, by result")
            .query(
                r#"sum by (result) (instance_result:poisontrace_memory_failures:increase1h{instance=~"$instance"})"#,
                "{{result}}",
            ),
        Panel::new(Kind::Series, "none", "Guests at risk by host", "Hosts with none are not drawn").query(
            r#"max by (instance) (max_over_time(poisontrace_guests_at_risk{instance=~"$instance"}[$__rate_interval]))"#,
            "{{instance}}",
        ),
        Panel::new(Kind::Series, "none", "Storms, per hour", "Many exits on one page, by kind").query(
            r#"sum by (kind) (instance_kind:poisontrace_storms:increase1h{instance=~"$instance"})"#,
            "{{kind}}",
        ),
    ]
}

fn hosts() -> Vec<Panel> {
    vec![
        Panel::new(
            Kind::Table,
            "none",
            "Hosts by guests lost in the last hour",
            "The ten worst",
        )
        .query(
            r#"topk(10, instance:poisontrace_guests_lost:increase1h{instance=~"$instance"})"#,
            "",
        ),
        Panel::new(
            Kind::Table,
            "none",
            "Hosts by memory failures in the last day",
            "The ten worst: their DIMMs come first",
        )
        .query(
            r#"topk(10, instance:poisontrace_memory_failures:increase1d{instance=~"$instance"})"#,
            "",
        ),
        Panel::new(
            Kind::Series,
            "s",
            "Exit to entry, 99th percentile by host",
            "Of poison exits; emulated hosts' times say nothing about hardware",
        )
        .query(
            r#"instance:poisontrace_exit_to_entry_seconds:p99_5m{instance=~"$instance"} >= 0"#,
            "{{instance}}",
        ),
        Panel::new(
            Kind::Series,
            "ops",
            "Poison exits",
            "By host; a guest that spins makes 100,000s a second",
        )
        .query(
            r#"instance:poisontrace_poison_exits:rate1m{instance=~"$instance"}"#,
            "{{instance}}",
        ),
    ]
}

fn health() -> Vec<Panel> {
    vec![
        Panel::new(Kind::Alarm, "none", "Events lost, last hour", "Records that the ring buffer could not take")
            .wide(6)
            .query(
                r#"sum(increase(poisontrace_events_lost_total{instance=~"$instance"}[1h]))"#,
                "events",
            ),
        Panel::new(
            Kind::Alarm,
            "none",
            "Failures unseen, last hour",
            "Memory failures that the kernels counted and no probe saw",
        )
        .wide(6)
        .query(
            r#"sum(increase(poisontrace_memory_failures_unseen_total{instance=~"$instance"}[1h]))"#,
            "failures",
        ),
        Panel::new(Kind::Wanted, "none", "Stores", "0 where a host's store cannot be written to")
            .wide(6)
            .query(r#"min(poisontrace_store_up{instance=~"$instance"})"#, "worst"),
        Panel::new(Kind::Alarm, "none", "Hooks that failed, last hour", "Runs of the trigger hook")
            .wide(6)
            .query(
                r#"sum(increase(poisontrace_hook_runs_total{instance=~"$instance",result!="ok"}[1h]))"#,
                "runs",
            ),
        Panel::new(Kind::Table, "none", "Versions", "Hosts by version and revision").query(
            r#"count by (version, revision) (poisontrace_build_info{instance=~"$instance"})"#,
            "",
        ),
        Panel::new(Kind::Table, "none", "Probes that are not attached", "How many hosts lack each").query(
            r#"count by (probe) (poisontrace_probe_attached{instance=~"$instance"} == 0) or sum(poisontrace_probe_attached{instance=~"$instance"} * 0)"#,
            "",
        ),
    ]
}
