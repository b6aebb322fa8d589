//! Bochs: the emulator whose CLFLUSH reaches the hypervisor as a real processor's does. Built from Debian's source:
//! the packages of Debian 12 are of an older version, which is slow and cannot run the AMD processor.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter};
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;

use anyhow::{Context, Result, bail, ensure};

use super::{decode_assists, dram_poison};
use xtask_support::command;
use xtask_support::debian::Apt;
use xtask_support::paths::Paths;
use xtask_support::preflight;
use xtask_support::progress::Progress;
use xtask_support::stamp::{self, Stamp};

/// The Debian release whose Bochs this is.
const RELEASE: &str = "trixie";
const VERSION: &str = "3.0";
const OPTIONS: [&str; 18] = [
    "--enable-vmx=2",
    "--enable-svm",
    "--enable-x86-64",
    "--enable-smp",
    "--enable-cpu-level=6",
    "--enable-all-optimizations",
    "--enable-pci",
    "--enable-evex",
    "--enable-avx",
    "--enable-memtype",
    "--enable-protection-keys",
    "--enable-cet",
    "--enable-cdrom",
    "--with-nogui",
    "--disable-docbook",
    "--disable-plugins",
    // A third faster than with its own choice.
    "CFLAGS=-O3",
    "CXXFLAGS=-O3",
];

/// Builds where that has not been done; returns the program.
pub fn set_up(paths: &Paths, progress: &Progress) -> Result<PathBuf> {
    let folder = paths.lab().join("bochs");
    let program = folder.join("bochs");
    let wanted: Vec<String> = [VERSION, decode_assists::LABEL, dram_poison::LABEL]
        .iter()
        .chain(&OPTIONS)
        .map(|s| (*s).to_owned())
        .collect();
    if stamp::read(&folder, &wanted).is_some() {
        return Ok(program);
    }
    if !preflight::ensure(&preflight::FOR_BOCHS, progress)? {
        bail!("Bochs cannot be built without a C++ compiler and make");
    }
    stamp::start_over(&folder)?;
    let apt = Apt::update(&paths.apt("lab"), progress)?.with_sources_of(RELEASE, progress)?;
    let archive = apt.download_source("bochs", RELEASE, &folder.join("archive"), progress)?;
    let label = archive
        .file_name()
        .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    ensure!(
        label.starts_with(&format!("bochs_{VERSION}")),
        "Debian {RELEASE} offers {label}, not Bochs {VERSION}"
    );
    let source = folder.join("source");
    unpack(&archive, &source)?;
    decode_assists::complete(&source)?;
    dram_poison::complete(&source)?;
    let built = build(&source, &folder.join("log"), progress)?;
    fs::copy(&built, &program).with_context(|| format!("cannot copy {}", built.display()))?;
    // Hundreds of megabytes that nobody needs again.
    fs::remove_dir_all(&source)?;
    fs::remove_dir_all(folder.join("archive"))?;
    let installed = vec![label];
    stamp::write(&folder, &Stamp { wanted, installed })?;
    Ok(program)
}

fn unpack(archive: &Path, into: &Path) -> Result<()> {
    let tar = archive.with_extension("");
    let mut compressed = BufReader::new(File::open(archive)?);
    let mut plain = BufWriter::new(File::create(&tar)?);
    lzma_rs::xz_decompress(&mut compressed, &mut plain)
        .map_err(|error| anyhow::anyhow!("cannot decompress {}: {error:?}", archive.display()))?;
    drop(plain);
    fs::create_dir_all(into)?;
    let mut unpack = command::clean("tar");
    unpack.arg("--extract").arg("--strip-components=1");
    command::output(unpack.arg("--file").arg(&tar).arg("--directory").arg(into))?;
    Ok(())
}

fn build(source: &Path, log: &Path, progress: &Progress) -> Result<PathBuf> {
    progress.step(format!("building Bochs {VERSION} (3 to 5 minutes, once)"));
    let mut configure = command::clean(source.join("configure"));
    configure.current_dir(source).args(OPTIONS);
    command::logged(&mut configure, &log.join("configure.log"), "Bochs' configure")?;
    let jobs = available_parallelism().map_or(1, usize::from);
    let mut make = command::gently("make");
    make.current_dir(source)
        .arg(format!("--jobs={jobs}"))
        .arg("bochs");
    command::logged(&mut make, &log.join("make.log"), "building Bochs")?;
    Ok(source.join("bochs"))
}
