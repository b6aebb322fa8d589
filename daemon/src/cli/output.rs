//! Writing answers to standard output.

use std::io::{self, Write};

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
