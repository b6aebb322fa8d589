//! `poisontrace explain`: from the store, or from files through the same correlator.

use std::{path::PathBuf, process::ExitCode};

use super::{
    ExplainArgs, Outcome, ReportFormat, SourceArgs, incidents::report_skipped, output, progress::Progress,
};
use crate::{
    failure::Failure,
    outputs::store::{Stored, Wanted},
    terminal,
};
use poisontrace_model::{host::Host, text::sanitise};
use poisontrace_report::document::Incident;

pub fn explain(args: &ExplainArgs, source: &SourceArgs) -> Outcome {
    let (host, incidents) = match args.from.as_slice() {
        [] => from_store(args, source)?,
        files => from_files(files, args)?,
    };
    // Like grep: 1 says that the question was understood and nothing was found. A recording without poison is an
    // answer in itself.
    let asked_for_one = args.id.is_some() || args.vm.is_some() || args.from.is_empty();
    let none = incidents.is_empty();
    match (none, args.format) {
        (true, ReportFormat::Text) if asked_for_one => eprintln!("poisontrace: {}", no_incident(args)),
        (true, ReportFormat::Text) => terminal::print(&format!("{}\n", no_incident(args)))?,
        _ => output::answer(args.format, host, incidents, args.output.as_deref())?,
    }
    Ok(if none && asked_for_one {
        ExitCode::from(1)
    } else {
        ExitCode::SUCCESS
    })
}

fn no_incident(args: &ExplainArgs) -> String {
    let listed = match args.from.is_empty() {
        true => "`poisontrace incidents` lists those there are",
        false => "the same without it explains all that the files tell of",
    };
    match (&args.id, &args.vm, args.from.is_empty()) {
        (Some(id), _, _) => format!("no incident {id}: {listed}"),
        (_, Some(name), _) => format!("no incident of a VM named {name}: {listed}"),
        (_, _, false) => "no incident: nothing in these files is poison in a guest's memory".to_owned(),
        _ => "no incident has been recorded; `poisontrace check` says whether one would be".to_owned(),
    }
}

fn from_store(args: &ExplainArgs, source: &SourceArgs) -> Result<(Host, Vec<Incident>), Failure> {
    let wanted = match (&args.id, &args.vm) {
        (Some(id), _) => Wanted::Id(id.clone()),
        (None, Some(name)) => Wanted::Vm(name.clone()),
        (None, None) => Wanted::Last,
    };
    let stored = Stored::open(&source.state_dir(args.state.state_dir.as_ref())?)?;
    let found = stored.get(&wanted)?;
    report_skipped(&stored);
    let host = found
        .first()
        .map_or_else(crate::inputs::machine::this_host, |(host, _)| host.clone());
    Ok((host, found.into_iter().map(|(_, incident)| incident).collect()))
}

fn from_files(files: &[PathBuf], args: &ExplainArgs) -> Result<(Host, Vec<Incident>), Failure> {
    let progress = Progress::new();
    let imported = poisontrace_import::read(
        files,
        args.allow_truncated,
        args.attribution_window,
        &mut |reading| progress.at(reading),
    );
    progress.done();
    let imported = match imported {
        Ok(imported) => imported,
        Err(mut problems) => {
            let last = problems.pop().unwrap_or_default();
            say(&problems);
            return Err(Failure::new(with_next_step(&last)));
        }
    };
    say(&imported.problems);
    for poisontrace_import::CutLine { file, line } in &imported.looks_cut {
        eprintln!(
            "poisontrace: {file}: line {} looks cut or wrapped: {}",
            line.line, line.text
        );
    }
    let mut incidents: Vec<Incident> = imported
        .incidents
        .iter()
        .map(poisontrace_report::document)
        .collect();
    if let Some(id) = &args.id {
        incidents.retain(|incident| incident.id == *id);
    }
    if let Some(name) = &args.vm {
        incidents.retain(|incident| incident.vm.name.as_ref() == Some(name));
    }
    if args.last || args.vm.is_some() {
        incidents = incidents.pop().into_iter().collect();
    }
    Ok((imported.session.host, incidents))
}

/// A problem of a file that does not name a way out itself.
fn with_next_step(problem: &str) -> String {
    if problem.contains("--allow-truncated") || problem.contains('`') {
        return problem.to_owned();
    }
    format!("{problem}; `poisontrace explain --help` says which files can be read")
}

fn say(problems: &[String]) {
    for problem in problems {
        eprintln!("poisontrace: {}", sanitise(problem, 2000));
    }
}
