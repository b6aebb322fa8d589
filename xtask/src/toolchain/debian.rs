//! Debian's rustc-web and its LLVM, and a bpf-linker for them, unpacked below target/tools.
//!
//! rustc-web has a core library for bpfel-unknown-none ready-made, so neither a nightly compiler nor core's source is
//! needed, and neither rustup nor the user's default toolchain is touched.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use xtask_support::command;
use xtask_support::debian::{self, Apt, Package};
use xtask_support::paths::Paths;
use xtask_support::progress::Progress;
use xtask_support::stamp::{self, Stamp};

use super::FLAGS;

/// Reads what rustc's LLVM writes; pinned, because which LLVM a version knows is its own affair.
const BPF_LINKER: &str = "0.13.0";
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

pub struct Debian {
    tree: PathBuf,
    linker_dir: PathBuf,
}

/// Sets the toolchain up where it is not there yet.
pub fn set_up(paths: &Paths, progress: &Progress) -> Result<Debian> {
    let folder = paths.tools();
    let toolchain = Debian {
        tree: folder.join("tree"),
        linker_dir: folder.join("bin"),
    };
    let wanted = vec!["rustc-web".to_owned(), format!("bpf-linker {BPF_LINKER}")];
    if stamp::read(&folder, &wanted).is_some() {
        return Ok(toolchain);
    }
    stamp::start_over(&folder)?;
    let apt = Apt::update(&paths.apt("toolchain"), progress)?;
    let names = names(&apt)?;
    let mut installed = progress.task("packages of the BPF toolchain", || -> Result<_> {
        // The C library is the machine's own: it must match the machine's loader.
        let mut packages = apt.download_closure(&[&names.llvm], progress)?;
        packages.retain(|package| package.name != "libc6");
        let mut installed: Vec<String> = packages.iter().map(Package::label).collect();
        debian::unpack(&packages, &toolchain.tree, progress)?;
        let packages = apt.download(&names.alone(), progress)?;
        installed.extend(packages.iter().map(Package::label));
        debian::unpack(&packages, &toolchain.tree, progress)?;
        Ok(installed)
    })?;

    let llvm = toolchain.llvm_major()?;
    if llvm != names.llvm_major {
        bail!(
            "rustc-web has LLVM {llvm}, its packages have LLVM {}: report this",
            names.llvm_major
        );
    }
    progress.step(format!("building bpf-linker {BPF_LINKER} (about a minute, once)"));
    progress.task("bpf-linker", || toolchain.install_linker(paths, &llvm))?;
    installed.push(format!("bpf-linker {BPF_LINKER}"));
    stamp::write(&folder, &Stamp { wanted, installed })?;
    Ok(toolchain)
}

/// The names of Debian's packages carry versions, so they are asked for.
struct Names {
    llvm_major: String,
    llvm: String,
    std: String,
}

fn names(apt: &Apt) -> Result<Names> {
    const ADVICE: &str = "apt offers no rustc-web with a core library for BPF (Debian 12 does, in bookworm-security, and Debian 13): \
                          add that archive, install bpf-linker and a nightly toolchain with rust-src, or set \
                          POISONTRACE_BPF_OBJECT to an object built elsewhere";
    let depends_on = |package: &str, prefix: &str| -> Result<String> {
        let depends = apt.depends(package).context(ADVICE)?;
        let with_version = |name: &String| {
            name.strip_prefix(prefix)
                .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        };
        depends.into_iter().find(with_version).context(ADVICE)
    };
    let std = depends_on("libstd-rust-web-dev", "libstd-rust-web-")?;
    let llvm = depends_on(&std, "libllvm")?;
    let llvm_major = llvm.trim_start_matches("libllvm").to_owned();
    Ok(Names {
        llvm_major,
        llvm,
        std,
    })
}

impl Names {
    /// Packages whose dependencies are not wanted: they would bring a C compiler.
    fn alone(&self) -> Vec<String> {
        vec![
            "rustc-web".to_owned(),
            self.std.clone(),
            "libstd-rust-web-dev".to_owned(),
            "libstd-rust-web-dev-bpf".to_owned(),
            format!("llvm-{}-dev", self.llvm_major),
        ]
    }
}

impl Debian {
    fn rustc(&self) -> PathBuf {
        self.tree.join("usr/bin/rustc")
    }

    fn llvm_major(&self) -> Result<String> {
        let mut rustc = command::clean(self.rustc());
        let text = command::output(rustc.arg("-vV").env("LD_LIBRARY_PATH", self.tree.join(LIBRARIES)))?;
        text.lines()
            .find_map(|line| line.strip_prefix("LLVM version: "))
            .and_then(|version| version.split('.').next())
            .map(str::to_owned)
            .context("rustc -vV names no LLVM version")
    }

    fn install_linker(&self, paths: &Paths, llvm: &str) -> Result<()> {
        let mut cargo = command::clean(paths.cargo());
        // Its own flags only: the user's may forbid warnings.
        cargo.env_remove("RUSTFLAGS").env_remove("CARGO_TARGET_DIR");
        // LLVM does the work: the sooner the linker is built, the better.
        cargo.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0");
        cargo.env("CARGO_PROFILE_RELEASE_LTO", "off");
        cargo.env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
        cargo
            .args([
                "install",
                "bpf-linker",
                "--version",
                BPF_LINKER,
                "--locked",
                "--no-default-features",
            ])
            .arg(format!("--features=llvm-{llvm}"))
            .arg("--root")
            .arg(paths.tools())
            .env("LLVM_PREFIX", self.tree.join(format!("usr/lib/llvm-{llvm}")))
            .env("LD_LIBRARY_PATH", self.tree.join(LIBRARIES));
        command::logged(
            &mut cargo,
            &paths.tools().join("log/bpf-linker.log"),
            "cargo install bpf-linker",
        )
    }

    /// The user's cargo with this compiler and linker.
    pub fn cargo(&self, paths: &Paths) -> Result<Command> {
        let mut search: Vec<PathBuf> = vec![self.linker_dir.clone()];
        search.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
        let path: OsString = env::join_paths(search).context("PATH cannot be extended")?;
        let mut cargo = command::clean(paths.cargo());
        cargo
            .env("PATH", path)
            .env("RUSTC", self.rustc())
            .env("LD_LIBRARY_PATH", self.tree.join(LIBRARIES))
            .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"))
            .env("CARGO_CFG_BPF_TARGET_ARCH", "x86_64")
            // aya-ebpf declares the feature asm_experimental_arch; no other crate may use unstable ones.
            .env("RUSTC_BOOTSTRAP", "aya_ebpf")
            .env_remove("RUSTC_WRAPPER");
        Ok(cargo)
    }
}
