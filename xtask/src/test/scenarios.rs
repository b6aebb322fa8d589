//! The scenarios beside the two that are looked at in full: each recording must be explained as what it shows.

use std::path::Path;

use lab_contract::fates::VmmFate;

use super::tally::Tally;
use crate::demo::recording;
use crate::lab::scenarios::{Story, of_fate};
use crate::lab::{Lab, explained};
use crate::progress::Progress;

/// Those that were seen to pass, one boot each. None yet: they are run by hand, `cargo xtask demo --scenario NAME`.
pub const ALL: [Story; 0] = [];

pub fn run(story: Story, lab: &Lab, daemon: &Path, tally: &mut Tally, progress: &Progress) {
    let name = format!("lab::{}", story.name());
    let run = match lab.run(
        &format!("test-{}", story.name()),
        &story.scenario(),
        daemon,
        progress,
    ) {
        Ok(run) => run,
        Err(error) => return progress.aside(|| tally.check(&name, "runs", Err(error))),
    };
    let mut verdict = |what: &str, file: &str, told| {
        let outcome = explained::incidents(daemon, &run.out.join(file))
            .and_then(|incidents| explained::judge(told, &incidents));
        progress.aside(|| tally.check(&name, what, outcome));
    };
    if story == Story::Vmms {
        for fate in VmmFate::ALL {
            verdict(fate.name(), &recording(fate), of_fate(fate));
        }
    } else {
        verdict("outcome_and_cause", "recording.ptrace", story.told());
    }
}
