//! `cargo xtask dashboards`: Grafana's dashboards, written from here so that each panel has its unit, its words and a
//! data source of the reader's choice.

mod draw;
mod fleet;
mod host;
mod panel;

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

pub use draw::page;

use xtask_support::paths::Paths;

/// File below `dashboards/grafana`, and what it must hold.
pub fn all() -> Vec<(&'static str, Value)> {
    vec![
        ("fleet.json", fleet::dashboard()),
        ("host.json", host::dashboard()),
    ]
}

fn text(dashboard: &Value) -> Result<String> {
    Ok(serde_json::to_string_pretty(dashboard)? + "\n")
}

pub fn write(paths: &Paths) -> Result<()> {
    let folder = paths.root.join("dashboards/grafana");
    fs::create_dir_all(&folder)?;
    for (name, dashboard) in all() {
        fs::write(folder.join(name), text(&dashboard)?)?;
    }
    Ok(())
}

/// Whether the files of the tree are those that would be written.
pub fn check(paths: &Paths) -> Result<()> {
    for (name, dashboard) in all() {
        let path = paths.root.join("dashboards/grafana").join(name);
        let there = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        ensure!(
            there == text(&dashboard)?,
            "{} is not what `cargo xtask dashboards` writes: run it",
            path.display()
        );
    }
    Ok(())
}

/// A query of a panel.
#[derive(Debug)]
pub struct Query {
    pub panel: String,
    pub expr: String,
}

/// Every query of every panel of a dashboard, as Prometheus is asked it for all instances and VMs.
pub fn queries(dashboard: &Value) -> Vec<Query> {
    let panels = dashboard["panels"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let mut queries = Vec::new();
    for panel in panels {
        let targets = panel["targets"].as_array().map(Vec::as_slice).unwrap_or_default();
        for target in targets {
            let expr = query_of(target["expr"].as_str().unwrap_or_default());
            queries.push(Query {
                panel: panel["title"].as_str().unwrap_or_default().to_owned(),
                expr,
            });
        }
    }
    queries
}

/// A panel's query with the variables that stand for all, and a rate that a short replay allows.
fn query_of(expr: &str) -> String {
    let mut expr = expr.to_owned();
    for (variable, value) in [
        ("$instance", ".*"),
        ("$vm", ".*"),
        ("$__rate_interval", "10s"),
        ("$__range", "10m"),
    ] {
        expr = expr.replace(variable, value);
    }
    expr
}
