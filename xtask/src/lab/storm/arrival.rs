//! The files that the emulated host sent by its serial port.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lab_contract::storm::{ALL_SHIPPED, Shipped};

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
        let content = STANDARD
            .decode(&file.content)
            .with_context(|| format!("{} did not arrive whole", file.name))?;
        ensure!(
            content.len() == file.length,
            "{} arrived with {} of {} bytes",
            file.name,
            content.len(),
            file.length
        );
        ensure!(
            !file.name.contains('/'),
            "{} is no plain name of a file",
            file.name
        );
        fs::write(into.join(&file.name), content)
            .with_context(|| format!("cannot write to {}", into.display()))?;
        count += 1;
    }
    bail!("the files of the emulated host did not all arrive: {count} did")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &str, content: &str, length: usize) -> String {
        let file = Shipped {
            name: name.to_owned(),
            length,
            content: STANDARD.encode(content),
        };
        serde_json::to_string(&file).unwrap_or_default() + "\n"
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
