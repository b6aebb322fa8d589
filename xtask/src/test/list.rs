//! `cargo xtask test --list`: the tiers and their parts, with measured times.

use std::fmt::Write as _;

/// Conditions of the measurement.
const MEASURED: &str = "Minutes and seconds in a clean clone, on two cores of an x86-64 machine without KVM. Parts run at the same time \
                        where they do not disturb each other: `demo` took 4:09 there, then `test` 12:12; `test --full` 39:21, without \
                        `libvirt`, which was measured beside other builds.";

struct Tier {
    name: &'static str,
    command: &'static str,
    parts: &'static [Part],
}

struct Part {
    /// As `--only` names it; empty where it cannot be run alone.
    only: &'static str,
    what: &'static str,
    seconds: u32,
}

/// A part without a time does not compile.
const fn part(only: &'static str, what: &'static str, seconds: u32) -> Part {
    assert!(seconds > 0, "a part without a time: measure it");
    Part { only, what, seconds }
}

const TEST: &str = "cargo xtask test";
const FULL: &str = "cargo xtask test --full";

const TIERS: [Tier; 9] = [
    Tier {
        name: "0 build",
        command: TEST,
        parts: &[part(
            "",
            "BPF programs, daemon, the lab's programs, downloads (once)",
            186,
        )],
    },
    Tier {
        name: "1 unit tests",
        command: TEST,
        parts: &[part("", "build", 147), part("", "run", 110)],
    },
    Tier {
        name: "1 fuzz",
        command: TEST,
        parts: &[
            part("", "build, cargo-fuzz included (once)", 304),
            part("", "a minute over all targets", 71),
        ],
    },
    Tier {
        name: "1 dashboards",
        command: TEST,
        parts: &[part(
            "dashboards",
            "dashboards, rules and runbooks with Debian's Prometheus",
            28,
        )],
    },
    Tier {
        name: "2 lab",
        command: TEST,
        parts: &[
            part("", "panic: one guest", 26),
            part(
                "late",
                "survive, and poison that predates the daemon: three guests",
                76,
            ),
            part("", "KVM reloaded under the daemon: two guests", 37),
            part("", "Bochs and its packages (once)", 67),
            part(
                "storms",
                "storms of CLFLUSH on Intel and on AMD, at the same time",
                138,
            ),
        ],
    },
    Tier {
        name: "2 lab, full",
        command: FULL,
        parts: &[
            part("scenarios", "all scenarios in one boot", 257),
            part("killed", "a daemon that is killed in the middle of a storm", 110),
            part(
                "flush",
                "a Linux guest that flushes its lost page and dies of it",
                103,
            ),
            part(
                "libvirt",
                "libvirt's domains, and containers, in a Debian 12",
                365,
            ),
        ],
    },
    Tier {
        name: "3 browser",
        command: FULL,
        parts: &[part("browser", "the report in Chromium, watch in tmux", 6)],
    },
    Tier {
        name: "4 dependencies, packages",
        command: FULL,
        parts: &[
            part(
                "dependencies",
                "licences, duplicates and sources, by cargo-deny (built once)",
                186,
            ),
            part(
                "packages",
                "both packages, made and looked into (release build)",
                492,
            ),
            part("install", "the .deb in a Debian 12 under its own systemd", 271),
        ],
    },
    Tier {
        name: "5 cost",
        command: FULL,
        parts: &[part(
            "cost",
            "exits against the committed table (release builds)",
            413,
        )],
    },
];

/// Run by hand only: name of the part or command, what it does, and how long it takes after its builds; `-`: not measured.
const BY_HAND: [(&str, &str, &str); 10] = [
    ("shipping", "incidents of hosts in a store, by rsyslog", "0:20"),
    ("fleet", "1,000 hosts in a Prometheus, queries timed", "4:00"),
    ("tenants", "attacks of hostile tenants, mutated inputs", "27:30"),
    ("miri", "the parsers of events under Miri", "-"),
    (
        "cargo xtask lab matrix",
        "every kernel on every processor",
        "40:00",
    ),
    ("cargo xtask lab storm --all", "every kind of storm", "-"),
    (
        "cargo xtask lab storm --twice",
        "the same storm in two boots",
        "-",
    ),
    (
        "cargo xtask soak --minutes 10",
        "a mixed load, memory over time",
        "10:00",
    ),
    ("cargo xtask fuzz --seconds 600", "nine targets", "90:00"),
    ("cargo xtask bench", "costs beside the peers", "-"),
];

/// `1:05` for 65 seconds.
fn clock(seconds: u32) -> String {
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

impl Tier {
    /// Of all its parts, one after the other.
    fn seconds(&self) -> u32 {
        self.parts.iter().map(|part| part.seconds).sum()
    }
}

pub fn text() -> String {
    let mut text = format!("{MEASURED}\n");
    for tier in &TIERS {
        // A String takes every write.
        let heading = format!("{} ({})", tier.name, tier.command);
        writeln!(text, "\n{heading:<79}{:>7}", clock(tier.seconds())).ok();
        for part in tier.parts {
            text += &part.line();
        }
    }
    text += "\nby hand\n";
    for (name, what, takes) in &BY_HAND {
        // A String takes every write.
        writeln!(text, "  {name:<32}{what:<45}{takes:>7}").ok();
    }
    text += "\n`cargo xtask test --only NAME` runs a part with a name alone.\n";
    text
}

impl Part {
    fn line(&self) -> String {
        let Self { only, what, seconds } = self;
        format!("  {only:<13}{what:<64}{:>7}\n", clock(*seconds))
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;
    use crate::cli;

    #[test]
    fn each_part_that_can_be_run_alone_is_in_the_list_once() {
        let known: Vec<String> = cli::Part::value_variants()
            .iter()
            .filter_map(|part| Some(part.to_possible_value()?.get_name().to_owned()))
            .collect();
        let by_hand = BY_HAND.iter().map(|(name, ..)| *name);
        let all = TIERS.iter().flat_map(|tier| tier.parts).map(|part| part.only);
        let mut listed: Vec<&str> = all
            .chain(by_hand)
            .filter(|name| !name.is_empty() && !name.starts_with("cargo"))
            .collect();
        listed.sort_unstable();
        let mut known: Vec<&str> = known.iter().map(String::as_str).collect();
        known.sort_unstable();
        assert_eq!(listed, known);
    }

    #[test]
    fn the_document_has_each_tier_with_its_time() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let document = std::fs::read_to_string(root.join("daemon/docs/testing.md")).unwrap();
        for tier in &TIERS {
            let row = format!("| {} | {} |", tier.name, clock(tier.seconds()));
            assert!(document.contains(&row), "testing.md has no {row:?}");
        }
    }

    #[test]
    fn each_part_of_a_tier_has_a_line_of_one_width_that_ends_in_its_time() {
        let text = text();
        for part in TIERS.iter().flat_map(|tier| tier.parts) {
            assert!(text.contains(&part.line()), "{}", part.what);
            assert!(part.line().trim_end().ends_with(&clock(part.seconds)));
        }
        for line in text.lines().filter(|line| line.starts_with("  ")) {
            assert_eq!(line.chars().count(), 86, "{line}");
        }
    }
}
