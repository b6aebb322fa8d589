//! Where things are, all below the workspace.

use std::env;
use std::path::PathBuf;

use anyhow::{Context, Result};

pub struct Paths {
    /// The workspace.
    pub root: PathBuf,
    /// Cargo's target folder.
    pub target: PathBuf,
}

impl Paths {
    pub fn find() -> Result<Self> {
        let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let root = manifest
            .ancestors()
            .nth(2)
            .context("this crate's folder is not two levels below the workspace")?
            .to_path_buf();
        let target = match env::var_os("CARGO_TARGET_DIR") {
            Some(dir) => root.join(dir),
            None => root.join("target"),
        };
        Ok(Self { root, target })
    }

    /// The BPF toolchain.
    pub fn tools(&self) -> PathBuf {
        self.target.join("tools")
    }

    /// QEMU, kernels and runs of the lab.
    pub fn lab(&self) -> PathBuf {
        self.target.join("lab")
    }

    /// apt's lists and downloaded packages; a folder for each use that may run beside others.
    pub fn apt(&self, user: &str) -> PathBuf {
        self.target.join("apt").join(user)
    }

    pub fn bpf_object(&self) -> PathBuf {
        self.target.join("bpf/poisontrace-probes")
    }

    /// The daemon of demo, tests and lab.
    pub fn lab_daemon(&self) -> PathBuf {
        self.target.join("debug/poisontrace")
    }

    /// The daemon as it is shipped.
    pub fn release_daemon(&self) -> PathBuf {
        self.target.join("release/poisontrace")
    }

    pub fn cargo(&self) -> PathBuf {
        env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
    }
}

/// Searches PATH.
pub fn program(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
}
