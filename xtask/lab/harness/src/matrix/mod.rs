//! `cargo xtask lab matrix`: every kernel on every processor, and a table of what came of it.

mod cell;
mod check_output;
mod table;

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use xtask_support::paths::Paths;
use xtask_support::progress::Progress;

use crate::options::MatrixOptions;
use crate::{Processor, kernels};
use cell::Bench;

const JSON: &str = "matrix.json";
const TEXT: &str = "matrix.txt";

/// `daemon`, `programs`: as they were built; the latter is a folder.
pub fn matrix(
    paths: &Paths,
    options: &MatrixOptions,
    daemon: &Path,
    programs: &Path,
    progress: &Progress,
) -> Result<ExitCode> {
    let series: Vec<&str> = kernels::series()
        .filter(|series| options.only.is_empty() || options.only.iter().any(|only| only == series))
        .collect();
    if let Some(unknown) = options.only.iter().find(|only| !series.contains(&only.as_str())) {
        let known: Vec<&str> = kernels::series().collect();
        bail!("the lab knows no kernel {unknown}; it knows {}", known.join(", "));
    }
    let bench = Bench {
        paths,
        daemon: daemon.to_path_buf(),
        programs: programs.to_path_buf(),
        keep: options.keep.as_deref(),
        progress,
    };
    // Downloads first: what they take is not the matrix's.
    for kernel in &series {
        bench.set_up(kernel, options.cpu)?;
    }
    let started = Instant::now();
    let mut cells = Vec::new();
    for kernel in &series {
        for processor in [Processor::Amd, Processor::Intel] {
            if options.cpu.is_none_or(|only| only == processor) {
                cells.push(bench.cell(kernel, processor));
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
