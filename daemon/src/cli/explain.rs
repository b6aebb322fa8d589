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
use poisontrace_import::Problem;
use poisontrace_model::{incident::missing::MissingEvidence, text::sanitise};
use poisontrace_report::{
    cli::{Asked, no_such_incident},
    document::{Answer, Incident},
};
use poisontrace_sources::host::machine::this_host;

pub fn explain(mut args: ExplainArgs, source: &SourceArgs) -> Outcome {
    take_id(&mut args);
    let args = &args;
    let (answer, cut) = match args.from.as_slice() {
        [] => from_store(args, source)?,
        files => from_files(files, args)?,
    };
    // As grep does: 1 means that nothing was found. A recording without poison is an answer in itself.
    let asked_for_one = args.id.is_some() || args.vm.is_some() || args.from.is_empty();
    let none = answer.incidents.is_empty();
    match (none, args.format) {
        (true, ReportFormat::Text) if asked_for_one => eprintln!("poisontrace: {}", no_incident(args)),
        (true, ReportFormat::Text) => {
            terminal::print(&format!("{}\n", poisontrace_report::no_incident(&answer, cut)))?;
            output::answer(args.format, &answer, args.output.as_deref(), args.brief)?;
        }
        _ => output::answer(args.format, &answer, args.output.as_deref(), args.brief)?,
    }
    Ok(if none && asked_for_one {
        ExitCode::from(1)
    } else {
        ExitCode::SUCCESS
    })
}

fn no_incident(args: &ExplainArgs) -> String {
    let asked = match (&args.id, &args.vm) {
        (Some(id), _) => Asked::Id(id),
        (_, Some(name)) => Asked::Vm(name),
        _ => Asked::Last,
    };
    no_such_incident(asked, !args.from.is_empty())
}

fn from_store(args: &ExplainArgs, source: &SourceArgs) -> Result<(Answer, bool), Failure> {
    let wanted = match (&args.id, &args.vm) {
        (Some(id), _) => Wanted::Id(id.clone()),
        (None, Some(name)) => Wanted::Vm(name.clone()),
        (None, None) => Wanted::Last,
    };
    let stored = Stored::open(&source.state_dir(args.state.state_dir.as_ref())?)?;
    let found = stored.get(&wanted)?;
    report_skipped(&stored);
    let host = found.first().map_or_else(this_host, |(host, _)| host.clone());
    let mut incidents: Vec<Incident> = found.into_iter().map(|(_, incident)| incident).collect();
    for incident in incidents.iter_mut().filter(|_| args.why) {
        incident.why = poisontrace_report::observed(incident);
    }
    Ok((Answer::new(host, incidents), false))
}

/// `--from FILE... ID`: what is behind the files is the id if there is no such file and it looks like one.
fn take_id(args: &mut ExplainArgs) {
    let is_id = |file: &PathBuf| !file.exists() && file.to_str().is_some_and(looks_like_id);
    if args.id.is_none() && !args.last && args.vm.is_none() && args.from.len() > 1 {
        let id = args.from.pop_if(|file| is_id(file));
        args.id = id.map(|id| id.to_string_lossy().into_owned());
    }
}

/// As [`poisontrace_model::correlate::report::id`] makes them.
fn looks_like_id(text: &str) -> bool {
    let mut parts = text.splitn(3, '-');
    let (clock, pid, page) = (parts.next(), parts.next(), parts.next());
    clock.is_some_and(|clock| clock.starts_with("mono") || clock.contains('T') && clock.ends_with('Z'))
        && pid.is_some_and(|pid| pid.parse::<u32>().is_ok())
        && page.is_some()
}

fn from_files(files: &[PathBuf], args: &ExplainArgs) -> Result<(Answer, bool), Failure> {
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
            let last = problems.pop();
            warn(&problems);
            return Err(Failure::new(
                last.as_ref().map_or_else(String::new, with_next_step),
            ));
        }
    };
    warn(&imported.problems);
    let mut missing = Vec::new();
    for poisontrace_import::CutLine { file, line } in &imported.looks_cut {
        missing.push(poisontrace_report::absent(&MissingEvidence::CutLine {
            source: file.clone(),
            line: line.line,
            text: line.text.clone(),
        }));
        eprintln!(
            "poisontrace: {file}: line {} looks cut or wrapped: {}",
            line.line, line.text
        );
    }
    let mut incidents: Vec<Incident> = imported
        .incidents
        .into_iter()
        .map(|incident| {
            let why = args.why.then(|| poisontrace_report::why(&incident));
            let mut document = poisontrace_report::document(incident);
            if let Some(why) = why {
                document.why = why;
                document.why.extend(poisontrace_report::observed(&document));
            }
            document
        })
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
    let cut = !imported.looks_cut.is_empty();
    let mut answer = Answer::new(imported.session.host, incidents);
    answer.host_events = imported.host_events;
    answer.host_events_left_out = imported.host_events_left_out;
    answer.missing = missing;
    Ok((answer, cut))
}

fn with_next_step(problem: &Problem) -> String {
    match problem.names_a_remedy() {
        true => problem.to_string(),
        false => format!("{problem}; `poisontrace explain --help` lists the files that can be read"),
    }
}

fn warn(problems: &[Problem]) {
    for problem in problems {
        eprintln!("poisontrace: {}", sanitise(&problem.to_string(), 2000));
    }
}
