//! Files leave the emulated host by a serial port, one JSON line each: the emulator with the true processor has
//! nothing faster that needs no driver.

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lab_contract::storm::{ALL_SHIPPED, SHIPPING_PORT, Shipped};
use rustix::termios::{OptionalActions, Termios, speed, tcdrain, tcgetattr, tcsetattr};

/// Every file of the folder, then a line that says how many they were.
pub fn ship(folder: &str) -> Result<()> {
    let port = open()?;
    let mut out = BufWriter::new(&port);
    let mut count = 0;
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {folder}"))? {
        let path = entry?.path();
        send(&mut out, &path).with_context(|| format!("cannot ship {}", path.display()))?;
        count += 1;
    }
    let last = Shipped {
        name: ALL_SHIPPED.to_owned(),
        length: count,
        content: String::new(),
    };
    line(&mut out, &last)?;
    drop(out);
    tcdrain(&port).context("the serial port does not drain")
}

fn send(out: &mut impl Write, path: &Path) -> Result<()> {
    let content = fs::read(path)?;
    let file = Shipped {
        name: path
            .file_name()
            .map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
        length: content.len(),
        content: STANDARD.encode(&content),
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
