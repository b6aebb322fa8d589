//! One host, down to its VMs: what its guests met, what they were told, how long it took, and what it cost.

use serde_json::Value;

use super::panel::{Kind, Panel, Row, dashboard as whole, variable};

pub fn dashboard() -> Value {
    let rows = [
        Row("Now", now()),
        Row("Incidents", incidents()),
        Row("What guests met and were told", told()),
        Row("Latency of poison exits", latency()),
        Row("By VM (needs --vm-labels)", vms()),
        Row("The daemon and its probes", daemon()),
    ];
    whole(
        "poisontrace-host",
        "poisontrace / host and incidents",
        "Poisoned memory under the KVM guests of one host; `poisontrace explain` on it says the rest",
        vec![
            variable(
                "instance",
                "Host",
                "label_values(poisontrace_build_info, instance)",
                false,
            ),
            variable(
                "vm",
                "VM",
                r#"label_values(poisontrace_vm_incidents_total{instance=~"$instance"}, vm)"#,
                true,
            ),
        ],
        &rows,
    )
}

fn now() -> Vec<Panel> {
    let gauge = |title, metric: &str, description, kind, unit| {
        Panel::new(kind, unit, title, description)
            .query(&format!(r#"{metric}{{instance=~"$instance"}}"#), title)
    };
    vec![
        gauge(
            "Guests at risk",
            "poisontrace_guests_at_risk",
            "They run with a poisoned page which nothing has touched yet: restart them while they live",
            Kind::Alarm,
            "none",
        ),
        gauge(
            "Incidents open",
            "poisontrace_incidents_open",
            "Poisoned pages in guests whose VMM still runs",
            Kind::Stat,
            "none",
        ),
        gauge(
            "Poisoned pages",
            "poisontrace_poisoned_pages",
            "4 KiB pages of guests that run now",
            Kind::Stat,
            "none",
        ),
        gauge(
            "Hardware corrupted",
            "poisontrace_kernel_hardware_corrupted_bytes",
            "By the kernel's own count, guests' or not",
            Kind::Stat,
            "bytes",
        ),
        gauge(
            "VMs",
            "poisontrace_vms",
            "VMs of this host that were seen",
            Kind::Stat,
            "none",
        ),
        gauge(
            "Store",
            "poisontrace_store_up",
            "0 where the last write failed: incidents are kept in memory",
            Kind::Wanted,
            "none",
        ),
    ]
}

fn incidents() -> Vec<Panel> {
    vec![
        Panel::new(
            Kind::Stacked,
            "none",
            "Incidents by outcome and cause",
            "Since the daemon's start; a verdict that changes counts anew",
        )
        .query(
            r#"sum by (outcome, cause) (poisontrace_incidents_total{instance=~"$instance"}) > 0"#,
            "{{outcome}}: {{cause}}",
        ),
        Panel::new(
            Kind::Series,
            "none",
            "Memory failures",
            "Pages that the kernel gave up, in its own words, and what it counts itself",
        )
        .query(
            r#"sum by (type, result) (poisontrace_memory_failures_total{instance=~"$instance"}) > 0"#,
            "{{type}}: {{result}}",
        )
        .query(
            r#"sum(poisontrace_memory_failures_unseen_total{instance=~"$instance"})"#,
            "counted by the kernel, not seen",
        ),
        Panel::new(
            Kind::Series,
            "none",
            "Memory failures by the kernel's own count",
            "Since boot; Linux 6.4 or newer",
        )
        .query(
            r#"poisontrace_kernel_memory_failures_total{instance=~"$instance"}"#,
            "{{counter}}",
        ),
        Panel::new(
            Kind::Series,
            "none",
            "Storms",
            "Many exits on one page, since the daemon's start",
        )
        .query(
            r#"sum by (kind) (poisontrace_storms_total{instance=~"$instance"})"#,
            "{{kind}}",
        ),
    ]
}

fn told() -> Vec<Panel> {
    vec![
        Panel::new(Kind::Series, "ops", "Poison exits", "By kind of access").query(
            r#"sum by (access) (rate(poisontrace_poison_exits_total{instance=~"$instance"}[$__rate_interval]))"#,
            "{{access}}",
        ),
        Panel::new(Kind::Series, "ops", "SIGBUS to VMMs", "By severity").query(
            r#"sum by (severity) (rate(poisontrace_sigbus_total{instance=~"$instance"}[$__rate_interval]))"#,
            "{{severity}}",
        ),
        Panel::new(
            Kind::Series,
            "none",
            "Machine checks",
            "Queued by VMMs, by severity, and delivered to guests; since the daemon's start",
        )
        .query(
            r#"sum by (severity) (poisontrace_machine_checks_queued_total{instance=~"$instance"})"#,
            "queued: {{severity}}",
        )
        .query(
            r#"sum(poisontrace_machine_checks_delivered_total{instance=~"$instance"})"#,
            "delivered",
        ),
        Panel::new(
            Kind::Series,
            "percentunit",
            "The host-side gup's share",
            "Of the time that poison exits take in the kernel",
        )
        .query(
            r#"sum(rate(poisontrace_exit_gup_seconds_sum{instance=~"$instance"}[$__rate_interval])) / sum(rate(poisontrace_exit_in_kernel_seconds_sum{instance=~"$instance"}[$__rate_interval]))"#,
            "gup / in kernel",
        ),
    ]
}

/// A quantile of one of the latencies.
fn quantile(q: f64, metric: &str) -> String {
    format!(
        r#"histogram_quantile({q}, sum by (le) (rate({metric}_bucket{{instance=~"$instance"}}[$__rate_interval])))"#
    )
}

fn heatmap(title: &'static str, metric: &str, description: &'static str) -> Panel {
    Panel::new(Kind::Heatmap, "s", title, description).query(
        &format!(r#"sum by (le) (increase({metric}_bucket{{instance=~"$instance"}}[$__rate_interval]))"#),
        "{{le}}",
    )
}

fn latency() -> Vec<Panel> {
    vec![
        heatmap(
            "Exit to entry",
            "poisontrace_exit_to_entry_seconds",
            "From the exit to the next entry into the guest. Emulated hosts' times say nothing about hardware",
        ),
        heatmap(
            "gup",
            "poisontrace_exit_gup_seconds",
            "In get_user_pages_unlocked(): the host-side gup",
        ),
        Panel::new(Kind::Series, "s", "Percentiles", "Of poison exits")
            .query(&quantile(0.5, "poisontrace_exit_in_kernel_seconds"), "in kernel, median")
            .query(&quantile(0.99, "poisontrace_exit_in_kernel_seconds"), "in kernel, 99 %")
            .query(&quantile(0.99, "poisontrace_exit_in_vmm_seconds"), "in the VMM, 99 %")
            .query(&quantile(0.99, "poisontrace_exit_gup_seconds"), "gup, 99 %"),
        Panel::new(
            Kind::Series,
            "s",
            "63 exits in the kernel",
            "The mean exit times 63; LKML's claim of 2020 is 50 µs, host-side gup included",
        )
        .query(
            r#"63 * sum(rate(poisontrace_exit_in_kernel_seconds_sum{instance=~"$instance"}[$__rate_interval])) / sum(rate(poisontrace_exit_in_kernel_seconds_count{instance=~"$instance"}[$__rate_interval]))"#,
            "63 exits",
        )
        .query("vector(0.00005)", "the claim"),
        Panel::new(Kind::Series, "percentunit", "Exits within 50 µs", "From exit to entry").query(
            r#"sum(poisontrace_exit_to_entry_seconds_bucket{instance=~"$instance",le="0.00005"}) / sum(poisontrace_exit_to_entry_seconds_count{instance=~"$instance"})"#,
            "within",
        ),
        Panel::new(Kind::Series, "s", "Storms' length", "Mean of those that are over, since the daemon's start").query(
            r#"sum(poisontrace_storm_duration_seconds_sum{instance=~"$instance"}) / sum(poisontrace_storm_duration_seconds_count{instance=~"$instance"})"#,
            "mean",
        ),
    ]
}

fn vms() -> Vec<Panel> {
    vec![
        Panel::new(Kind::Stacked, "none", "Incidents by VM and outcome", "Since the daemon's start").query(
            r#"sum by (vm, outcome) (poisontrace_vm_incidents_total{instance=~"$instance",vm=~"$vm"})"#,
            "{{vm}}: {{outcome}}",
        ),
        Panel::new(Kind::Series, "ops", "Poison exits by VM", "").query(
            r#"sum by (vm) (rate(poisontrace_vm_poison_exits_total{instance=~"$instance",vm=~"$vm"}[$__rate_interval]))"#,
            "{{vm}}",
        ),
    ]
}

fn daemon() -> Vec<Panel> {
    vec![
        Panel::new(Kind::Table, "none", "Probes", "1 where a row of `poisontrace check` is attached").query(
            r#"poisontrace_probe_attached{instance=~"$instance"}"#,
            "",
        ),
        Panel::new(
            Kind::Series,
            "s",
            "Cost of a run of each probe",
            "While kernel.bpf_stats_enabled is 1",
        )
        .query(
            r#"sum by (program) (rate(poisontrace_probe_run_seconds_total{instance=~"$instance"}[$__rate_interval])) / sum by (program) (rate(poisontrace_probe_runs_total{instance=~"$instance"}[$__rate_interval]))"#,
            "{{program}}",
        ),
        Panel::new(Kind::Series, "ops", "Events", "Records of the probes: received, and lost")
            .query(
                r#"sum(rate(poisontrace_events_total{instance=~"$instance"}[$__rate_interval]))"#,
                "received",
            )
            .query(
                r#"sum(rate(poisontrace_events_lost_total{instance=~"$instance"}[$__rate_interval]))"#,
                "lost",
            ),
        Panel::new(Kind::Series, "s", "Since the last event", "Quiet is normal: without poison there are no events").query(
            r#"time() - (poisontrace_last_event_timestamp_seconds{instance=~"$instance"} > 0)"#,
            "{{instance}}",
        ),
        Panel::new(Kind::Series, "bytes", "Memory and store", "Resident memory of the daemon; size of the store")
            .query(
                r#"poisontrace_process_resident_memory_bytes{instance=~"$instance"}"#,
                "resident",
            )
            .query(r#"poisontrace_store_size_bytes{instance=~"$instance"}"#, "store"),
        Panel::new(Kind::Series, "percentunit", "Processor", "Of one CPU").query(
            r#"rate(poisontrace_process_cpu_seconds_total{instance=~"$instance"}[$__rate_interval])"#,
            "daemon",
        ),
        Panel::new(Kind::Series, "none", "Incidents begun, and forgotten", "Forgotten: the table in memory was full; the store keeps them")
            .query(r#"poisontrace_incidents_opened_total{instance=~"$instance"}"#, "begun")
            .query(
                r#"poisontrace_incidents_forgotten_total{instance=~"$instance"}"#,
                "forgotten",
            ),
        Panel::new(Kind::Series, "none", "Trigger hook", "Runs by result").query(
            r#"sum by (result) (poisontrace_hook_runs_total{instance=~"$instance"})"#,
            "{{result}}",
        ),
    ]
}
