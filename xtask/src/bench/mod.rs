//! `cargo xtask bench`: what poisontrace costs.

mod exits;
mod image;
mod peers;
mod table;

use std::process::ExitCode;

use anyhow::Result;
use lab_contract::bench::Kind;

use crate::cli::BenchOptions;
use crate::lab::storm::Processor;
use crate::paths::Paths;
use crate::progress::Progress;

pub fn bench(paths: &Paths, options: &BenchOptions, progress: &Progress) -> Result<ExitCode> {
    let lab = exits::Lab::set_up(paths, options, progress)?;
    for processor in [Processor::Intel, Processor::Amd] {
        if options.cpu.is_some_and(|cpu| cpu != processor) {
            continue;
        }
        let measure = exits::Options {
            exits: options.exits,
            kinds: &Kind::ALL,
            only: &options.only,
        };
        let run = lab.measure(paths, processor, &measure, progress)?;
        print!("{}", table::text(&run, &Kind::ALL));
        for ended in &run.result.ended {
            println!("{}: {} {:?}", ended.step, ended.end, ended.left);
        }
    }
    println!("{:?}", lab.versions());
    Ok(ExitCode::SUCCESS)
}
