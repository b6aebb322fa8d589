//! One part of the tests, with the daemon as it is in the tree.

use anyhow::Result;
use lab_harness::run_files::Files;
use lab_harness::scenarios::{Lab, Story};
use lab_harness::storms::StormLab;
use xtask_support::paths::Paths;
use xtask_support::progress::Progress;

use super::{
    cost, dashboards, dependencies, fleet, flush, killed, late, look, miri, packages, scenarios, schema,
    shipping, storm, tenants,
};
use crate::builds::{self, Profile};
use crate::cli::{Part, Test};
use crate::tally::Tally;
use crate::{install, libvirt};

pub fn run(paths: &Paths, options: &Test, part: Part, progress: &Progress) -> Result<Tally> {
    let mut tally = Tally::default();
    let daemon = || builds::daemon(paths, Profile::Dev, progress);
    match part {
        Part::Dashboards => dashboards::run(paths, &daemon()?, &mut tally, progress)?,
        Part::Fleet => fleet::run(paths, &daemon()?, &mut tally, progress)?,
        Part::Shipping => shipping::run(paths, &daemon()?, &mut tally, progress)?,
        Part::Browser => look::run(paths, &daemon()?, &mut tally, progress)?,
        Part::Dependencies => dependencies::examine(paths, &mut tally, progress),
        Part::Late => {
            let programs = builds::lab_programs(paths, progress)?;
            let kernel = &options.lab.kernel;
            let lab = Lab::set_up(paths, kernel, kernel, &programs, progress)?;
            let scenario = Story::Survive.scenario_among_others();
            let run = lab.run("test-late", &scenario, &daemon()?, progress)?;
            let files = Files { out: &run.out };
            let schema = schema::Schema::read(&paths.root)?;
            progress.aside(|| late::examine(&run.result, &files, &schema, &mut tally));
        }
        Part::Storms => {
            let programs = builds::lab_programs(paths, progress)?;
            let lab = StormLab::set_up(paths, &options.lab.kernel, &programs, progress)?;
            let schema = schema::Schema::read(&paths.root)?;
            storm::run(&lab, &daemon()?, &schema, &mut tally, progress);
        }
        Part::Killed => {
            let programs = builds::lab_programs(paths, progress)?;
            let lab = StormLab::set_up(paths, &options.lab.kernel, &programs, progress)?;
            killed::run(&lab, &daemon()?, true, &mut tally, progress);
        }
        Part::Flush => {
            let programs = builds::lab_programs(paths, progress)?;
            let kernel = &options.lab.kernel;
            flush::run(paths, kernel, &programs, &daemon()?, &mut tally, progress);
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
            scenarios::run(stories, &lab, &daemon()?, &mut tally, progress);
        }
        Part::Packages => packages::run(paths, &mut tally, progress),
        Part::Tenants => tenants::run(paths, options, &mut tally, progress),
        Part::Miri => miri::run(paths, &mut tally, progress),
        Part::Cost => cost::run(paths, &options.lab, &mut tally, progress),
        Part::Libvirt => {
            let programs = builds::lab_programs(paths, progress)?;
            let daemon = daemon()?;
            libvirt::test(
                paths,
                &options.lab.kernel,
                &programs,
                &daemon,
                &mut tally,
                progress,
            );
        }
        Part::Install => install::test(paths, &options.lab.kernel, &mut tally, progress),
    }
    Ok(tally)
}
