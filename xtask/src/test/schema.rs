//! Holds a report against the published schema.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use jsonschema::Validator;
use serde_json::Value;

use lab_harness::run_files::Files;

const SCHEMA: &str = "daemon/report/explain.schema.json";

pub struct Schema(Validator);

impl Schema {
    pub fn read(root: &Path) -> Result<Self> {
        let path = root.join(SCHEMA);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let schema = serde_json::from_str(&text).with_context(|| format!("{SCHEMA} is not JSON"))?;
        let validator = jsonschema::validator_for(&schema).map_err(|error| anyhow!("{SCHEMA}: {error}"))?;
        Ok(Self(validator))
    }

    pub fn holds(&self, files: &Files, name: &str) -> Result<()> {
        self.valid(&files.json(name)?)
    }

    pub fn valid(&self, report: &Value) -> Result<()> {
        let complaints: Vec<String> = self
            .0
            .iter_errors(report)
            .map(|error| format!("{}: {error}", error.instance_path))
            .collect();
        if !complaints.is_empty() {
            bail!("{}", complaints.join("; "));
        }
        Ok(())
    }
}
