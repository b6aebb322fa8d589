//! The package in a real Debian 12: it is installed, run, poisoned, upgraded, stopped and purged.

mod post_install;

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use xtask_support::paths::Paths;
use xtask_support::progress::Progress;

use crate::debian::image::System;
use crate::debian::{Machine, Performed, Plan};

pub use crate::debian::unavailable;

const STEPS: &str = concat!(include_str!("steps.sh"), include_str!("walk.sh"));
/// systemd under software emulation takes a minute to come up, and each step of dpkg some seconds.
const DEADLINE: Duration = Duration::from_secs(1200);

/// Version of the package that replaces the first one.
pub const UPGRADE: &str = "0.2.0+upgrade";

/// `debs`: the package, and the same with the version [`UPGRADE`].
pub fn run(
    paths: &Paths,
    series: &str,
    programs: &Path,
    debs: [&Path; 2],
    progress: &Progress,
) -> Result<Performed> {
    let plan = Plan {
        name: "install",
        system: System::Plain,
        series,
        steps: STEPS,
        deadline: DEADLINE,
    };
    let machine = Machine::set_up(paths, plan, programs, progress)?;
    machine.give(&programs.join("storm-vmm"), "bin/storm-vmm")?;
    if let Some(kvm) = machine.packages().kernel.modules(&["kvm_amd"])?.last() {
        fs::write(machine.share().join("kvm_amd.ko"), &kvm.code).context("cannot write kvm_amd.ko")?;
    }
    for (name, deb) in ["first.deb", "second.deb"].into_iter().zip(debs) {
        machine.give(deb, name)?;
    }
    let mut performed = machine.perform(progress)?;
    for (name, check) in [
        (
            "one_record_a_change_with_the_incident_in_it",
            post_install::journal as fn(&Path) -> Result<()>,
        ),
        ("privileges_are_given_up", post_install::privileges),
        ("the_store_only_writes", post_install::store_thread),
    ] {
        let outcome = check(&performed.out);
        performed.add(name, outcome);
    }
    Ok(performed)
}

#[cfg(test)]
mod tests {
    use super::STEPS;
    use lab_protocol::storm::StormPlan;

    /// The steps are a shell's; the plans for the VMM are checked here, before anything is booted.
    #[test]
    fn the_vmm_can_read_each_plan_of_the_steps() {
        let plans: Vec<&str> = STEPS
            .split('\'')
            .filter(|quoted| quoted.starts_with("{\"mode\""))
            .collect();
        assert_eq!(plans.len(), STEPS.matches("{\"mode\"").count());
        assert!(plans.len() >= 3, "{plans:?}");
        for plan in plans {
            serde_json::from_str::<StormPlan>(plan).unwrap_or_else(|error| panic!("{plan}: {error}"));
        }
    }
}
