//! An initramfs with one static program as /init and the modules that it loads.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};
use cpio::newc::{Builder, trailer};

use crate::kernels::Module;
use lab_protocol::MODULE_ORDER_FILE;

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;

/// Anything besides init and modules: where it goes, and its content. Folders come before what is in them.
pub enum Extra<'a> {
    Folder(&'a str),
    Program(&'a str, Vec<u8>),
    File(&'a str, Vec<u8>),
}

pub fn write(path: &Path, init: &Path, modules: &[Module], extras: &[Extra]) -> Result<()> {
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut archive = Archive {
        out: BufWriter::new(file),
        inode: 0,
    };
    let init = fs::read(init).with_context(|| format!("cannot read {}", init.display()))?;
    archive.add("init", PROGRAM, &init)?;
    archive.add("modules", DIRECTORY, &[])?;
    let mut order = String::new();
    for module in modules {
        let name = format!("modules/{}.ko", module.name);
        archive.add(&name, FILE, &module.code)?;
        order.push_str(&format!("/{name}\n"));
    }
    archive.add(MODULE_ORDER_FILE, FILE, order.as_bytes())?;
    for extra in extras {
        match extra {
            Extra::Folder(name) => archive.add(name, DIRECTORY, &[])?,
            Extra::Program(name, content) => archive.add(name, PROGRAM, content)?,
            Extra::File(name, content) => archive.add(name, FILE, content)?,
        }
    }
    trailer(archive.out)?
        .flush()
        .with_context(|| format!("cannot write {}", path.display()))
}

struct Archive {
    out: BufWriter<File>,
    inode: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.inode += 1;
        let size = u32::try_from(content.len()).with_context(|| format!("{name} is too large"))?;
        let name = name.trim_start_matches('/');
        let entry = Builder::new(name).ino(self.inode).mode(mode).nlink(1);
        let mut writer = entry.write(&mut self.out, size);
        writer.write_all(content)?;
        writer.finish()?;
        Ok(())
    }
}
