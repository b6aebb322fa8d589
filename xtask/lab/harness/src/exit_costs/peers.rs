//! Other programs that look at VM exits, from Debian's packages.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;
use lab_protocol::bench::{Ready, Watch};

use xtask_support::debian::{self, Apt, Package};
use xtask_support::paths::Paths;
use xtask_support::progress::Progress;
use xtask_support::stamp::{self, Stamp};
use xtask_support::unpacked;

/// bpftrace and perf call a shell.
const PACKAGES: [&str; 4] = ["bpftrace", "dash", "linux-perf", "trace-cmd"];

/// bcc's kvmexit in bpftrace's words: time from exit to entry by reason. What it prints is read once all is attached.
const KVMEXIT: &str = "tracepoint:kvm:kvm_exit { @at[tid] = nsecs; @reason[tid] = args->exit_reason; } \
                       tracepoint:kvm:kvm_entry /@at[tid]/ { @ns[@reason[tid]] = hist(nsecs - @at[tid]); \
                       delete(@at[tid]); delete(@reason[tid]); } \
                       interval:s:1 /!@ready/ { printf(\"at work\\n\"); @ready = 1; }";

/// A program that is measured beside ours.
pub struct Peer {
    pub name: &'static str,
    pub watch: Watch,
}

pub fn all() -> Vec<Peer> {
    let program = |command: &[&str], ready, leaves: Option<&str>| Watch::Program {
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        ready,
        leaves: leaves.map(str::to_owned),
    };
    vec![
        Peer {
            name: "ftrace",
            watch: Watch::Ftrace {
                events: vec!["kvm/kvm_exit".to_owned(), "kvm/kvm_entry".to_owned()],
            },
        },
        Peer {
            name: "trace-cmd",
            watch: program(
                &[
                    "trace-cmd",
                    "record",
                    "-e",
                    "kvm:kvm_exit",
                    "-e",
                    "kvm:kvm_entry",
                    "-o",
                    "/tmp/trace.dat",
                ],
                Ready::After(5000),
                Some("/tmp/trace.dat"),
            ),
        },
        Peer {
            name: "perf",
            watch: program(
                &["perf", "kvm", "stat", "record", "-a", "-o", "/tmp/perf.data"],
                Ready::Quiet,
                Some("/tmp/perf.data"),
            ),
        },
        Peer {
            name: "bpftrace",
            watch: program(
                &["bpftrace", "-B", "line", "-e", KVMEXIT],
                Ready::Prints("at work".to_owned()),
                None,
            ),
        },
    ]
}

/// The packages, unpacked; what they are called, with their versions.
pub struct Packages {
    tree: PathBuf,
    pub versions: Vec<String>,
}

pub fn set_up(paths: &Paths, progress: &Progress) -> Result<Packages> {
    let tree = paths.lab().join("peers");
    let wanted = PACKAGES.map(str::to_owned).to_vec();
    let installed = match stamp::read(&tree, &wanted) {
        Some(stamp) => stamp.installed,
        None => {
            let apt = Apt::update(&paths.apt("lab"), progress)?;
            stamp::start_over(&tree)?;
            let packages = apt.download_closure(&PACKAGES, progress)?;
            let installed: Vec<String> = packages.iter().map(Package::label).collect();
            debian::unpack(&packages, &tree, progress)?;
            stamp::write(
                &tree,
                &Stamp {
                    wanted,
                    installed: installed.clone(),
                },
            )?;
            installed
        }
    };
    let ours = |label: &String| {
        let name = label.split('_').next().unwrap_or_default();
        PACKAGES.contains(&name)
    };
    Ok(Packages {
        tree,
        versions: installed.into_iter().filter(ours).collect(),
    })
}

impl Packages {
    /// Programs and all libraries that they are linked with: where they are, by name.
    pub fn files(&self) -> Result<(BTreeMap<String, PathBuf>, BTreeMap<String, PathBuf>)> {
        let mut programs = BTreeMap::new();
        let mut libraries = BTreeMap::new();
        for (name, at) in [
            ("bpftrace", "usr/bin/bpftrace"),
            ("perf", "usr/bin/perf"),
            ("sh", "bin/dash"),
            ("trace-cmd", "usr/bin/trace-cmd"),
        ] {
            let program = unpacked::file(&self.tree, at)?;
            for library in unpacked::linked_with(&self.tree, &program)? {
                if let Some(name) = library.file_name() {
                    libraries.insert(name.to_string_lossy().into_owned(), library);
                }
            }
            programs.insert(name.to_owned(), program);
        }
        Ok((programs, libraries))
    }
}
