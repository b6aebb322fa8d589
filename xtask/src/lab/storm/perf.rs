//! `perf kvm stat` of the same storm: Debian's perf for the emulated host, and what it says of the exits, by reason.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::trace::Time;
use crate::apt::{self, Apt, Package};
use crate::lab::tree;
use crate::paths::Paths;
use crate::progress::Progress;
use crate::stamp::{self, Stamp};

/// perf calls a shell.
const PACKAGES: [&str; 2] = ["dash", "linux-perf"];
const PROGRAMS: [(&str, &str); 2] = [("bin/perf", "usr/bin/perf"), ("bin/sh", "bin/dash")];

/// Downloads it where that has not been done; returns the tree that it is in.
pub fn set_up(paths: &Paths, progress: &Progress) -> Result<PathBuf> {
    let folder = paths.lab().join("perf-tree");
    let wanted = PACKAGES.map(str::to_owned).to_vec();
    if stamp::read(&folder, &wanted).is_none() {
        let apt = Apt::update(&paths.apt(), progress)?;
        stamp::start_over(&folder)?;
        let packages = apt.download_closure(&PACKAGES, progress)?;
        let installed = packages.iter().map(Package::label).collect();
        apt::unpack(&packages, &folder, progress)?;
        stamp::write(&folder, &Stamp { wanted, installed })?;
    }
    Ok(folder)
}

/// Names in the initramfs, and contents: the programs, and what they are linked with.
pub fn files(folder: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for (name, path) in PROGRAMS {
        let program = tree::file(folder, path)?;
        for library in tree::linked_with(folder, &program)? {
            let name = library.file_name().context("a library without a name")?;
            files.insert(format!("lib/{}", name.to_string_lossy()), read(&library)?);
        }
        files.insert(name.to_owned(), read(&program)?);
    }
    Ok(files)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// `EPT_VIOLATION  75  53.19%  85.05%  3.16us  23.89us  6.54us ( +- 3.12% )`: reason, samples, shares of samples and time,
/// shortest, longest, mean.
pub fn by_reason(report: &str) -> BTreeMap<String, Time> {
    let line = |line: &str| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [reason, samples, _, _, _, _, mean, ..] = words[..] else {
            return None;
        };
        let count: u64 = samples.parse().ok()?;
        let mean: f64 = mean.strip_suffix("us")?.parse().ok()?;
        let ns = mean * 1000.0 * count as f64;
        Some((reason.to_owned(), Time { count, ns }))
    };
    report.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_is_read_by_reason() {
        let report = "\n\nAnalyze events for all VMs, all VCPUs:\n\n\
             VM-EXIT    Samples  Samples%     Time%    Min Time    Max Time         Avg time \n\n\
             EPT_VIOLATION         64    47.41%    94.12%      7.10us     15.00us      7.50us ( +-   2.00% )\n\
             CPUID         64    47.41%     5.00%      0.40us      0.60us      0.50us ( +-   0.53% )\n\n\
             Total Samples:135, Total events handled time:512.00us.\n";
        let reasons = by_reason(report);
        assert_eq!(reasons.len(), 2);
        let time = |count, ns| Time { count, ns };
        assert_eq!(reasons["EPT_VIOLATION"], time(64, 480_000.0));
        assert_eq!(reasons["CPUID"], time(64, 32_000.0));
    }
}
