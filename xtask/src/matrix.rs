//! `cargo xtask lab matrix`: every kernel on every processor, and a table of what came of it.

mod cell;
mod table;

use std::fs;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::builds;
use crate::cli::MatrixOptions;
use crate::lab::kernel;
use crate::lab::storm::Processor;
use crate::paths::Paths;
use crate::progress::Progress;
use cell::Bench;

const JSON: &str = "matrix.json";
const TEXT: &str = "matrix.txt";

pub fn matrix(paths: &Paths, options: &MatrixOptions, progress: &Progress) -> Result<ExitCode> {
    let kernels: Vec<&str> = kernel::series()
        .filter(|series| options.only.is_empty() || options.only.iter().any(|only| only == series))
        .collect();
    if let Some(unknown) = options.only.iter().find(|only| !kernels.contains(&only.as_str())) {
        let known: Vec<&str> = kernel::series().collect();
        bail!("the lab knows no kernel {unknown}; it knows {}", known.join(", "));
    }
    let bench = Bench {
        paths,
        daemon: builds::daemon(paths, progress)?,
        programs: builds::lab_programs(paths, progress)?,
        keep: options.keep.as_deref(),
        progress,
    };
    // Downloads first: what they take is not the matrix's.
    for series in &kernels {
        bench.set_up(series, options.cpu)?;
    }
    let started = Instant::now();
    let mut cells = Vec::new();
    for series in &kernels {
        for processor in [Processor::Amd, Processor::Intel] {
            if options.cpu.is_none_or(|only| only == processor) {
                cells.push(bench.cell(series, processor));
            }
        }
    }
    progress.finish();
    let minutes = started.elapsed().as_secs_f64() / 60.0;
    let text = table::text(&cells, minutes);
    print!("{text}");
    let folder = paths.lab().join("matrix");
    for folder in [Some(folder.as_path()), options.keep.as_deref()]
        .into_iter()
        .flatten()
    {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        fs::write(folder.join(JSON), serde_json::to_string_pretty(&cells)?)
            .and_then(|()| fs::write(folder.join(TEXT), &text))
            .with_context(|| format!("cannot write to {}", folder.display()))?;
    }
    println!("as JSON: {}", folder.join(JSON).display());
    Ok(match cells.iter().all(cell::Cell::right) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}
