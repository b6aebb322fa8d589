//! The scenarios beside the two that are looked at in full: each recording must be explained as what it shows.

use std::path::Path;

use super::tally::Tally;
use crate::demo::recording;
use crate::lab::scenarios::{Story, of_fate};
use crate::lab::{Lab, explained};
use crate::progress::Progress;

/// Those that were seen to pass, in one boot.
pub const ALL: [Story; 10] = [
    Story::KernelAccess,
    Story::CopyFromUser,
    Story::Nested,
    Story::MceOff,
    Story::Broadcast,
    Story::LateDeath,
    Story::HugePage,
    Story::SharedMemory,
    Story::LookAlike,
    Story::Vmms,
];

const NAME: &str = "lab::scenarios";

pub fn run(stories: &[Story], lab: &Lab, daemon: &Path, tally: &mut Tally, progress: &Progress) {
    let scenario = Story::in_turn(stories);
    let run = match lab.run("test-scenarios", &scenario, daemon, progress) {
        Ok(run) => run,
        Err(error) => return progress.aside(|| tally.check(NAME, "runs", Err(error))),
    };
    let mut verdict = |what: &str, file: &str, told| {
        let outcome = explained::incidents(daemon, &run.out.join(file))
            .and_then(|incidents| explained::judge(told, &incidents));
        progress.aside(|| tally.check(NAME, what, outcome));
    };
    for story in stories.iter().filter(|story| **story != Story::Vmms) {
        let file = format!("{}recording.ptrace", story.prefix());
        verdict(story.name(), &file, story.told());
    }
    for fate in scenario.fates {
        verdict(fate.name(), &recording(fate), of_fate(fate));
    }
}
