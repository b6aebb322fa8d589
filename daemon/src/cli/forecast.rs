//! `poisontrace forecast`: what a memory error would do to each guest of this host.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;

use super::{Outcome, ReportFormat, output};
use crate::{
    engine::forecast::{self, Source},
    failure::Failure,
};

#[derive(Args)]
pub struct ForecastArgs {
    /// html: one self-contained page, for screen and paper
    #[arg(long, default_value = "text")]
    format: ReportFormat,
    /// Output file [default: standard output]; an existing file is replaced
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Read the files of a host below this folder; its kernel is not asked
    #[arg(long, hide = true, value_name = "DIR")]
    root: Option<PathBuf>,
    /// With --root: what the iterator wrote on that host
    #[arg(long, hide = true, value_name = "FILE", requires = "root")]
    vcpus: Option<PathBuf>,
}

pub fn forecast(args: &ForecastArgs) -> Outcome {
    let recorded = match &args.vcpus {
        Some(file) => {
            fs::read(file).map_err(|err| Failure::new(format!("cannot read {}: {err}", file.display())))?
        }
        None => Vec::new(),
    };
    let source = match (&args.root, &args.vcpus) {
        (_, Some(_)) => Source::Recorded(&recorded),
        (Some(_), None) => Source::None,
        (None, None) => Source::Kernel,
    };
    let answered = forecast::answer(args.root.as_deref().unwrap_or(Path::new("/")), &source)?;
    let complete = answered.complete;
    let document = answered.document();
    let text = match args.format {
        ReportFormat::Json => format!("{}\n", serde_json::to_string_pretty(&document)?),
        ReportFormat::Html => poisontrace_report::forecast::html(&document),
        ReportFormat::Text => {
            poisontrace_report::forecast::text(&document, output::look(args.output.as_deref()))
        }
    };
    output::write(&text, args.output.as_deref())?;
    Ok(ExitCode::from(u8::from(!complete)))
}
