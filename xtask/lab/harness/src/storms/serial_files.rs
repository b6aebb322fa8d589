//! The files that the emulated host sent by its serial port.

use std::fs;
use std::io::Read;
use std::path::{Component, Path};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::read::GzDecoder;
use lab_protocol::storm::{ALL_SHIPPED, Shipped};

/// Writes them into a folder. Nothing may be missing.
pub fn unpack(shipped: &Path, into: &Path) -> Result<()> {
    let lines = fs::read_to_string(shipped).with_context(|| format!("cannot read {}", shipped.display()))?;
    let mut count = 0;
    for line in lines.lines() {
        let file: Shipped =
            serde_json::from_str(line).with_context(|| format!("file {} did not arrive whole", count + 1))?;
        if file.name == ALL_SHIPPED {
            ensure!(file.length == count, "{count} of {} files arrived", file.length);
            return Ok(());
        }
        let content = content(&file).with_context(|| format!("{} did not arrive whole", file.name))?;
        ensure!(
            content.len() == file.length,
            "{} arrived with {} of {} bytes",
            file.name,
            content.len(),
            file.length
        );
        let name = Path::new(&file.name);
        ensure!(
            name.components().all(|part| matches!(part, Component::Normal(_))),
            "{} leads out of the folder",
            file.name
        );
        let path = into.join(name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
        count += 1;
    }
    bail!("the files of the emulated host did not all arrive: {count} did")
}

fn content(file: &Shipped) -> Result<Vec<u8>> {
    let gzip = STANDARD.decode(&file.content)?;
    let mut content = Vec::new();
    GzDecoder::new(&gzip[..]).read_to_end(&mut content)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    fn line(name: &str, content: &str, length: usize) -> String {
        let file = Shipped {
            name: name.to_owned(),
            length,
            content: STANDARD.encode(gzip(content)),
        };
        serde_json::to_string(&file).unwrap_or_default() + "\n"
    }

    fn gzip(content: &str) -> Vec<u8> {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(content.as_bytes()).unwrap();
        gzip.finish().unwrap()
    }

    fn arrives(lines: &str) -> Result<String> {
        let folder = tempfile::TempDir::new()?;
        let shipped = folder.path().join("shipped");
        fs::write(&shipped, lines)?;
        unpack(&shipped, folder.path())?;
        Ok(fs::read_to_string(folder.path().join("a.txt"))?)
    }

    #[test]
    fn whole_files_arrive_and_others_are_refused() -> Result<()> {
        let whole = line("a.txt", "poison", 6);
        let below = line("walk/b.txt", "line", 4);
        assert_eq!(
            arrives(&(whole.clone() + &below + &line(ALL_SHIPPED, "", 2)))?,
            "poison"
        );
        assert_eq!(arrives(&(whole.clone() + &line(ALL_SHIPPED, "", 1)))?, "poison");
        for broken in [
            whole.clone(),
            whole.clone() + &line(ALL_SHIPPED, "", 2),
            line("a.txt", "poison", 7) + &line(ALL_SHIPPED, "", 1),
            whole[..whole.len() / 2].to_owned(),
            line("../a.txt", "poison", 6) + &line(ALL_SHIPPED, "", 1),
        ] {
            assert!(arrives(&broken).is_err(), "{broken}");
        }
        Ok(())
    }
}
