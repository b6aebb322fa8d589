//! Whether KVM can run guests: built in, or loaded with the module of the processor (kvm_intel, kvm_amd) on top.

use std::{fs, path::Path};

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kvm {
    /// Neither built in nor loaded.
    Absent,
    /// Loaded, but nothing uses it: no guest can run, and whoever wants to unload it must not be kept from that.
    Idle,
    Ready,
}

const MODULE: &str = "sys/module/kvm";

impl Kvm {
    /// Looks into `/sys` below `root`.
    pub fn of(root: &Path) -> Self {
        let module = root.join(MODULE);
        if !module.is_dir() {
            return Self::Absent;
        }
        // Only a module that was loaded has a folder of its users.
        let unused = fs::read_dir(module.join("holders")).is_ok_and(|mut users| users.next().is_none());
        if unused { Self::Idle } else { Self::Ready }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_loaded_idle_and_absent_are_told_apart() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(Kvm::of(root.path()), Kvm::Absent);
        fs::create_dir_all(root.path().join("sys/module/kvm/parameters")).unwrap();
        assert_eq!(Kvm::of(root.path()), Kvm::Ready);
        fs::create_dir(root.path().join("sys/module/kvm/holders")).unwrap();
        assert_eq!(Kvm::of(root.path()), Kvm::Idle);
        fs::create_dir(root.path().join("sys/module/kvm/holders/kvm_amd")).unwrap();
        assert_eq!(Kvm::of(root.path()), Kvm::Ready);
    }
}
