//! What `poisontrace forecast` answered before the poison, beside what then happened.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::story::Foretold;
use super::verdict_check::in_words;

/// One row of the table.
pub struct Row {
    pub name: String,
    pub forecast: String,
    pub happened: String,
}

/// Compares the answer in `file` with the incidents. `guest`: the VM's name; `None`: there is one VM. A disagreement is an error.
pub fn row(
    name: &str,
    foretold: Foretold,
    file: &Path,
    guest: Option<&str>,
    incidents: &[Value],
) -> Result<Row> {
    let happened = in_words(incidents);
    let page = match foretold {
        Foretold::Page(page) => page,
        Foretold::Unknowable(why) => {
            return Ok(Row {
                name: name.to_owned(),
                forecast: format!("cannot be known: {why}"),
                happened,
            });
        }
    };
    let text = fs::read_to_string(file).with_context(|| format!("the lab left no {}", file.display()))?;
    let document: Value = serde_json::from_str(&text).context("the forecast is no JSON")?;
    let vms = document["vms"].as_array().context("the forecast has no VMs")?;
    let vm = vms.iter().find(|vm| guest.is_none_or(|name| vm["name"] == name));
    let vm = vm.with_context(|| format!("the forecast names no such VM: {}", document["summary"]))?;
    let entries = vm["forecasts"].as_array().context("the VM has no answers")?;
    let entry = entries
        .iter()
        .find(|entry| entry["page"] == page && entry["notice"] == "ao");
    let entry = entry.with_context(|| format!("no answer for {page}"))?;
    let forecast = answer(entry, incidents);
    match forecast {
        Ok(forecast) => Ok(Row {
            name: name.to_owned(),
            forecast,
            happened,
        }),
        Err(forecast) => bail!("foretold {forecast}; it became {happened}"),
    }
}

/// Whether one of the incidents is as foretold. The lab itself ends a VMM whose vCPU hangs, and a tiny VMM that has shown what it
/// is for.
fn agrees(foretold: &Value, incidents: &[Value]) -> bool {
    incidents.iter().any(|incident| {
        let hangs = foretold["outcome"] == "running";
        foretold["cause"] == incident["cause"] && (hangs || foretold["outcome"] == incident["outcome"])
    })
}

/// The answer in words; as an error where it is not what happened.
fn answer(entry: &Value, incidents: &[Value]) -> Result<String, String> {
    let word = |of: &Value, key: &str| of[key].as_str().unwrap_or("?").to_owned();
    let verdict = |of: &Value| format!("{} by {}", word(of, "outcome"), word(of, "cause"));
    if entry["outcome"].is_string() {
        let text = verdict(entry);
        return if agrees(entry, incidents) {
            Ok(text)
        } else {
            Err(text)
        };
    }
    let cases = entry["cases"].as_array().map(Vec::as_slice).unwrap_or_default();
    let when = |case: &Value| {
        let all = case["when"].as_array().map(Vec::as_slice).unwrap_or_default();
        let messages: Vec<&str> = all.iter().filter_map(|when| when["message"].as_str()).collect();
        messages.join(", ")
    };
    match cases.iter().find(|case| agrees(case, incidents)) {
        Some(case) => Ok(format!("{}: {}", when(case), verdict(case))),
        None => Err(word(entry, "summary")),
    }
}

/// The rows under each other.
pub fn table(rows: &[Row]) -> String {
    let width = |of: fn(&Row) -> &str| rows.iter().map(|row| of(row).chars().count()).max().unwrap_or(0);
    let (names, forecasts) = (width(|row| &row.name), width(|row| &row.forecast));
    let line = |name: &str, forecast: &str, happened: &str| {
        format!("  {name:<names$}  {forecast:<forecasts$}  {happened}\n")
    };
    let all = rows
        .iter()
        .map(|row| line(&row.name, &row.forecast, &row.happened));
    line("scenario", "forecast", "outcome") + &all.collect::<String>()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row_of(entry: Value, incident: &Value) -> Result<Row> {
        let document = json!({"summary": "", "vms": [{"name": "demo", "forecasts": [entry]}]});
        let file = std::env::temp_dir().join(format!("forecast-{}-{:p}.json", std::process::id(), &document));
        fs::write(&file, document.to_string())?;
        let row = row(
            "panic",
            Foretold::Page("guest_process"),
            &file,
            Some("demo"),
            std::slice::from_ref(incident),
        );
        fs::remove_file(&file)?;
        row
    }

    #[test]
    fn a_disagreement_fails_and_a_hang_that_the_lab_ends_is_none() {
        let entry = |outcome: &str, cause: &str| json!({"page": "guest_process", "notice": "ao", "outcome": outcome, "cause": cause, "cases": []});
        let died = json!({"outcome": "guest_panicked", "cause": "mce_overflow", "confidence": "certain"});
        assert!(row_of(entry("guest_panicked", "mce_overflow"), &died).is_ok());
        assert!(row_of(entry("guest_panicked", "kernel_access"), &died).is_err());
        assert!(row_of(entry("survived", "contained"), &died).is_err());
        let killed = json!({"outcome": "vmm_killed", "cause": "mce_nested", "confidence": "certain"});
        assert!(row_of(entry("running", "mce_nested"), &killed).is_ok());
        let cases = json!({"page": "guest_process", "notice": "ao", "outcome": null, "cause": null, "summary": "",
            "cases": [{"when": [{"kind": "vmm_ends", "message": "if it ends"}], "outcome": "vmm_killed", "cause": "mce_nested"}]});
        assert_eq!(
            row_of(cases, &killed).unwrap().forecast,
            "if it ends: vmm_killed by mce_nested"
        );
    }
}
