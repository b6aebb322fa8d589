//! `cargo xtask test --list`: the tiers and their parts, with measured times.

use std::fmt::Write as _;

/// Conditions of the measurement.
const MEASURED: &str = "Minutes and seconds of each part by itself, on two cores of an x86-64 machine without KVM, after set-up. Parts of \
                        different tiers run at the same time where they do not disturb each other.";

struct Tier {
    name: &'static str,
    command: &'static str,
    parts: &'static [Part],
}

struct Part {
    /// As `--only` names it; empty where it cannot be run alone.
    only: &'static str,
    what: &'static str,
    /// 0: not measured yet.
    seconds: u32,
}

const fn part(only: &'static str, what: &'static str, seconds: u32) -> Part {
    Part { only, what, seconds }
}

const TEST: &str = "cargo xtask test";
const FULL: &str = "cargo xtask test --full";

const TIERS: [Tier; 7] = [
    Tier {
        name: "0 build",
        command: TEST,
        parts: &[part("", "the BPF programs, the daemon and the lab's programs", 0)],
    },
    Tier {
        name: "1 without the lab",
        command: "cargo xtask test --no-lab",
        parts: &[
            part("", "unit tests and recorded scenarios: build", 0),
            part("", "unit tests and recorded scenarios: run", 0),
            part("", "fuzz targets: build, and a minute over all of them", 0),
            part(
                "dashboards",
                "dashboards, rules and runbooks with Debian's Prometheus",
                41,
            ),
        ],
    },
    Tier {
        name: "2 lab",
        command: TEST,
        parts: &[
            part("", "panic: one guest", 0),
            part(
                "late",
                "survive, and poison that predates the daemon: three guests",
                0,
            ),
            part("", "KVM reloaded under the daemon: two guests", 0),
            part("", "a storm of CLFLUSH on Intel and on AMD, at the same time", 0),
            part("", "Bochs, built once", 0),
        ],
    },
    Tier {
        name: "2 lab, full",
        command: FULL,
        parts: &[
            part("scenarios", "all other scenarios in one boot", 360),
            part("killed", "a daemon that is killed in the middle of a storm", 0),
            part(
                "flush",
                "a Linux guest that flushes its lost page and dies of it",
                240,
            ),
        ],
    },
    Tier {
        name: "3 browser",
        command: FULL,
        parts: &[part("browser", "the report in Chromium, watch in tmux", 0)],
    },
    Tier {
        name: "4 dependencies and packages",
        command: FULL,
        parts: &[
            part(
                "dependencies",
                "licences, duplicates and sources, by cargo-deny (built once)",
                0,
            ),
            part(
                "packages",
                "both packages, made and looked into (release build)",
                0,
            ),
            part("install", "the .deb in a Debian 12 under its own systemd", 0),
        ],
    },
    Tier {
        name: "5 cost",
        command: FULL,
        parts: &[part("cost", "exits against the committed table", 0)],
    },
];

/// Run by hand only.
const BY_HAND: [Part; 7] = [
    part(
        "tenants",
        "attacks of hostile tenants; debug and release on mutated inputs",
        0,
    ),
    part("miri", "the parsers of events under Miri", 0),
    part("", "cargo xtask lab matrix: every kernel on every processor", 660),
    part("", "cargo xtask lab storm --all: every kind of storm", 0),
    part(
        "",
        "cargo xtask soak --minutes 10: a mixed load, memory over time",
        0,
    ),
    part("", "cargo xtask fuzz --seconds 600", 0),
    part("", "cargo xtask bench: costs beside the peers", 0),
];

pub fn text() -> String {
    let mut text = format!("{MEASURED}\n");
    for tier in &TIERS {
        // A String takes every write.
        writeln!(text, "\n{} ({})", tier.name, tier.command).ok();
        for part in tier.parts {
            text += &part.line();
        }
    }
    text += "\nby hand\n";
    for part in &BY_HAND {
        text += &part.line();
    }
    text += "\n`cargo xtask test --only NAME` runs a part with a name alone, with the daemon that was built last.\n";
    text
}

impl Part {
    fn line(&self) -> String {
        let Self { only, what, seconds } = self;
        if *seconds == 0 {
            return format!("  {only:<13}{what:<64}{:>7}\n", "-");
        }
        format!("  {only:<13}{what:<64}{:>4}:{:02}\n", seconds / 60, seconds % 60)
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;
    use crate::cli;

    #[test]
    fn each_part_that_can_be_run_alone_is_in_the_list_once() {
        let all = TIERS.iter().flat_map(|tier| tier.parts).chain(&BY_HAND);
        let mut listed: Vec<&str> = all
            .map(|part| part.only)
            .filter(|only| !only.is_empty())
            .collect();
        listed.sort_unstable();
        let mut known: Vec<String> = cli::Part::value_variants()
            .iter()
            .filter_map(|part| Some(part.to_possible_value()?.get_name().to_owned()))
            .collect();
        known.sort_unstable();
        assert_eq!(listed, known);
    }

    #[test]
    fn each_part_has_a_line() {
        let text = text();
        for part in TIERS.iter().flat_map(|tier| tier.parts).chain(&BY_HAND) {
            assert!(part.what.chars().count() <= 64, "{}", part.what);
            assert!(text.contains(&part.line()), "{}", part.what);
        }
    }
}
