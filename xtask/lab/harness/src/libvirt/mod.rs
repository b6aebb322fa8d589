//! Real libvirt, and containers as Kubernetes has them, in a Debian 12 under its own systemd: domains are poisoned, and poisontrace's
//! answer is compared with libvirt's; then poisontrace and a VMM run in containers of their own.

mod agreement;
mod bundle;
mod domain;
mod image;

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use lab_protocol::{GUEST_INITRAMFS_FILE, GUEST_KERNEL_FILE};
use xtask_support::paths::Paths;
use xtask_support::progress::Progress;

use crate::debian::image::System;
use crate::debian::{Machine, Performed, Plan};
use crate::images::initramfs;
use crate::scenarios::forecast_check;
use agreement::Case;
use bundle::Pod;
use domain::{Domain, Model};

pub use crate::debian::unavailable;

const STEPS: &str = concat!(include_str!("steps.sh"), include_str!("containers.sh"));
const DEADLINE: Duration = Duration::from_secs(1200);
const GUEST_MODULES: [&str; 1] = ["pvpanic_mmio"];
/// What poisontrace is made from.
const PACKAGING: &str = "daemon/packaging";

const DIES: Domain = Domain {
    name: "db-7",
    uuid: "5e1f1e55-0000-4000-8000-000000000007",
    model: Model::Epyc,
    huge_pages: false,
};
const CHANGED: Domain = Domain {
    model: Model::Host,
    ..DIES
};
const HUGE: Domain = Domain {
    name: "big-1",
    uuid: "5e1f1e55-0000-4000-8000-000000000001",
    model: Model::Host,
    huge_pages: true,
};

const CASES: [Case<'static>; 3] = [
    Case {
        prefix: "overflow",
        domain: &DIES,
        outcome: "guest_panicked",
        state: "shut off (crashed)",
        by_chance: None,
        lifecycle: "Crashed Panicked",
    },
    Case {
        prefix: "changed",
        domain: &CHANGED,
        outcome: "survived",
        // The lab's guest powers itself off then.
        state: "shut off (shutdown)",
        by_chance: None,
        lifecycle: "Stopped Shutdown",
    },
    Case {
        prefix: "hugetlb",
        domain: &HUGE,
        outcome: "guest_panicked",
        state: "shut off (crashed)",
        // The bank still has the first notice's error then, and the daemon does not know the guest's CPUID: unless the access is a
        // store, its verdict is the overflow, likely.
        by_chance: Some("by the access that its kernel makes first"),
        lifecycle: "Crashed Panicked",
    },
];

const POD: Pod<'static> = Pod {
    uid: "1b2c3d4e-0000-4000-8000-00000000feed",
    id: "3f0c52a6d1f94e3c9a7d0e6f18b2a45c3f0c52a6d1f94e3c9a7d0e6f18b2a45c",
    domain: "shop_db-7",
    vm_uuid: "5e1f1e55-0000-4000-8000-00000000feed",
};

/// What was performed, and the forecasts beside what happened.
pub struct Compared {
    pub performed: Performed,
    pub table: String,
}

/// `daemon`: what runs there, with its BPF programs inside.
pub fn run(
    paths: &Paths,
    series: &str,
    programs: &Path,
    daemon: &Path,
    progress: &Progress,
) -> Result<Compared> {
    let plan = Plan {
        name: "libvirt",
        system: System::Virtualization,
        series,
        steps: STEPS,
        deadline: DEADLINE,
    };
    let machine = Machine::set_up(paths, plan, programs, progress)?;
    give(&machine, paths, programs, daemon)?;
    let mut performed = machine.perform(progress)?;
    let out = performed.out.clone();
    let mut rows = Vec::new();
    for case in &CASES {
        let name = |what: &str| format!("{}_{what}", case.prefix);
        performed.add(&name("has_libvirts_name_uuid_and_process"), case.named(&out));
        performed.add(&name("log_of_libvirt_is_followed"), case.log_is_followed(&out));
        performed.add(&name("agrees_with_virsh"), case.virsh_agrees(&out));
        let forecast = case.forecast(&out).map(|row| rows.push(row));
        performed.add(&name("was_foretold"), forecast);
    }
    let [overflow, ..] = &CASES;
    performed.add(
        "forecast_names_the_model_to_change",
        overflow.model_is_to_be_changed(&out),
    );
    performed.add(
        "libvirts_events_are_imported",
        agreement::events_are_imported(daemon, &out, overflow),
    );
    performed.add("pod_and_container_are_named", agreement::pod_is_named(&out, &POD));
    performed.add(
        "pods_log_is_followed",
        agreement::pods_log_is_followed(&out, &POD),
    );
    Ok(Compared {
        performed,
        table: forecast_check::table(&rows),
    })
}

fn give(machine: &Machine<'_>, paths: &Paths, programs: &Path, daemon: &Path) -> Result<()> {
    let share = machine.share();
    for folder in ["unit", "domains/changed", "bundles", "image"] {
        fs::create_dir_all(share.join(folder)).context("cannot make the share's folders")?;
    }
    machine.give(daemon, "bin/poisontrace")?;
    let kernel = &machine.packages().guest_kernel;
    machine.give(&kernel.image, GUEST_KERNEL_FILE)?;
    initramfs::write(
        &share.join(GUEST_INITRAMFS_FILE),
        &programs.join("lab-guest"),
        &kernel.modules(&GUEST_MODULES)?,
        &[],
    )?;
    let packaging = paths.root.join(PACKAGING);
    for file in ["poisontrace.service", "poisontrace.socket", "poisontrace.toml"] {
        machine.give(&packaging.join(file), &format!("unit/{file}"))?;
    }
    let write = |name: &str, text: String| {
        fs::write(share.join(name), text).with_context(|| format!("cannot write {name}"))
    };
    for domain in [&DIES, &HUGE] {
        write(&format!("domains/{}.xml", domain.name), domain.xml())?;
    }
    write(&format!("domains/changed/{}.xml", CHANGED.name), CHANGED.xml())?;
    write("bundles/pod.json", POD.configuration().to_string())?;
    daemons_image(&share, &packaging, paths, daemon, &write)
}

/// The image's files, and its configuration for `check` and for the daemon.
fn daemons_image(
    share: &Path,
    packaging: &Path,
    paths: &Paths,
    daemon: &Path,
    write: &dyn Fn(&str, String) -> Result<()>,
) -> Result<()> {
    let read = |name: &str| {
        fs::read_to_string(packaging.join("container").join(name)).with_context(|| format!("no {name}"))
    };
    let image = image::definition(&read("Containerfile")?)?;
    for (from, to) in &image.copies {
        let to = share
            .join("image")
            .join(to.strip_prefix("/").context("COPY to a relative path")?);
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder).context("cannot make the image's folders")?;
        }
        // The release build that the image is made from is the lab's here.
        let from = match from.ends_with("release/poisontrace") {
            true => daemon.to_owned(),
            false => paths.root.join(from),
        };
        fs::copy(&from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
    }
    let manifest = read("daemonset.yaml")?;
    for (name, arguments) in [("daemon", None), ("check", Some(&["check"][..]))] {
        let bundle = image::configuration(&manifest, &image, arguments)?;
        write(&format!("bundles/{name}.json"), bundle.to_string())?;
    }
    Ok(())
}
