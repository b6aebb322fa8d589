//! Measured costs as numbers that can be compared, and as a table.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use lab_protocol::bench::{Kind, Measured};
use serde::{Deserialize, Serialize};

use super::peers;
use super::{
    ON_POISON, ON_POISON_OTHER, Run, SCALE_MANY, SCALE_ONE, STORM_ARMED, STORM_EMPTY, STORM_NOTHING,
};

const STORMS: [&str; 3] = [STORM_NOTHING, STORM_EMPTY, STORM_ARMED];
/// The exits that the goals speak of.
const GOALS_FOR: [Kind; 3] = [Kind::Cpuid, Kind::Pio, Kind::Hlt];
/// A ratio may be this much worse than the committed one: counts of instructions do not scatter, but a new kernel of
/// the series has other instructions.
const MARGIN: f64 = 1.10;

/// The daemon on stand-by with nothing on the exits, and no daemon: what lies between is to be nothing.
const NOTHING_AGAIN: &str = "nothing-again";
/// Ticks that two runs with the same attached may lie apart in: the daemon's own wake-ups fall into one and not the other. An empty
/// program takes 80 and more.
const SCATTER: f64 = 25.0;

/// Of one processor. Ticks are the emulated processor's: one instruction each.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    pub processor: String,
    pub kernel: String,
    /// Exits of each kind.
    pub exits: u32,
    /// Ticks of a round without anything attached, by kind.
    pub bare: BTreeMap<String, f64>,
    /// Ticks that a round takes more, by configuration and kind.
    pub added: BTreeMap<String, BTreeMap<String, f64>>,
    /// Configurations in the order in which they ran.
    pub order: Vec<String>,
    pub ratios: Vec<Ratio>,
    /// Ticks of an exit on poison and the VMM's round about it, by configuration.
    #[serde(default)]
    pub storm: BTreeMap<String, f64>,
    /// What the daemon adds as long as there is no poison.
    #[serde(default)]
    pub stand_by: Vec<StandBy>,
}

/// Exits of one kind on a host without poison.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StandBy {
    pub kind: String,
    /// Ticks of a round more than without the daemon, and as many as the goal allows.
    pub ticks: f64,
    pub goal: f64,
}

impl StandBy {
    /// Of rounds that take `bare` ticks without the daemon.
    fn of(kind: Kind, ticks: f64, bare: f64) -> Self {
        let goal = match kind {
            Kind::Pio => bare * 0.01,
            // kvm_page_fault and gup: what the first exit on poison shows is not found out otherwise.
            Kind::Fault => bare * 0.06,
            Kind::Cpuid | Kind::Msr | Kind::Hlt | Kind::Poison => 3.0,
        };
        Self {
            kind: kind.name().to_owned(),
            ticks,
            goal,
        }
    }

    /// Where it is further from its goal than in the committed table, if that has missed it.
    fn worse_than(&self, committed: &[Self]) -> Option<String> {
        let before = committed.iter().find(|before| before.kind == self.kind);
        let allowed = before.map_or(self.goal, |before| before.ticks.max(self.goal));
        (self.ticks > allowed + SCATTER).then(|| {
            format!(
                "without poison, {}: {:+.0} ticks, where {allowed:.0} are allowed",
                self.kind, self.ticks
            )
        })
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    pub of: String,
    pub to: String,
    pub ratio: f64,
    pub goal: f64,
}

/// Ticks a round, of the vCPU thread alone: what a peer's own program does meanwhile is not counted against it.
fn own_ticks(measured: &Measured) -> f64 {
    let spent = &measured.spent;
    let share = spent.own_ns as f64 / spent.wall_ns as f64;
    spent.ticks as f64 * share / f64::from(measured.plan.exits)
}

/// A record of an exit takes no less in a peer's file, bytes.
const LEAST_RECORD: u64 = 16;

/// Whether a peer saw anything. One that could not take SIGINT yet was not ready; perf, which ends by that signal in the
/// end, has left records then.
fn at_work(run: &Run, step: &str) -> bool {
    let peer = peers::all().into_iter().any(|peer| peer.name == step);
    let ended = run.result.ended.iter().find(|ended| ended.step == step);
    let mine = run.measured.iter().filter(|measured| measured.step == step);
    let exits: u64 = mine.map(|measured| u64::from(measured.plan.exits)).sum();
    !peer
        || ended.is_none_or(|ended| {
            ended.end.starts_with("exited") || ended.left.is_some_and(|bytes| bytes >= exits * LEAST_RECORD)
        })
}

impl Cost {
    pub fn of(run: &Run) -> Self {
        let rounds = |step: &str| -> BTreeMap<String, f64> {
            let mine = run.measured.iter().filter(|measured| measured.step == step);
            mine.map(|measured| (measured.plan.kind.name().to_owned(), own_ticks(measured)))
                .collect()
        };
        let bare = rounds("nothing");
        let order: Vec<String> = run
            .steps
            .iter()
            .map(|step| step.name.clone())
            .filter(|name| name != "nothing" && !STORMS.contains(&name.as_str()) && at_work(run, name))
            .collect();
        let more = |step: &String| {
            let rounds = rounds(step).into_iter();
            let added = rounds.map(|(kind, ticks)| {
                let bare = bare.get(&kind).copied().unwrap_or_default();
                (kind, ticks - bare)
            });
            (step.clone(), added.collect())
        };
        let mut cost = Self {
            processor: run.result.processor.clone(),
            kernel: run.result.kernel.clone(),
            exits: run.measured.first().map_or(0, |measured| measured.plan.exits),
            added: order.iter().map(more).collect(),
            bare,
            order,
            ratios: Vec::new(),
            storm: STORMS
                .iter()
                .filter_map(|step| {
                    Some((
                        (*step).to_owned(),
                        rounds(step).get(Kind::Poison.name()).copied()?,
                    ))
                })
                .collect(),
            stand_by: Vec::new(),
        };
        cost.ratios = cost.compared();
        cost.stand_by = cost.stands_by();
        cost
    }

    /// Added ticks of the exits that the goals speak of, summed.
    fn sum(&self, step: &str) -> Option<f64> {
        let added = self.added.get(step)?;
        GOALS_FOR.iter().map(|kind| added.get(kind.name())).sum()
    }

    fn compared(&self) -> Vec<Ratio> {
        let mut goals = vec![
            ("unarmed", "empty".to_owned(), 1.10),
            ("armed-other", "empty-armed".to_owned(), 1.25),
            (ON_POISON_OTHER, "empty-armed".to_owned(), 1.25),
            ("armed-this", "empty-armed".to_owned(), 1.5),
            (SCALE_MANY, SCALE_ONE.to_owned(), 1.10),
        ];
        let cheapest = peers::all()
            .into_iter()
            .filter_map(|peer| Some((peer.name, self.sum(peer.name)?)))
            .min_by(|a, b| a.1.total_cmp(&b.1));
        if let Some((peer, _)) = cheapest {
            goals.push(("unarmed", peer.to_owned(), 0.1));
        }
        let added = goals.into_iter().filter_map(|(of, to, goal)| {
            Some(Ratio {
                ratio: self.sum(of)? / self.sum(&to)?,
                of: of.to_owned(),
                to,
                goal,
            })
        });
        let storm = |of: &str, to: &str, goal| {
            Some(Ratio {
                ratio: self.storm.get(of)? / self.storm.get(to)?,
                of: of.to_owned(),
                to: to.to_owned(),
                goal,
            })
        };
        added
            .chain(storm(STORM_EMPTY, STORM_NOTHING, 1.05))
            .chain(storm(STORM_ARMED, STORM_NOTHING, 1.05))
            .chain(storm(STORM_ARMED, STORM_EMPTY, 1.25))
            .collect()
    }

    /// Rounds without poison against those with nothing attached, which come last and are warm.
    fn stands_by(&self) -> Vec<StandBy> {
        let kinds = Kind::ALL.into_iter().filter_map(|kind| {
            let added = |step: &str| self.added.get(step)?.get(kind.name()).copied();
            let again = added(NOTHING_AGAIN)?;
            let bare = self.bare.get(kind.name())? + again;
            Some(StandBy::of(kind, added(ON_POISON)? - again, bare))
        });
        kinds.collect()
    }

    pub fn markdown(&self) -> String {
        let mut text = format!(
            "{}, Linux {}, {} exits of each kind\n\n|",
            self.processor, self.kernel, self.exits
        );
        for kind in Kind::ALL {
            write!(text, " | {kind}").ok();
        }
        text += " |\n|---|";
        text += &"---|".repeat(Kind::ALL.len());
        text.push('\n');
        let mut row = |name: &str, cells: &BTreeMap<String, f64>, sign: &str| {
            write!(text, "| {name}").ok();
            for kind in Kind::ALL {
                match cells.get(kind.name()) {
                    Some(ticks) if sign == "+" => write!(text, " | {ticks:+.0}").ok(),
                    Some(ticks) => write!(text, " | {ticks:.0}").ok(),
                    None => write!(text, " | ").ok(),
                };
            }
            text += " |\n";
        };
        row("nothing attached", &self.bare, "");
        for step in &self.order {
            if let Some(added) = self.added.get(step) {
                row(step, added, "+");
            }
        }
        if !self.storm.is_empty() {
            let exits: Vec<String> = self
                .storm
                .iter()
                .map(|(step, ticks)| format!("{step} {ticks:.0}"))
                .collect();
            writeln!(
                text,
                "\nAn exit on poison, with KVM_RUN's way out and in: {}",
                exits.join(", ")
            )
            .ok();
        }
        text.push('\n');
        for ratio in &self.ratios {
            let met = if ratio.ratio <= ratio.goal {
                "met"
            } else {
                "missed"
            };
            writeln!(
                text,
                "{} / {}: {:.2} (goal {:.2}, {met})",
                ratio.of, ratio.to, ratio.ratio, ratio.goal
            )
            .ok();
        }
        for StandBy { kind, ticks, goal } in &self.stand_by {
            let met = if ticks <= goal { "met" } else { "missed" };
            writeln!(
                text,
                "without poison, {kind}: {ticks:+.1} ticks (goal {goal:.1}, {met})"
            )
            .ok();
        }
        text
    }

    /// Ratios that are worse than the committed table's by more than the margin. What is nearly nothing has no such ratio: the
    /// rounds without poison are held to their goal.
    pub fn worse_than(&self, committed: &Self) -> Vec<String> {
        let stand_by = self.stand_by.iter();
        let mut worse: Vec<String> = stand_by
            .filter_map(|row| row.worse_than(&committed.stand_by))
            .collect();
        for ratio in &self.ratios {
            let before = committed
                .ratios
                .iter()
                .find(|other| other.of == ratio.of && other.to == ratio.to);
            if let Some(before) = before
                && ratio.ratio > before.ratio * MARGIN
            {
                worse.push(format!(
                    "{} / {} is {:.2}, was {:.2}",
                    ratio.of, ratio.to, ratio.ratio, before.ratio
                ));
            }
        }
        worse
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(added: [(&str, f64); 5]) -> Cost {
        let kinds = |ticks: f64| {
            GOALS_FOR
                .iter()
                .map(|kind| (kind.name().to_owned(), ticks))
                .collect()
        };
        let mut cost = Cost {
            processor: String::new(),
            kernel: String::new(),
            exits: 1,
            bare: kinds(1000.0),
            added: added
                .into_iter()
                .map(|(step, ticks)| (step.to_owned(), kinds(ticks)))
                .collect(),
            order: Vec::new(),
            ratios: Vec::new(),
            storm: BTreeMap::new(),
            stand_by: Vec::new(),
        };
        cost.ratios = cost.compared();
        cost.stand_by = cost.stands_by();
        cost
    }

    fn with(unarmed: f64, armed: f64) -> Cost {
        cost([
            ("empty", 600.0),
            (ON_POISON, unarmed),
            (NOTHING_AGAIN, -2.0),
            ("empty-armed", 600.0),
            ("armed-other", armed),
        ])
    }

    #[test]
    fn a_costlier_hot_path_is_noticed_and_a_cheaper_one_is_not() {
        let before = with(1.0, 620.0);
        assert_eq!(before.ratios.len(), 1, "{:?}", before.ratios);
        let slower = with(2.0, 720.0);
        assert_eq!(
            slower.worse_than(&before),
            ["armed-other / empty-armed is 1.20, was 1.03"]
        );
        assert_eq!(before.worse_than(&slower), Vec::<String>::new());
    }

    #[test]
    fn a_program_on_the_exits_of_a_host_without_poison_is_noticed() {
        let (bare, attached) = (with(1.0, 620.0), with(80.0, 620.0));
        assert_eq!(
            attached.worse_than(&bare),
            [
                "without poison, cpuid: +82 ticks, where 3 are allowed",
                "without poison, pio: +82 ticks, where 10 are allowed",
                "without poison, hlt: +82 ticks, where 3 are allowed"
            ]
        );
        assert_eq!(with(20.0, 620.0).worse_than(&bare), Vec::<String>::new());
    }
}
