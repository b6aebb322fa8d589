//! What was measured, as a table.

use lab_contract::bench::{Kind, Measured};

use super::exits::Run;

/// Ticks a round, by the vCPU thread's own time.
pub fn own_ticks(measured: &Measured) -> f64 {
    let spent = &measured.spent;
    let share = spent.own_ns as f64 / spent.wall_ns as f64;
    spent.ticks as f64 * share / f64::from(measured.plan.exits)
}

pub fn text(run: &Run, kinds: &[Kind]) -> String {
    let mut text = format!("{}, Linux {}\n{:20}", run.result.processor, run.result.kernel, "");
    for kind in kinds {
        text += &format!("{:>20}", kind.name());
    }
    text.push('\n');
    for step in &run.steps {
        text += &format!("{:20}", step.name);
        for kind in kinds {
            let find = |name: &str| {
                run.measured
                    .iter()
                    .find(|measured| measured.step == name && measured.plan.kind == *kind)
                    .map(own_ticks)
            };
            let cell = match (find(&step.name), find("nothing")) {
                (Some(own), Some(base)) if step.name == "nothing" => format!("{own:.0} ({base:.0})"),
                (Some(own), Some(base)) => format!("{own:.0} (+{:.0})", own - base),
                _ => "-".to_owned(),
            };
            text += &format!("{cell:>20}");
        }
        text.push('\n');
    }
    text
}
