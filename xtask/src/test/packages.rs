//! Both packages: whether what an operator expects of one is in it.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::dist;
use crate::tally::Tally;
use xtask_support::command;
use xtask_support::debian::{self, Apt, Package};
use xtask_support::paths::Paths;
use xtask_support::progress::Progress;
use xtask_support::stamp::{self, Stamp};
use xtask_support::unpacked;

const NAME: &str = "packages";
const IN_BOTH: [&str; 16] = [
    "/usr/bin/poisontrace",
    "/usr/lib/systemd/system/poisontrace.service",
    "/etc/poisontrace/poisontrace.toml",
    "/usr/share/bash-completion/completions/poisontrace",
    "/usr/share/fish/vendor_completions.d/poisontrace.fish",
    "/usr/share/poisontrace/dashboards/grafana/fleet.json",
    "/usr/share/poisontrace/dashboards/grafana/host.json",
    "/usr/share/poisontrace/dashboards/prometheus/alerts.yml",
    "/usr/share/poisontrace/dashboards/prometheus/recording.yml",
    "/usr/share/poisontrace/dashboards/runbooks/PoisontraceGuestLost.md",
    "/usr/share/doc/poisontrace/README.md",
    "/usr/share/doc/poisontrace/docs/operating.md",
    "/usr/share/doc/poisontrace/docs/metrics.md",
    "/usr/share/doc/poisontrace/docs/threat-model.md",
    "/usr/share/doc/poisontrace/packaging/rsyslog/lost-guests.jq",
    "/usr/share/doc/poisontrace/packaging/rsyslog/poisontrace-host.conf",
];
const DEB: [&str; 4] = [
    "/usr/share/zsh/vendor-completions/_poisontrace",
    "/usr/share/man/man1/poisontrace-run.1.gz",
    "/usr/share/doc/poisontrace/copyright",
    "/usr/share/doc/poisontrace/changelog.Debian.gz",
];
const RPM: [&str; 5] = [
    "/usr/share/zsh/site-functions/_poisontrace",
    "/usr/share/man/man1/poisontrace-run.1",
    "/usr/share/licenses/poisontrace/LICENSE-MIT",
    "/usr/share/licenses/poisontrace/LICENSE-APACHE",
    "/usr/share/doc/poisontrace/changelog",
];

pub fn run(paths: &Paths, tally: &mut Tally, progress: &Progress) {
    let packages = progress.task("packages", || dist::dist(paths, progress));
    progress.aside(|| match packages {
        Err(error) => tally.check(NAME, "are_made", Err(error)),
        Ok([deb, rpm]) => {
            let binary = deb.with_file_name("binary");
            tally.check(
                NAME,
                "deb_is_whole",
                in_deb(&deb).and_then(|in_it| holds(&in_it, &DEB)),
            );
            tally.check(
                NAME,
                "rpm_is_whole",
                in_rpm(&rpm, paths, progress).and_then(|in_it| holds(&in_it, &RPM)),
            );
            tally.check(
                NAME,
                "binary_names_its_revision_and_dependencies",
                binary_of(&deb, &binary),
            );
        }
    });
}

fn holds(in_it: &BTreeSet<String>, more: &[&str]) -> Result<()> {
    for path in IN_BOTH.iter().chain(more) {
        ensure!(in_it.contains(*path), "{path} is not in it");
    }
    Ok(())
}

fn in_deb(deb: &Path) -> Result<BTreeSet<String>> {
    // -rw-r--r-- root/root 191 2026-11-25 00:00 ./usr/share/…
    let listed = command::output(command::clean("dpkg-deb").arg("--contents").arg(deb))?;
    Ok(listed
        .lines()
        .filter_map(|line| Some(line.split_whitespace().nth(5)?.trim_start_matches('.').to_owned()))
        .collect())
}

fn in_rpm(rpm: &Path, paths: &Paths, progress: &Progress) -> Result<BTreeSet<String>> {
    let listed = command::output(bsdtar(paths, progress)?.arg("-tf").arg(rpm))?;
    Ok(listed
        .lines()
        .map(|path| path.trim_start_matches('.').to_owned())
        .collect())
}

/// Debian's bsdtar, which reads an RPM too, unpacked below target/.
fn bsdtar(paths: &Paths, progress: &Progress) -> Result<Command> {
    let folder = paths.target.join("bsdtar");
    let wanted = vec!["libarchive-tools".to_owned()];
    if stamp::read(&folder, &wanted).is_none() {
        let apt = Apt::update(&paths.apt("tests"), progress)?;
        stamp::start_over(&folder)?;
        let packages = apt.download_closure(&["libarchive-tools"], progress)?;
        let installed = packages.iter().map(Package::label).collect();
        debian::unpack(&packages, &folder, progress)?;
        stamp::write(&folder, &Stamp { wanted, installed })?;
    }
    unpacked::program(&folder, "usr/bin/bsdtar")
}

/// The binary of the package names its revision; cargo-auditable's section lists its dependencies.
fn binary_of(deb: &Path, folder: &Path) -> Result<()> {
    command::output(command::clean("dpkg-deb").arg("-x").arg(deb).arg(folder))?;
    let binary = folder.join("usr/bin/poisontrace");
    let version = command::output(command::clean(&binary).arg("--version"))?;
    let revision = version
        .split_once('(')
        .and_then(|(_, rest)| rest.split_once(')'))
        .map(|(revision, _)| revision);
    ensure!(
        revision.is_some_and(
            |revision| revision.len() >= 7 && revision.starts_with(|c: char| c.is_ascii_hexdigit())
        ),
        "no revision in {version:?}"
    );
    let bytes = std::fs::read(&binary)?;
    let elf = object::File::parse(&*bytes)?;
    object::Object::section_by_name(&elf, ".dep-v0")
        .context("cargo-auditable's section .dep-v0 is missing")?;
    Ok(())
}
