//! Grafana's dashboard model (schema version 39, Grafana 10.4 and newer), as little of it as is used.

use serde_json::{Value, json};

/// Columns of Grafana's grid.
const COLUMNS: u64 = 24;

pub enum Kind {
    /// One number.
    Stat,
    /// The same, red above 0.
    Alarm,
    /// The same, red below 1.
    Wanted,
    Series,
    /// Series on top of each other.
    Stacked,
    /// A histogram over time.
    Heatmap,
    Table,
}

pub struct Panel {
    title: &'static str,
    description: &'static str,
    kind: Kind,
    unit: &'static str,
    size: (u64, u64),
    targets: Vec<(String, &'static str)>,
}

impl Panel {
    /// `unit`: Grafana's id of it.
    pub fn new(kind: Kind, unit: &'static str, title: &'static str, description: &'static str) -> Self {
        let size = match kind {
            Kind::Stat | Kind::Alarm | Kind::Wanted => (4, 4),
            _ => (12, 8),
        };
        Self {
            title,
            description,
            kind,
            unit,
            size,
            targets: Vec::new(),
        }
    }

    pub fn wide(mut self, columns: u64) -> Self {
        self.size.0 = columns;
        self
    }

    /// `legend`: Grafana's, `{{label}}` stands for its value.
    pub fn query(mut self, expr: &str, legend: &'static str) -> Self {
        self.targets.push((expr.to_owned(), legend));
        self
    }

    fn json(&self, id: u64, x: u64, y: u64) -> Value {
        let source = json!({"type": "prometheus", "uid": "${datasource}"});
        let kind = match self.kind {
            Kind::Stat | Kind::Alarm | Kind::Wanted => "stat",
            Kind::Series | Kind::Stacked => "timeseries",
            Kind::Heatmap => "heatmap",
            Kind::Table => "table",
        };
        let format = match self.kind {
            Kind::Heatmap => "heatmap",
            Kind::Table => "table",
            _ => "time_series",
        };
        let now = matches!(self.kind, Kind::Stat | Kind::Alarm | Kind::Wanted | Kind::Table);
        let targets: Vec<Value> = self
            .targets
            .iter()
            .zip("ABCDEFGH".chars())
            .map(|((expr, legend), name)| {
                json!({
                    "datasource": source, "refId": name.to_string(), "expr": expr, "legendFormat": legend,
                    "format": format, "instant": now, "range": !now,
                })
            })
            .collect();
        let (width, height) = self.size;
        json!({
            "id": id, "type": kind, "title": self.title, "description": self.description,
            "datasource": source, "gridPos": {"x": x, "y": y, "w": width, "h": height},
            "fieldConfig": {"defaults": self.defaults(), "overrides": []},
            "options": self.options(), "targets": targets,
            "transformations": self.transformations(),
        })
    }

    fn defaults(&self) -> Value {
        let steps = match self.kind {
            Kind::Alarm => json!([{"color": "green", "value": null}, {"color": "red", "value": 1e-9}]),
            Kind::Wanted => json!([{"color": "red", "value": null}, {"color": "green", "value": 1}]),
            _ => json!([{"color": "blue", "value": null}]),
        };
        let mut defaults = json!({
            "unit": self.unit, "thresholds": {"mode": "absolute", "steps": steps},
        });
        match self.kind {
            Kind::Stat | Kind::Alarm | Kind::Wanted => {
                defaults["color"] = json!({"mode": "thresholds"});
            }
            Kind::Series => {
                defaults["custom"] = json!({"lineWidth": 2, "fillOpacity": 5, "showPoints": "auto"})
            }
            Kind::Stacked => {
                defaults["custom"] = json!({
                    "lineWidth": 1, "fillOpacity": 40, "showPoints": "auto",
                    "stacking": {"mode": "normal", "group": "A"},
                });
            }
            Kind::Heatmap | Kind::Table => {}
        }
        defaults
    }

    fn options(&self) -> Value {
        match self.kind {
            Kind::Stat | Kind::Alarm | Kind::Wanted => json!({
                "colorMode": "background", "graphMode": "none", "textMode": "auto",
                "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": false},
            }),
            Kind::Series | Kind::Stacked => json!({
                "legend": {"displayMode": "list", "placement": "bottom", "showLegend": true},
                "tooltip": {"mode": "multi", "sort": "desc"},
            }),
            Kind::Heatmap => json!({
                "calculate": false, "yAxis": {"unit": self.unit}, "cellGap": 1,
                "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64},
                "tooltip": {"mode": "single", "yHistogram": true}, "legend": {"show": true},
            }),
            Kind::Table => json!({"showHeader": true, "cellHeight": "sm"}),
        }
    }

    /// A table has no use for the time, nor for the job, and joins its queries by their labels.
    fn transformations(&self) -> Value {
        match self.kind {
            Kind::Table => json!([
                {"id": "merge", "options": {}},
                {"id": "organize", "options": {"excludeByName": {"Time": true, "__name__": true, "job": true}}},
            ]),
            _ => json!([]),
        }
    }
}

/// A row of panels under a heading, laid out from left to right.
pub struct Row(pub &'static str, pub Vec<Panel>);

/// A variable that the reader chooses from the values of a label.
pub fn variable(name: &str, label: &str, query: &str, many: bool) -> Value {
    json!({
        "name": name, "label": label, "type": "query", "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "query": {"query": query, "refId": name}, "definition": query, "refresh": 2, "sort": 1,
        "multi": many, "includeAll": many, "allValue": if many { json!(".*") } else { Value::Null },
        "current": if many { json!({"selected": true, "text": ["All"], "value": ["$__all"]}) } else { json!({}) },
    })
}

pub fn dashboard(uid: &str, title: &str, description: &str, variables: Vec<Value>, rows: &[Row]) -> Value {
    let mut panels = Vec::new();
    let mut id = 0;
    let mut y = 0;
    for Row(heading, row) in rows {
        id += 1;
        panels.push(json!({
            "id": id, "type": "row", "title": heading, "collapsed": false,
            "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1}, "panels": [],
        }));
        y += 1;
        let (mut x, mut height) = (0, 0);
        for panel in row {
            let (w, h) = panel.size;
            if x + w > COLUMNS {
                (x, y, height) = (0, y + height, 0);
            }
            id += 1;
            panels.push(panel.json(id, x, y));
            x += w;
            height = height.max(h);
        }
        y += height;
    }
    let source = json!({
        "name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus",
        "current": {}, "regex": "", "hide": 0,
    });
    let list: Vec<Value> = std::iter::once(source).chain(variables).collect();
    json!({
        "uid": uid, "title": title, "description": description, "tags": ["poisontrace"],
        "schemaVersion": 39, "version": 1, "editable": true, "graphTooltip": 1,
        "time": {"from": "now-6h", "to": "now"}, "refresh": "30s", "timezone": "browser",
        "links": [{
            "title": "poisontrace", "type": "dashboards", "tags": ["poisontrace"], "asDropdown": true,
            "includeVars": true, "keepTime": true, "icon": "external link",
        }],
        "templating": {"list": list}, "annotations": {"list": []}, "panels": panels,
    })
}
