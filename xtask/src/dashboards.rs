//! Grafana's dashboards, `dashboards/grafana/*.json`: edited by hand, read here for the tests of their queries.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// A dashboard and the name of its file.
pub struct Dashboard {
    pub file: String,
    pub content: Value,
}

/// All dashboards below `root`, by name.
pub fn all(root: &Path) -> Result<Vec<Dashboard>> {
    let folder = root.join("dashboards/grafana");
    let mut dashboards = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        dashboards.push(Dashboard {
            file: path
                .file_name()
                .map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
            content: serde_json::from_str(&text)
                .with_context(|| format!("{} is not JSON", path.display()))?,
        });
    }
    dashboards.sort_by(|a, b| a.file.cmp(&b.file));
    ensure!(!dashboards.is_empty(), "{} holds no dashboards", folder.display());
    Ok(dashboards)
}

/// A query of a panel.
#[derive(Debug)]
pub struct Query {
    pub panel: String,
    pub expr: String,
    /// Asked for one time only.
    pub instant: bool,
}

/// What Grafana puts in place of a dashboard's variables.
pub struct Variables<'a> {
    pub instance: &'a str,
    pub rate_interval: &'a str,
    pub range: &'a str,
}

/// All instances and VMs; a rate has an interval that a short replay allows.
pub const SHORT_REPLAY: Variables<'_> = Variables {
    instance: ".*",
    rate_interval: "10s",
    range: "10m",
};

impl Dashboard {
    fn panels(&self) -> impl Iterator<Item = &Value> {
        self.content["panels"].as_array().into_iter().flatten()
    }

    /// Every query of every panel.
    pub fn queries(&self, variables: &Variables<'_>) -> Vec<Query> {
        let of_panel = |panel: &Value| -> Vec<Query> {
            let targets = panel["targets"].as_array().into_iter().flatten();
            targets
                .map(|target| Query {
                    panel: panel["title"].as_str().unwrap_or_default().to_owned(),
                    expr: variables.put(target["expr"].as_str().unwrap_or_default()),
                    instant: target["instant"].as_bool().unwrap_or_default(),
                })
                .collect()
        };
        self.panels().flat_map(of_panel).collect()
    }
}

impl Variables<'_> {
    fn put(&self, expr: &str) -> String {
        let mut expr = expr.to_owned();
        for (variable, value) in [
            ("$instance", self.instance),
            ("$vm", ".*"),
            ("$__rate_interval", self.rate_interval),
            ("$__range", self.range),
        ] {
            expr = expr.replace(variable, value);
        }
        expr
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::PathBuf;

    use super::*;

    const COLUMNS: u64 = 24;
    const SOURCE: &str = "${datasource}";

    fn dashboards() -> Vec<Dashboard> {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
        all(&root).unwrap()
    }

    fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
        value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    #[test]
    fn each_panel_has_an_id_of_its_own_and_a_place_that_no_other_has() {
        for dashboard in dashboards() {
            let (mut ids, mut cells) = (BTreeSet::new(), BTreeSet::new());
            for panel in dashboard.panels() {
                let title = format!("{}: {}", dashboard.file, panel["title"]);
                assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}");
                let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap());
                assert!(w > 0 && h > 0 && x + w <= COLUMNS, "{title}");
                for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
                    assert!(cells.insert(cell), "{title} overlaps another panel");
                }
            }
        }
    }

    #[test]
    fn each_panel_has_title_description_unit_and_queries_of_the_chosen_source() {
        for dashboard in dashboards() {
            for panel in dashboard.panels().filter(|panel| panel["type"] != "row") {
                let title = format!("{}: {}", dashboard.file, panel["title"]);
                for pointer in ["/title", "/description", "/fieldConfig/defaults/unit"] {
                    assert!(!text(panel, pointer).is_empty(), "{title} has no {pointer}");
                }
                assert_eq!(text(panel, "/datasource/uid"), SOURCE, "{title}");
                let targets = panel["targets"].as_array().unwrap();
                assert!(!targets.is_empty(), "{title} has no query");
                let names: BTreeSet<&str> = targets.iter().map(|target| text(target, "/refId")).collect();
                assert_eq!(names.len(), targets.len(), "{title}: names of its queries");
                for target in targets {
                    assert_eq!(text(target, "/datasource/uid"), SOURCE, "{title}");
                    assert!(text(target, "/expr").contains("poisontrace_") || panel["type"] == "timeseries");
                }
            }
        }
    }

    #[test]
    fn each_variable_of_a_query_is_one_of_the_dashboard() {
        for dashboard in dashboards() {
            let list = dashboard.content["templating"]["list"].as_array().unwrap();
            let known: BTreeSet<&str> = list.iter().map(|one| text(one, "/name")).collect();
            assert!(known.contains("datasource") && known.contains("instance"));
            let used = dashboard.content["panels"].to_string();
            for word in used.split('$').skip(1) {
                let name: &str = word
                    .trim_start_matches('{')
                    .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
                    .next()
                    .unwrap();
                assert!(
                    known.contains(name) || name.starts_with("__"),
                    "{}: ${name}",
                    dashboard.file
                );
            }
        }
    }

    #[test]
    fn uids_and_titles_tell_the_dashboards_apart() {
        let dashboards = dashboards();
        for key in ["uid", "title"] {
            let values: BTreeSet<&str> = dashboards
                .iter()
                .map(|dashboard| dashboard.content[key].as_str().unwrap())
                .collect();
            assert_eq!(values.len(), dashboards.len(), "{key}");
        }
    }

    #[test]
    fn a_query_is_asked_without_variables() {
        let expr = r#"rate(m{instance=~"$instance",vm=~"$vm"}[$__rate_interval])"#;
        assert_eq!(SHORT_REPLAY.put(expr), r#"rate(m{instance=~".*",vm=~".*"}[10s])"#);
    }
}
