//! The BPF object without DWARF, which is five sixths of it and which nothing reads: the kernel takes BTF. By the llvm-objcopy that
//! comes with rustc (`rust-objcopy`): bpf-linker's object has one string table for sections and symbols, and not every writer of ELF
//! knows that.

use std::path::{Path, PathBuf};

use anyhow::Result;
use xtask_support::command;

/// `None`: this compiler comes without it.
fn objcopy() -> Result<Option<(PathBuf, PathBuf)>> {
    let print = |what| command::output(command::clean("rustc").args(["--print", what]));
    let (sysroot, host) = (print("sysroot")?, print("host-tuple")?);
    let sysroot = PathBuf::from(sysroot.trim());
    let program = sysroot
        .join("lib/rustlib")
        .join(host.trim())
        .join("bin/rust-objcopy");
    Ok(program.is_file().then(|| (program, sysroot.join("lib"))))
}

/// Writes the object without DWARF; false where there is no tool to do so.
pub fn strip(from: &Path, to: &Path) -> Result<bool> {
    let Some((program, libraries)) = objcopy()? else {
        return Ok(false);
    };
    let mut objcopy = command::clean(program);
    objcopy
        .env("LD_LIBRARY_PATH", libraries)
        .arg("--strip-debug")
        .args([from, to]);
    command::output(&mut objcopy)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::{env, fs};

    use super::*;

    #[test]
    fn what_is_stripped_is_smaller_and_still_an_object() {
        let folder = tempfile::TempDir::new().unwrap();
        let (from, to) = (env::current_exe().unwrap(), folder.path().join("stripped"));
        if !strip(&from, &to).unwrap() {
            assert!(objcopy().unwrap().is_none());
            return;
        }
        let [from, to] = [from, to].map(|file| fs::read(file).unwrap());
        assert!(to.len() < from.len(), "{} of {}", to.len(), from.len());
        assert_eq!(to[..4], *b"\x7fELF");
    }
}
