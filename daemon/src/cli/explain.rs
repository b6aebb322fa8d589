//! `poisontrace explain`: from the store, or from a recording through the same correlator.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, IsTerminal as _},
    path::Path,
    process::ExitCode,
};

use super::{ExplainArgs, Failure, Format, Outcome, output};
use crate::{
    correlate::Correlator,
    event::recording::Reader,
    host::Host,
    incident::model::Incident,
    sinks::store::{Stored, Wanted},
};

pub fn explain(args: &ExplainArgs) -> Outcome {
    let (host, incidents) = match &args.from {
        Some(file) => from_recording(file, args)?,
        None => from_store(args)?,
    };
    // Like grep: 1 says that the question was understood and nothing was found. A recording without poison is an
    // answer in itself.
    let asked_for_one = args.id.is_some() || args.vm.is_some() || args.from.is_none();
    let none = incidents.is_empty();
    match (none, args.format) {
        (true, Format::Text) if asked_for_one => eprintln!("poisontrace: {}", no_incident(args)),
        (true, Format::Text) => output::print(&format!("{}\n", no_incident(args)))?,
        _ => output::answer(args.format, host, incidents)?,
    }
    Ok(if none && asked_for_one {
        ExitCode::from(1)
    } else {
        ExitCode::SUCCESS
    })
}

fn no_incident(args: &ExplainArgs) -> String {
    match (&args.id, &args.vm, &args.from) {
        (Some(id), _, _) => format!("no incident {id}: `poisontrace incidents` lists those there are"),
        (_, Some(name), _) => {
            format!("no incident of a VM named {name}: `poisontrace incidents` lists those there are")
        }
        (_, _, Some(_)) => "no incident: nothing in this recording is poison in a guest's memory".to_owned(),
        _ => "no incident has been recorded".to_owned(),
    }
}

fn from_store(args: &ExplainArgs) -> Result<(Host, Vec<Incident>), Failure> {
    let wanted = match (&args.id, &args.vm) {
        (Some(id), _) => Wanted::Id(id.clone()),
        (None, Some(name)) => Wanted::Vm(name.clone()),
        (None, None) => Wanted::Last,
    };
    let found = Stored::open(&args.state.state_dir)?.get(&wanted)?;
    let host = found.first().map_or_else(Host::this, |(host, _)| host.clone());
    Ok((host, found.into_iter().map(|(_, incident)| incident).collect()))
}

fn from_recording(file: &Path, args: &ExplainArgs) -> Result<(Host, Vec<Incident>), Failure> {
    let named = |problem: &dyn std::fmt::Display| Failure::new(format!("{}: {problem}", file.display()));
    let input: Box<dyn BufRead> = if file.as_os_str() == "-" {
        if io::stdin().is_terminal() {
            return Err(Failure::new(
                "--from - reads a recording from standard input, which is a terminal",
            ));
        }
        Box::new(BufReader::new(io::stdin()))
    } else {
        Box::new(BufReader::with_capacity(
            1 << 16,
            File::open(file).map_err(|err| named(&err))?,
        ))
    };
    let mut reader = Reader::new(input, args.allow_truncated).map_err(|err| named(&err))?;
    let mut correlator = Correlator::new(reader.session().clone());
    while let Some(event) = reader.next_event().map_err(|err| named(&err))? {
        correlator.feed(&event);
    }
    let mut incidents = correlator.incidents();
    if reader.truncated() {
        for incident in &mut incidents {
            incident
                .missing
                .push("the end of the recording: what came after it is not known".to_owned());
        }
    }
    if let Some(id) = &args.id {
        incidents.retain(|incident| incident.id == *id);
    }
    if let Some(name) = &args.vm {
        incidents.retain(|incident| incident.vm.name.as_ref() == Some(name));
    }
    if args.last || args.vm.is_some() {
        incidents = incidents.pop().into_iter().collect();
    }
    Ok((correlator.session().host.clone(), incidents))
}
