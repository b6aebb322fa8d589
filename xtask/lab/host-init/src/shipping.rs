//! Files leave the emulated host by a serial port, one JSON line each: the emulator with the true processor has
//! nothing faster that needs no driver.

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use lab_protocol::storm::{ALL_SHIPPED, SHIPPING_PORT, Shipped};
use rustix::termios::{OptionalActions, Termios, speed, tcdrain, tcgetattr, tcsetattr};

/// Every file of the folder and of the folders in it, then a line with their number.
pub fn ship(folder: &str) -> Result<()> {
    let port = open()?;
    let mut out = BufWriter::new(&port);
    let mut files = Vec::new();
    find(Path::new(folder), &mut files)?;
    for path in &files {
        let name = path.strip_prefix(folder)?.to_string_lossy();
        send(&mut out, path, &name).with_context(|| format!("cannot ship {}", path.display()))?;
    }
    let last = Shipped {
        name: ALL_SHIPPED.to_owned(),
        length: files.len(),
        content: String::new(),
    };
    line(&mut out, &last)?;
    drop(out);
    tcdrain(&port).context("the serial port does not drain")
}

fn find(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

fn send(out: &mut impl Write, path: &Path, name: &str) -> Result<()> {
    let content = fs::read(path)?;
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&content)?;
    let file = Shipped {
        name: name.to_owned(),
        length: content.len(),
        content: STANDARD.encode(gzip.finish()?),
    };
    line(out, &file)
}

fn line(out: &mut impl Write, file: &Shipped) -> Result<()> {
    serde_json::to_writer(&mut *out, file)?;
    writeln!(out)?;
    out.flush().context("cannot write to the serial port")
}

/// As fast as the port goes, and without the terminal's changes to what passes.
fn open() -> Result<File> {
    let port = OpenOptions::new()
        .read(true)
        .write(true)
        .open(SHIPPING_PORT)
        .with_context(|| format!("cannot open {SHIPPING_PORT}"))?;
    let mut settings: Termios = tcgetattr(&port)?;
    settings.make_raw();
    settings.set_speed(speed::B115200)?;
    tcsetattr(&port, OptionalActions::Now, &settings)?;
    Ok(port)
}
