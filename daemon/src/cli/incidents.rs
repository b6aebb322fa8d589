//! `poisontrace incidents`: the store's list.

use std::{fmt::Write as _, process::ExitCode};

use super::{Format, IncidentsArgs, Outcome, SourceArgs, output};
use crate::{
    host::Host,
    sinks::store::{Stored, Wanted},
};

pub fn incidents(args: &IncidentsArgs, source: &SourceArgs) -> Outcome {
    let found = Stored::open(&source.state_dir(args.state.state_dir.as_ref())?)?.get(&Wanted::All)?;
    if args.format == Format::Json {
        // All incidents of one store are of this host.
        let host = found.last().map_or_else(Host::this, |(host, _)| host.clone());
        let incidents = found.into_iter().map(|(_, incident)| incident).collect();
        output::print(&output::json(host, incidents)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    if found.is_empty() {
        output::print("no incident has been recorded\n")?;
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
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}
