//! `poisontrace incidents`: the store's list, its export, its pruning.

use std::{
    fmt::Write as _,
    io::{self, BufWriter, Write},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use super::{Format, IncidentsAction, IncidentsArgs, Outcome, SourceArgs, output};
use crate::{
    failure::Failure,
    outputs::store::{Retention, StoreError, Stored, Wanted, retention},
    private_file, terminal,
};
use poisontrace_model::text::counted;
use poisontrace_report::{
    cli::{Asked, no_such_incident},
    document::Answer,
};
use poisontrace_sources::host::machine::this_host;

pub fn incidents(args: &IncidentsArgs, source: &SourceArgs) -> Outcome {
    let dir = &source.state_dir(args.state.state_dir.as_ref())?;
    match &args.action {
        None => list(args, dir),
        Some(IncidentsAction::Export { id, output }) => export(dir, id.as_deref(), output.as_deref()),
        Some(IncidentsAction::Prune { older_than, max_size }) => prune(dir, *older_than, *max_size),
    }
}

fn export(dir: &Path, id: Option<&str>, to: Option<&Path>) -> Outcome {
    let stored = Stored::open(dir)?;
    let wanted = id.map_or(Wanted::All, |id| Wanted::Id(id.to_owned()));
    let ids = stored.ids(&wanted)?;
    if let (true, Some(id)) = (ids.is_empty(), id) {
        eprintln!("poisontrace: {}", no_such_incident(Asked::Id(id), false));
        return Ok(ExitCode::from(1));
    }
    let mut out: Box<dyn Write> = match to {
        Some(path) => Box::new(BufWriter::new(private_file::create(path)?)),
        None => Box::new(BufWriter::new(io::stdout().lock())),
    };
    // One at a time, however many there are; one that retention deletes meanwhile is passed by.
    for id in &ids {
        let dossier = match stored.dossier(id) {
            Ok(Some(dossier)) => dossier,
            Ok(None) => continue,
            Err(err @ StoreError::Row { .. }) => {
                stored.skip(id, &err);
                continue;
            }
            Err(err) => return Err(err.into()),
        };
        serde_json::to_writer(&mut out, &dossier)
            .map_err(io::Error::from)
            .and_then(|()| out.write_all(b"\n"))
            .or_else(closed)?;
    }
    out.flush().or_else(closed)?;
    report_skipped(&stored);
    Ok(ExitCode::SUCCESS)
}

/// Damaged incidents are left out; the others are served.
pub fn report_skipped(stored: &Stored) {
    match stored.skipped() {
        0 => {}
        n => eprintln!("poisontrace: {n} damaged incidents of the store were left out"),
    }
}

/// A reader that closed its end has what it wanted.
fn closed(err: io::Error) -> Result<(), Failure> {
    match err.kind() {
        io::ErrorKind::BrokenPipe => Ok(()),
        _ => Err(Failure::new(format!("the export cannot be written: {err}"))),
    }
}

fn prune(dir: &Path, older_than: Option<Duration>, max_size: Option<u64>) -> Outcome {
    let limits = Retention {
        max_age: older_than.unwrap_or(Duration::MAX),
        max_bytes: max_size.unwrap_or(u64::MAX),
    };
    let gone = retention::prune_dir(dir, limits)?;
    terminal::print(&format!("{} deleted\n", counted(gone, "incident", "incidents")))?;
    Ok(ExitCode::SUCCESS)
}

/// `90d`, `12h`, `30m`, `45s`.
pub fn age(text: &str) -> Result<Duration, String> {
    let seconds = scaled(text, &[("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)]);
    seconds
        .map(Duration::from_secs)
        .ok_or_else(|| "expected a duration such as 90d (units d, h, m, s)".to_owned())
}

/// `500K`, `64M`, `2G`, bytes.
pub fn size(text: &str) -> Result<u64, String> {
    scaled(text, &[("K", 1 << 10), ("M", 1 << 20), ("G", 1 << 30), ("", 1)])
        .ok_or_else(|| "expected a size such as 64M (units K, M, G)".to_owned())
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (number, unit) = units
        .iter()
        .find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, unit)))?;
    number.parse::<u64>().ok()?.checked_mul(*unit)
}

fn list(args: &IncidentsArgs, dir: &Path) -> Outcome {
    let stored = Stored::open(dir)?;
    let found = stored.get(&Wanted::All)?;
    report_skipped(&stored);
    if args.format == Format::Json {
        // All incidents of one store are of this host.
        let host = found.last().map_or_else(this_host, |(host, _)| host.clone());
        let incidents = found.into_iter().map(|(_, incident)| incident).collect();
        terminal::print(&output::json(&Answer::new(host, incidents))?)?;
        return Ok(ExitCode::SUCCESS);
    }
    if found.is_empty() {
        terminal::print(poisontrace_report::cli::nothing_recorded())?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = format!(
        "{:<44} {:<25} {:<16} {:<20} VM\n",
        "ID", "BEGAN", "OUTCOME", "CAUSE"
    );
    for (_, incident) in &found {
        let _ = writeln!(
            text,
            "{:<44} {:<25} {:<16} {:<20} {}",
            incident.id,
            incident.started_at.as_deref().unwrap_or("?"),
            incident.outcome,
            incident.cause,
            incident.vm.name.as_deref().unwrap_or("?")
        );
    }
    terminal::print(&text)?;
    Ok(ExitCode::SUCCESS)
}
