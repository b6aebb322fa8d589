//! One part of the tests, with the daemon as demo or tests built it last.

use anyhow::Result;
use lab_harness::run_files::Files;
use lab_harness::scenarios::{Lab, Story};
use lab_harness::storms::StormLab;
use xtask_support::paths::Paths;
use xtask_support::progress::Progress;

use super::{
    cost, dashboards, dependencies, flush, killed, late, look, miri, packages, scenarios, schema, tenants,
};
use crate::builds;
use crate::cli::{Part, Test};
use crate::install;
use crate::tally::Tally;

pub fn run(paths: &Paths, options: &Test, part: Part, progress: &Progress) -> Result<Tally> {
    let mut tally = Tally::default();
    match part {
        Part::Dashboards => dashboards::run(paths, &paths.lab_daemon(), &mut tally, progress)?,
        Part::Browser => look::run(paths, &paths.lab_daemon(), &mut tally, progress)?,
        Part::Dependencies => dependencies::examine(paths, &mut tally, progress),
        Part::Late => {
            let programs = builds::lab_programs(paths, progress)?;
            let kernel = &options.lab.kernel;
            let lab = Lab::set_up(paths, kernel, kernel, &programs, progress)?;
            let scenario = Story::Survive.scenario_among_others();
            let run = lab.run("test-late", &scenario, &paths.lab_daemon(), progress)?;
            let files = Files { out: &run.out };
            let schema = schema::Schema::read(&paths.root)?;
            progress.aside(|| late::examine(&run.result, &files, &schema, &mut tally));
        }
        Part::Killed => {
            let programs = builds::lab_programs(paths, progress)?;
            let lab = StormLab::set_up(paths, &options.lab.kernel, &programs, progress)?;
            killed::run(&lab, &paths.lab_daemon(), &mut tally, progress);
        }
        Part::Flush => {
            let programs = builds::lab_programs(paths, progress)?;
            let kernel = &options.lab.kernel;
            flush::run(
                paths,
                kernel,
                &programs,
                &paths.lab_daemon(),
                &mut tally,
                progress,
            );
        }
        Part::Scenarios => {
            let programs = builds::lab_programs(paths, progress)?;
            let kernel = &options.lab.kernel;
            let lab = Lab::set_up(paths, kernel, kernel, &programs, progress)?;
            let stories = if options.story.is_empty() {
                &scenarios::ALL[..]
            } else {
                &options.story
            };
            scenarios::run(stories, &lab, &paths.lab_daemon(), &mut tally, progress);
        }
        Part::Packages => packages::run(paths, &mut tally, progress),
        Part::Tenants => tenants::run(paths, options, &mut tally, progress),
        Part::Miri => miri::run(paths, &mut tally, progress),
        Part::Cost => cost::run(paths, &options.lab, &mut tally, progress),
        Part::Install => install::test(paths, &options.lab.kernel, &mut tally, progress),
    }
    Ok(tally)
}
