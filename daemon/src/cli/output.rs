//! Writing answers.

use std::{io, path::Path};

use super::ReportFormat;
use crate::{failure::Failure, private_file, terminal};
use poisontrace_model::host::Host;
use poisontrace_report::{
    Look,
    document::{Answer, Incident},
};

/// Writes incidents in the form that was asked for, to a file or to standard output.
pub fn answer(
    format: ReportFormat,
    host: Host,
    incidents: Vec<Incident>,
    file: Option<&Path>,
) -> Result<(), Failure> {
    let text = match format {
        ReportFormat::Json => json(host, incidents)?,
        ReportFormat::Html => poisontrace_report::html(&host, &incidents),
        ReportFormat::Text => {
            let look = match file {
                Some(_) => Look::PLAIN,
                None => Look::of_stdout(),
            };
            let texts: Vec<String> = incidents
                .iter()
                .map(|incident| poisontrace_report::text(&host, incident, look))
                .collect();
            texts.join("\n")
        }
    };
    match file {
        Some(file) => private_file::replace(file, &text).map_err(|err| unwritable(file, &err)),
        None => terminal::print(&text),
    }
}

/// Incidents as the contract's JSON.
pub fn json(host: Host, incidents: Vec<Incident>) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(&Answer::new(host, incidents))?;
    Ok(format!("{text}\n"))
}

fn unwritable(file: &Path, err: &io::Error) -> Failure {
    let why = match err.kind() {
        io::ErrorKind::NotFound => {
            "its folder does not exist: make it with mkdir -p, or name another file".to_owned()
        }
        io::ErrorKind::PermissionDenied => "not allowed: name another file with --output".to_owned(),
        _ => err.to_string(),
    };
    Failure::new(format!("cannot write {}: {why}", file.display()))
}
