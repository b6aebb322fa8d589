//! The compiler and linker of the BPF programs: rustup's nightly where it has all that is needed, else Debian's.

mod debian;
mod debug_info;
mod rustup;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use xtask_support::command;
use xtask_support::debian::Apt;
use xtask_support::paths::Paths;
use xtask_support::progress::Progress;

use debian::Debian;
use rustup::{Nightly, Rustup};

/// As aya-build passes them, and one more: by default bpf-linker leaves no memset to LLVM (for a JIT compiler of network
/// cards), and a loop over bytes clears each structure.
const FLAGS: [&str; 5] = [
    "--cfg=bpf_target_arch=\"x86_64\"",
    "-Cdebuginfo=2",
    // The instruction set of Linux 5.1: 32-bit arithmetic and jumps.
    "-Ctarget-cpu=v3",
    "-Clink-arg=--btf",
    "-Clink-arg=--disable-expand-memcpy-in-order",
];

pub enum Toolchain {
    Rustup(Rustup),
    Debian(Debian),
}

/// The machine's tools for one way or the other.
#[derive(Debug, Clone, Default)]
struct Machine {
    x86_64_linux: bool,
    nightly: Option<Nightly>,
    bpf_linker: bool,
    /// Why Debian's packages cannot be downloaded.
    no_apt: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
enum Way {
    Rustup(Rustup),
    Debian,
}

impl Machine {
    fn this() -> Self {
        Self {
            x86_64_linux: cfg!(all(target_os = "linux", target_arch = "x86_64")),
            nightly: rustup::nightly(),
            bpf_linker: rustup::bpf_linker().is_some(),
            no_apt: Apt::unavailable(),
        }
    }

    /// Nothing is downloaded where rustup's way is complete.
    fn way(&self) -> Result<Way> {
        if !self.x86_64_linux {
            bail!(
                "cannot build the BPF programs: only x86_64 Linux is supported; set POISONTRACE_BPF_OBJECT to an object built there"
            );
        }
        if let (Some(nightly), true) = (&self.nightly, self.bpf_linker)
            && nightly.has_rust_src
        {
            return Ok(Way::Rustup(Rustup {
                version: nightly.version.clone(),
            }));
        }
        let Some(no_apt) = &self.no_apt else {
            return Ok(Way::Debian);
        };
        bail!(
            "cannot build the BPF programs: {} missing, and {no_apt}; do `{}`, or set POISONTRACE_BPF_OBJECT to an object \
             built elsewhere",
            self.missing_of_rustup().join(" and "),
            self.remedies().join(" && ")
        )
    }

    fn missing_of_rustup(&self) -> Vec<&'static str> {
        let toolchain = match &self.nightly {
            None => Some("rustup's nightly toolchain"),
            Some(nightly) if !nightly.has_rust_src => Some("rust-src of rustup's nightly toolchain"),
            Some(_) => None,
        };
        let linker = (!self.bpf_linker).then_some("bpf-linker on PATH");
        toolchain.into_iter().chain(linker).collect()
    }

    fn remedies(&self) -> Vec<&'static str> {
        let toolchain = self
            .nightly
            .as_ref()
            .is_none_or(|nightly| !nightly.has_rust_src)
            .then_some("rustup toolchain install nightly --component rust-src");
        let linker = (!self.bpf_linker).then_some("cargo binstall bpf-linker");
        toolchain.into_iter().chain(linker).collect()
    }
}

/// Fails where this machine has no way to build the BPF programs.
pub fn possible() -> Result<()> {
    Machine::this().way().map(drop)
}

/// Chooses, and sets up what is not there yet.
pub fn set_up(paths: &Paths, progress: &Progress) -> Result<Toolchain> {
    Ok(match Machine::this().way()? {
        Way::Rustup(rustup) => Toolchain::Rustup(rustup),
        Way::Debian => Toolchain::Debian(debian::set_up(paths, progress)?),
    })
}

impl Toolchain {
    /// For a line that names the way.
    pub fn description(&self) -> String {
        match self {
            Self::Rustup(rustup) => format!("rustup's nightly ({}) and bpf-linker on PATH", rustup.version),
            Self::Debian(_) => "Debian's rustc-web and bpf-linker below target/tools".to_owned(),
        }
    }

    /// Builds the BPF programs, and puts the object where it is wanted.
    pub fn build_probes(&self, paths: &Paths, features: &str, to: &Path) -> Result<()> {
        // A folder of its own for each compiler.
        let (mut cargo, target) = match self {
            Self::Rustup(rustup) => (rustup.cargo(), paths.target.join("bpf-build-nightly")),
            Self::Debian(debian) => (debian.cargo(paths)?, paths.target.join("bpf-build")),
        };
        cargo
            .current_dir(&paths.root)
            .args(["build", "--release", "--target", "bpfel-unknown-none"])
            .args(["--package", "poisontrace-probes", "--bin", "poisontrace-probes"])
            .args(["--features", features])
            .arg("--target-dir")
            .arg(&target);
        command::shown(&mut cargo, "building the BPF programs")?;
        let built = target.join("bpfel-unknown-none/release/poisontrace-probes");
        let stripped = built.with_extension("stripped");
        match debug_info::strip(&built, &stripped)? {
            true => copy(&stripped, to),
            false => copy(&built, to),
        }
    }
}

/// Copies only what differs, so that a build that changed nothing leaves the time of the object alone.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let new = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    if let Some(dir) = to.parent() {
        fs::create_dir_all(dir)?;
    }
    fs::write(to, new).with_context(|| format!("cannot write {}", to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn debian() -> Machine {
        Machine {
            x86_64_linux: true,
            ..Machine::default()
        }
    }

    fn elsewhere() -> Machine {
        Machine {
            no_apt: Some("there is no apt-get".to_owned()),
            ..debian()
        }
    }

    fn nightly(has_rust_src: bool) -> Option<Nightly> {
        Some(Nightly {
            version: "rustc 1.97.0-nightly".to_owned(),
            has_rust_src,
        })
    }

    fn complete(machine: Machine) -> Machine {
        Machine {
            nightly: nightly(true),
            bpf_linker: true,
            ..machine
        }
    }

    fn refusal(machine: &Machine) -> String {
        let line = machine.way().unwrap_err().to_string();
        assert_eq!(line.lines().count(), 1, "{line}");
        line
    }

    #[test]
    fn a_complete_nightly_is_used_wherever_it_is() {
        let rustup = Way::Rustup(Rustup {
            version: "rustc 1.97.0-nightly".to_owned(),
        });
        assert_eq!(complete(elsewhere()).way().unwrap(), rustup);
        assert_eq!(complete(debian()).way().unwrap(), rustup);
    }

    #[test]
    fn debian_needs_neither_rustup_nor_a_linker() {
        assert_eq!(debian().way().unwrap(), Way::Debian);
        for (nightly, bpf_linker) in [(nightly(false), true), (nightly(true), false), (None, true)] {
            let machine = Machine {
                nightly,
                bpf_linker,
                ..debian()
            };
            assert_eq!(machine.way().unwrap(), Way::Debian);
        }
    }

    #[test]
    fn a_machine_with_neither_gets_one_line_that_names_what_is_missing() {
        let line = refusal(&elsewhere());
        assert!(
            line.contains("rustup's nightly toolchain and bpf-linker on PATH missing"),
            "{line}"
        );
        assert!(line.contains("there is no apt-get"), "{line}");
        assert!(
            line.contains(
                "`rustup toolchain install nightly --component rust-src && cargo binstall bpf-linker`"
            ),
            "{line}"
        );
        let line = refusal(&Machine {
            nightly: nightly(false),
            bpf_linker: true,
            ..elsewhere()
        });
        assert!(
            line.contains("rust-src of rustup's nightly toolchain missing"),
            "{line}"
        );
        assert!(!line.contains("bpf-linker"), "{line}");
        let line = refusal(&Machine {
            nightly: nightly(true),
            ..elsewhere()
        });
        assert!(
            line.contains(": bpf-linker on PATH missing") && !line.contains("rustup toolchain"),
            "{line}"
        );
    }

    #[test]
    fn other_machines_are_refused_at_once() {
        let line = refusal(&Machine {
            x86_64_linux: false,
            ..complete(debian())
        });
        assert!(line.contains("only x86_64 Linux"), "{line}");
    }

    #[test]
    fn an_object_that_did_not_change_keeps_its_time() {
        let folder = tempfile::TempDir::new().unwrap();
        let [from, to] = ["from", "sub/to"].map(|name| folder.path().join(name));
        fs::write(&from, "object").unwrap();
        copy(&from, &to).unwrap();
        let written = fs::metadata(&to).unwrap().modified().unwrap();
        copy(&from, &to).unwrap();
        assert_eq!(fs::metadata(&to).unwrap().modified().unwrap(), written);
        fs::write(&from, "another").unwrap();
        copy(&from, &to).unwrap();
        assert_eq!(fs::read_to_string(&to).unwrap(), "another");
    }
}
