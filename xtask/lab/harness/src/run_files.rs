//! Files that a run leaves in its folder.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

pub struct Files<'a> {
    pub out: &'a Path,
}

impl Files<'_> {
    pub fn path(&self, name: &str) -> PathBuf {
        self.out.join(name)
    }

    pub fn text(&self, name: &str) -> Result<String> {
        let path = self.path(name);
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    pub fn json(&self, name: &str) -> Result<Value> {
        let text = self.text(name)?;
        serde_json::from_str(&text).with_context(|| format!("{} is not JSON", self.path(name).display()))
    }

    /// The one incident of poisontrace's answer.
    pub fn only_incident(&self) -> Result<Value> {
        let mut answer = self.json("explain.json")?;
        match answer["incidents"].take() {
            Value::Array(mut incidents) if incidents.len() == 1 => Ok(incidents.remove(0)),
            Value::Array(incidents) => bail!("{} incidents in place of one", incidents.len()),
            _ => bail!("explain.json has no list of incidents"),
        }
    }

    pub fn contains(&self, name: &str, wanted: &str) -> Result<()> {
        ensure!(
            self.text(name)?.contains(wanted),
            "{} does not say: {wanted}",
            self.path(name).display()
        );
        Ok(())
    }
}

/// How many entries of this kind an incident's timeline has.
pub fn timeline_entries(incident: &Value, kind: &str) -> usize {
    let entries = incident["timeline"].as_array().into_iter().flatten();
    entries.filter(|entry| entry["kind"] == kind).count()
}

/// Compares the value at a JSON pointer.
pub fn expect(json: &Value, pointer: &str, wanted: impl Into<Value>) -> Result<()> {
    let wanted = wanted.into();
    let found = json
        .pointer(pointer)
        .with_context(|| format!("there is no {pointer}"))?;
    ensure!(*found == wanted, "{pointer} is {found}, expected {wanted}");
    Ok(())
}

pub fn number(json: &Value, pointer: &str) -> Result<f64> {
    json.pointer(pointer)
        .and_then(Value::as_f64)
        .with_context(|| format!("{pointer} is not a number"))
}

/// Copies files of a run into a folder of the user's; those that are not there are left out.
pub fn keep(out: &Path, names: &[impl AsRef<Path>], folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    for name in names {
        let from = out.join(name);
        if from.is_file() {
            // Read and written, not copied: the copy gets the permissions of any new file.
            let bytes = fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?;
            fs::write(folder.join(name), bytes)
                .with_context(|| format!("cannot write to {}", folder.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn entries_of_a_timeline_are_counted_by_kind() {
        let incident = json!({"timeline": [{"kind": "exit"}, {"kind": "restarted"}, {"kind": "exit"}]});
        assert_eq!(timeline_entries(&incident, "exit"), 2);
        assert_eq!(timeline_entries(&incident, "restarted"), 1);
        assert_eq!(timeline_entries(&json!({}), "exit"), 0);
    }

    #[test]
    fn a_value_that_differs_or_is_absent_is_named_by_its_pointer() {
        let json = json!({"exits": {"count": 64}});
        assert!(expect(&json, "/exits/count", 64).is_ok());
        for (pointer, wanted) in [("/exits/count", 63), ("/exits/lines", 64)] {
            let error = expect(&json, pointer, wanted).unwrap_err().to_string();
            assert!(error.contains(pointer), "{error}");
        }
        assert_eq!(number(&json, "/exits/count").unwrap(), 64.0);
        assert!(number(&json, "/exits").is_err());
    }
}
