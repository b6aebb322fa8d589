//! Programs and libraries of a tree of unpacked packages. The machine needs none of them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::command;

/// Up to Debian 12 some packages unpack outside /usr; later ones do not.
const LOADERS: [&str; 2] = ["lib64/ld-linux-x86-64.so.2", "usr/lib64/ld-linux-x86-64.so.2"];
pub const LIBRARIES: [&str; 2] = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"];

/// A program of the tree, by the tree's own loader and libraries.
pub fn program(tree: &Path, path: &str) -> Result<Command> {
    let libraries = LIBRARIES
        .map(|dir| tree.join(dir).display().to_string())
        .join(":");
    let mut command = command::clean(loader(tree)?);
    command
        .args(["--library-path", &libraries])
        .arg(first(tree, &[path])?);
    Ok(command)
}

pub fn loader(tree: &Path) -> Result<PathBuf> {
    first(tree, &LOADERS)
}

pub fn library(tree: &Path, name: &str) -> Result<PathBuf> {
    let candidates = LIBRARIES.map(|dir| format!("{dir}/{name}"));
    first(tree, &candidates.each_ref().map(String::as_str))
}

pub fn file(tree: &Path, path: &str) -> Result<PathBuf> {
    first(tree, &[path])
}

fn first(tree: &Path, candidates: &[&str]) -> Result<PathBuf> {
    candidates
        .iter()
        .map(|path| tree.join(path))
        .find(|path| path.exists())
        .with_context(|| {
            format!(
                "{} holds none of {candidates:?}; remove it and try again",
                tree.display()
            )
        })
}

/// The libraries that a program is linked with: `name => path (address)`, as the loader lists them.
pub fn linked_with(tree: &Path, program: &Path) -> Result<Vec<PathBuf>> {
    let libraries = LIBRARIES.map(|dir| tree.join(dir).display().to_string());
    let mut list = command::clean(loader(tree)?);
    list.args(["--library-path", &libraries.join(":"), "--list"])
        .arg(program);
    Ok(command::output(&mut list)?
        .lines()
        .filter_map(|line| line.split_once(" => ")?.1.split(' ').next())
        .map(PathBuf::from)
        .collect())
}
