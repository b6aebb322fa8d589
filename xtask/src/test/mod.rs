//! `cargo xtask test`: its tiers, in an order in which nothing is built or booted twice, and builds run while the lab
//! boots.

mod alone;
mod bad_files;
mod browser;
mod control;
mod cost;
mod dashboards;
mod dependencies;
mod fleet;
mod flush;
mod fuzz;
mod killed;
mod lab;
mod late;
pub mod list;
mod look;
mod miri;
mod packages;
mod reloads;
mod replay;
mod report;
mod scenarios;
mod schema;
mod shipping;
mod storm;
mod tenants;
mod watch;

use std::env;
use std::process::ExitCode;
use std::thread;

use anyhow::{Context, Result, anyhow};
use lab_harness::scenarios::Lab;
use lab_harness::storms::StormLab;
use xtask_support::debian::Apt;
use xtask_support::paths::Paths;
use xtask_support::progress::Progress;

use crate::builds::{self, Built};
use crate::cli::Test;
use crate::install;
use crate::libvirt;
use crate::prometheus;
use crate::tally::Tally;

pub fn test(paths: &Paths, options: &Test, progress: &Progress) -> Result<ExitCode> {
    let tally = match options.only {
        Some(part) => alone::run(paths, options, part, progress)?,
        None => Run::new(paths, options, progress).all()?,
    };
    progress.finish();
    if let Some(table) = progress.longest_tasks() {
        println!("\n{table}");
    }
    let in_ci = env::var_os("CI").is_some_and(|value| value == "true");
    let skipped = in_ci && tally.skipped > 0 && options.only.is_none();
    if skipped {
        println!("CI=true: a skipped test counts as failed");
    }
    println!("{tally}");
    Ok(if tally.passed > 0 && tally.failed.is_empty() && !skipped {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

struct Run<'a> {
    paths: &'a Paths,
    options: &'a Test,
    progress: &'a Progress,
    /// Why the lab is left out.
    no_lab: Option<String>,
}

/// Builds that run while the lab boots.
struct Prepared {
    unit_tests: Result<bool>,
    fuzz: Result<crate::fuzz::Fuzz>,
    /// `None` without the lab.
    storms: Option<Result<StormLab>>,
}

impl<'a> Run<'a> {
    fn new(paths: &'a Paths, options: &'a Test, progress: &'a Progress) -> Self {
        let no_lab = options
            .no_lab
            .then(|| "--no-lab".to_owned())
            .or_else(lab_harness::unavailable);
        Self {
            paths,
            options,
            progress,
            no_lab,
        }
    }

    fn series(&self) -> &'a str {
        &self.options.lab.kernel
    }

    fn all(&self) -> Result<Tally> {
        let mut tally = Tally::default();
        self.progress.note("tier 0: build");
        let (built, ()) = builds::for_the_lab(self.paths, self.progress, |progress| self.download(progress))?;
        self.progress
            .note("tier 2: scenarios in the lab, and the dashboards, while the tests are built");
        let prepared = self.boot_and_prepare(&built, &mut tally)?;

        self.progress.note("tier 1: unit tests and recorded scenarios");
        let units = prepared.unit_tests?
            && self.progress.task("unit tests and recorded scenarios", || {
                builds::workspace_tests(self.paths, &built.object, false)
            })?;
        let all_passed = units
            .then_some(())
            .context("cargo's tests failed; each is named above");
        tally.check("workspace", "unit_tests_and_recorded_scenarios", all_passed);
        self.progress
            .task("fuzz", || fuzz::examine(prepared.fuzz, &mut tally, self.progress));

        self.progress.note("tier 2: storms");
        let storms = match (prepared.storms, &self.no_lab) {
            (Some(Ok(lab)), _) => Some(lab),
            (Some(Err(error)), _) => {
                tally.check("lab::storm", "set_up", Err(error));
                None
            }
            (None, reason) => {
                tally.skip("lab", reason.as_deref().unwrap_or_default());
                None
            }
        };
        if let Some(storms) = &storms {
            let schema = schema::Schema::read(&self.paths.root)?;
            storm::run(storms, &built.daemon, &schema, &mut tally, self.progress);
        }
        if self.options.full {
            self.full(&built, storms.as_ref(), &mut tally)?;
        }
        Ok(tally)
    }

    /// Downloads of the parts that every run has.
    fn download(&self, progress: &Progress) -> Result<()> {
        if self.no_lab.is_none() {
            Lab::download(self.paths, self.series(), self.series(), progress)?;
        }
        if Apt::unavailable().is_none() {
            progress.task("Prometheus", || prometheus::set_up(self.paths, progress))?;
        }
        Ok(())
    }

    /// The lab's boots wait more than they compute: the tests, Bochs and the fuzz targets are built meanwhile.
    fn boot_and_prepare(&self, built: &Built, tally: &mut Tally) -> Result<Prepared> {
        thread::scope(|scope| {
            let beside = self.progress.beside();
            let preparing = scope.spawn(move || self.prepare(built, &beside));
            if self.no_lab.is_none() {
                lab::scenarios(self.paths, self.series(), built, tally, self.progress)?;
            }
            match Apt::unavailable() {
                Some(reason) => tally.skip("dashboards", &reason),
                None => self.progress.task("dashboards", || {
                    dashboards::run(self.paths, &built.daemon, tally, self.progress)
                })?,
            }
            self.progress.step("waiting for the tests to be built");
            preparing
                .join()
                .map_err(|_| anyhow!("the thread that builds the tests panicked"))
        })
    }

    fn prepare(&self, built: &Built, progress: &Progress) -> Prepared {
        progress.step("building the tests");
        let unit_tests = progress.task("tests (build)", || {
            builds::workspace_tests(self.paths, &built.object, true)
        });
        let storms = self.no_lab.is_none().then(|| {
            progress.task("Bochs and its packages", || {
                StormLab::set_up(self.paths, self.series(), &built.programs, progress)
            })
        });
        let fuzz = progress.task("fuzz targets (build)", || {
            crate::fuzz::set_up(self.paths, progress)
        });
        progress.step("the tests are built");
        Prepared {
            unit_tests,
            fuzz,
            storms,
        }
    }

    /// The parts of `--full`: long boots in QEMU beside those in Bochs and the builds of the packages.
    fn full(&self, built: &Built, storms: Option<&StormLab>, tally: &mut Tally) -> Result<()> {
        let Self { paths, progress, .. } = *self;
        progress.note("tiers 2 and 4: all scenarios in the lab, beside dependencies and packages");
        let beside_tally = thread::scope(|scope| {
            let beside = progress.beside();
            let other = scope.spawn(move || {
                let mut tally = Tally::default();
                dependencies::examine(paths, &mut tally, &beside);
                packages::run(paths, &mut tally, &beside);
                if let Some(storms) = storms {
                    killed::run(storms, &built.daemon, false, &mut tally, &beside);
                    flush::run(
                        paths,
                        self.series(),
                        &built.programs,
                        &built.daemon,
                        &mut tally,
                        &beside,
                    );
                }
                tally
            });
            if self.no_lab.is_none() {
                lab::all_scenarios(paths, self.series(), built, tally, progress)?;
                // The packages take longer than the scenarios.
                libvirt::test(
                    paths,
                    self.series(),
                    &built.programs,
                    &built.daemon,
                    tally,
                    progress,
                );
            }
            other
                .join()
                .map_err(|_| anyhow!("the thread of dependencies and packages panicked"))
        })?;
        tally.add(&beside_tally);
        progress.note("tier 3: a browser");
        look::run(paths, &built.daemon, tally, progress)?;
        progress.note("tiers 4 and 5: the package under systemd, and the cost of exits");
        install::test(paths, self.series(), tally, progress);
        if self.no_lab.is_none() {
            cost::run(paths, &self.options.lab, tally, progress);
        }
        Ok(())
    }
}
