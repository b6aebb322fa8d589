//! Writing answers.

use std::{io, path::Path};

use super::ReportFormat;
use crate::{failure::Failure, private_file, terminal};
use poisontrace_report::{Look, document::Answer};

/// Writes an answer in the form that was asked for, to a file or to standard output.
///
/// `brief`: of the text form the first screen alone.
pub fn answer(
    format: ReportFormat,
    answer: &Answer,
    file: Option<&Path>,
    brief: bool,
) -> Result<(), Failure> {
    let (host, incidents) = (&answer.host, &answer.incidents);
    let text = match format {
        ReportFormat::Json => json(answer)?,
        ReportFormat::Html => poisontrace_report::html(host, incidents),
        ReportFormat::Text => {
            let look = look(file);
            let texts: Vec<String> = incidents
                .iter()
                .map(|incident| match brief {
                    true => poisontrace_report::brief(host, incident, look),
                    false => poisontrace_report::text(host, incident, look),
                })
                .collect();
            let events = answer.host_events.iter();
            let events: String = events
                .map(|event| format!("{}\n", poisontrace_report::host_event(event)))
                .collect();
            let events = match answer.host_events_left_out {
                0 => events,
                more => events + &poisontrace_report::cli::host_events_left_out(more),
            };
            match texts.is_empty() || events.is_empty() {
                true => texts.join("\n") + &events,
                false => format!("{}\n{events}", texts.join("\n")),
            }
        }
    };
    write(&text, file)
}

/// How a text looks in a file, or on standard output.
pub fn look(file: Option<&Path>) -> Look {
    match file {
        Some(_) => Look::PLAIN,
        None => terminal::look(),
    }
}

/// Writes to a file, whose content it replaces, or to standard output.
pub fn write(text: &str, file: Option<&Path>) -> Result<(), Failure> {
    match file {
        Some(file) => private_file::replace(file, text).map_err(|err| unwritable(file, &err)),
        None => terminal::print(text),
    }
}

/// Incidents as the contract's JSON.
pub fn json(answer: &Answer) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(answer)?;
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
