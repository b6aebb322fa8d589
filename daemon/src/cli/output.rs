//! Writing answers.

use std::{
    fs::{File, Permissions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use super::{Failure, ReportFormat};
use poisontrace_model::{
    host::Host,
    incident::model::{Answer, Incident},
};
use poisontrace_report::{self, Look};

/// Prints to standard output. A reader that closed its end (`| head`) has what it wanted.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(err) if err.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("cannot write to standard output: {err}")))
        }
        _ => Ok(()),
    }
}

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
        Some(file) => write(file, &text).map_err(|err| unwritable(file, &err)),
        None => print(&text),
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

/// Writes the whole file or none of it, for its owner and group to read: it holds guest addresses.
fn write(path: &Path, text: &str) -> io::Result<()> {
    // A device or a pipe cannot be replaced by a file.
    if path.metadata().is_ok_and(|there| !there.is_file()) {
        return File::options().write(true).open(path)?.write_all(text.as_bytes());
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut file = tempfile::Builder::new()
        .permissions(Permissions::from_mode(0o640))
        .tempfile_in(folder.unwrap_or(Path::new(".")))?;
    file.write_all(text.as_bytes())?;
    file.persist(path)?;
    Ok(())
}

/// Creates a file that holds guest addresses, and is therefore readable by owner and group only. One that exists is
/// left alone.
pub fn create(path: &Path) -> Result<File, Failure> {
    File::options()
        .write(true)
        .create_new(true)
        .mode(0o640)
        .open(path)
        .map_err(|err| {
            Failure::new(match err.kind() {
                io::ErrorKind::AlreadyExists => {
                    format!("{} exists: name another file, or remove it", path.display())
                }
                _ => format!("cannot create {}: {err}", path.display()),
            })
        })
}
