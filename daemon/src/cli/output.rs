//! Writing answers to standard output.

use std::{
    fs::File,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use super::{Failure, Format};
use crate::{
    host::Host,
    incident::model::{Answer, Incident},
    sinks::report,
};

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

/// Prints incidents in the form that was asked for.
pub fn answer(format: Format, host: Host, incidents: Vec<Incident>) -> Result<(), Failure> {
    match format {
        Format::Json => json(&Answer::new(host, incidents)),
        Format::Text => {
            let texts: Vec<String> = incidents
                .iter()
                .map(|incident| report::text(&host, incident))
                .collect();
            print(&texts.join("\n"))
        }
    }
}

fn json(answer: &Answer) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(answer)?;
    print(&format!("{text}\n"))
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
