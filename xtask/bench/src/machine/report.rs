//! The same as a table.

use std::fmt::Write as _;

use super::Machine;

impl Machine {
    pub fn markdown(&self) -> String {
        let mut text = format!("{}, Linux {}\n\n", self.processor, self.kernel);
        text += "| ns a call | nothing attached | empty programs | poisontrace | over empty |\n|---|---|---|---|---|\n";
        for way in &self.ways {
            writeln!(
                text,
                "| {} | {:.0} | {:.0} | {:.0} | {:+.0} |",
                way.name,
                way.nothing,
                way.empty,
                way.ours,
                way.ours - way.empty
            )
            .ok();
        }
        text += "\n| ns a run, by the kernel's statistics | empty | poisontrace |\n|---|---|---|\n";
        for way in &self.ways {
            for run in &way.runs {
                let on = format!("{}: {} on {}", way.name, run.program, run.on);
                writeln!(text, "| {on} | {:.0} | {:.0} |", run.empty, run.ours).ok();
            }
        }
        text += "\n| machine code of hot programs | bytes | instructions | before poison | of an empty one |\n|---|---|---|---|---|\n";
        // An empty program is as long as its shortest way.
        let hot = |sizes: &&super::Sizes| {
            sizes
                .empty
                .is_some_and(|empty| empty.instructions == empty.shortest)
        };
        for sizes in self.sizes.iter().filter(hot) {
            if let (Some(size), Some(empty)) = (sizes.size, sizes.empty) {
                writeln!(
                    text,
                    "| {} | {} | {} | {} | {} |",
                    sizes.program, size.bytes, size.instructions, size.shortest, empty.shortest
                )
                .ok();
            }
        }
        let drain = &self.drain;
        writeln!(
            text,
            "\nThe ring buffer's drain: {:.1} M records/s of a full one; of {:.2} M/s that another processor makes, {:.0} in a million are lost.",
            drain.full / 1e6,
            drain.made / 1e6,
            drain.lost_ppm
        )
        .ok();
        text
    }
}
