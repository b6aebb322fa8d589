//! Packages: a .deb and an .rpm from a release binary with the BPF programs inside. The packagers are cargo's own
//! (cargo-deb, cargo-generate-rpm), pinned, below target/tools.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::builds;
use crate::tool;
use xtask_support::command;
use xtask_support::paths::Paths;
use xtask_support::progress::Progress;
use xtask_support::stamp;

const CARGO_DEB: (&str, &str) = ("cargo-deb", "3.6.3");
const CARGO_RPM: (&str, &str) = ("cargo-generate-rpm", "0.21.1");
const CARGO_AUDITABLE: (&str, &str) = ("cargo-auditable", "0.7.7");

/// The folder of all that is made.
fn folder(paths: &Paths) -> PathBuf {
    paths.target.join("dist")
}

/// Makes both packages, and returns where they are.
pub fn dist(paths: &Paths, progress: &Progress) -> Result<[PathBuf; 2]> {
    prepare(paths, progress)?;
    Ok([deb(paths, None, progress)?, rpm(paths, progress)?])
}

/// The binary and all else that the packages hold.
pub fn prepare(paths: &Paths, progress: &Progress) -> Result<()> {
    let folder = folder(paths);
    fs::create_dir_all(&folder)?;
    let object = builds::probes(paths, progress)?;
    let auditable = tool::set_up(paths, CARGO_AUDITABLE, progress)?;
    builds::daemon_auditable(paths, &object, &auditable, progress)?;
    manual(paths, &object, &folder.join("manual"), progress)?;
    dashboards(paths, &folder.join("dashboards"))
}

/// Packs what [`prepare`] made. `version`: another than the crate's.
pub fn deb(paths: &Paths, version: Option<&str>, progress: &Progress) -> Result<PathBuf> {
    let deb = folder(paths).join("poisontrace.deb");
    let mut cargo_deb = command::clean(tool::set_up(paths, CARGO_DEB, progress)?);
    progress.step("packing the .deb");
    cargo_deb
        .current_dir(&paths.root)
        .args(["--no-build", "--package", "poisontrace", "--output"])
        .arg(&deb);
    if let Some(version) = version {
        cargo_deb.args(["--deb-version", version]);
    }
    command::logged(&mut cargo_deb, &folder(paths).join("deb.log"), "cargo-deb")?;
    Ok(deb)
}

fn rpm(paths: &Paths, progress: &Progress) -> Result<PathBuf> {
    let rpm = folder(paths).join("poisontrace.rpm");
    let mut cargo_rpm = command::clean(tool::set_up(paths, CARGO_RPM, progress)?);
    progress.step("packing the .rpm");
    cargo_rpm
        .current_dir(&paths.root)
        .args(["--package", "daemon", "--output"])
        .arg(&rpm);
    command::logged(
        &mut cargo_rpm,
        &folder(paths).join("rpm.log"),
        "cargo-generate-rpm",
    )?;
    Ok(rpm)
}

fn manual(paths: &Paths, object: &Path, folder: &Path, progress: &Progress) -> Result<()> {
    progress.step("writing man pages and completions");
    stamp::start_over(folder)?;
    let mut cargo = builds::cargo(paths, object);
    cargo
        .args(["run", "--quiet", "--package", "poisontrace"])
        .args(["--example", "manual", "--"])
        .arg(folder);
    command::logged(&mut cargo, &paths.target.join("dist/manual.log"), "the manual")
}

/// The dashboards and rules, flat: what the packages take.
fn dashboards(paths: &Paths, to: &Path) -> Result<()> {
    stamp::start_over(to)?;
    copy(&paths.root.join("dashboards"), to)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)
                .with_context(|| format!("cannot copy {}", entry.path().display()))?;
        }
    }
    Ok(())
}
