//! rustup's nightly compiler with the source of core, and the bpf-linker on PATH, as aya-build uses them.

use std::path::{Path, PathBuf};
use std::process::Command;

use xtask_support::command;
use xtask_support::paths::program;

use super::FLAGS;

const TOOLCHAIN: &str = "nightly";
/// Of a toolchain's own folder.
const CORE: &str = "lib/rustlib/src/rust/library/core/src/lib.rs";

/// A nightly compiler with the source of core.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rustup {
    /// Version of the compiler.
    pub version: String,
}

/// Where the nightly toolchain is, and whether it has the source of core.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nightly {
    pub version: String,
    pub has_rust_src: bool,
}

/// `None`: no rustup, or no nightly toolchain.
pub fn nightly() -> Option<Nightly> {
    program("rustup")?;
    let sysroot = command::output(&mut nightly_rustc(&["--print", "sysroot"])).ok()?;
    let version = command::output(&mut nightly_rustc(&["--version"])).ok()?;
    Some(Nightly {
        version: version.trim().to_owned(),
        has_rust_src: Path::new(sysroot.trim()).join(CORE).is_file(),
    })
}

pub fn bpf_linker() -> Option<PathBuf> {
    program("bpf-linker")
}

fn nightly_rustc(arguments: &[&str]) -> Command {
    let mut rustc = command::clean("rustup");
    rustc
        .args(["run", TOOLCHAIN, "rustc"])
        .args(arguments)
        .env_remove("RUSTUP_TOOLCHAIN");
    rustc
}

impl Rustup {
    /// The nightly cargo, which builds core as well.
    pub fn cargo(&self) -> Command {
        let mut cargo = command::clean("rustup");
        cargo
            .args(["run", TOOLCHAIN, "cargo", "-Zbuild-std=core"])
            .env_remove("RUSTUP_TOOLCHAIN")
            .env_remove("RUSTC_WRAPPER")
            .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"))
            .env("CARGO_CFG_BPF_TARGET_ARCH", "x86_64");
        cargo
    }
}
