//! Facts in a folder: `facts.json`, and the tracepoints' `format` files as the kernel gave them. Small text, so that
//! a user can look through it and send it.

use std::{fs, io, path::Path};

use super::{EVENTS, Facts, FactsError, live};
use crate::format::Format;

const FILE: &str = "facts.json";

impl Facts {
    /// Writes these facts, and the formats that lie under `root`, into a folder that is new or empty.
    ///
    /// # Errors
    /// A folder that holds something, or cannot be written to.
    pub fn save(&self, root: &Path, folder: &Path) -> Result<(), FactsError> {
        let io = |path: &Path, err: io::Error| FactsError::Io(path.to_owned(), err);
        fs::create_dir_all(folder).map_err(|err| io(folder, err))?;
        if fs::read_dir(folder)
            .map_err(|err| io(folder, err))?
            .next()
            .is_some()
        {
            return Err(FactsError::NotEmpty(folder.to_owned()));
        }
        let tracefs = live::tracefs(root)?.join("events");
        for name in self.events.keys() {
            let from = tracefs.join(name).join("format");
            let to = folder.join("events").join(name);
            let text = fs::read(&from).map_err(|err| io(&from, err))?;
            fs::create_dir_all(&to).map_err(|err| io(&to, err))?;
            fs::write(to.join("format"), text).map_err(|err| io(&to, err))?;
        }
        let path = folder.join(FILE);
        let mut json = serde_json::to_string_pretty(self).map_err(|err| io(&path, err.into()))?;
        json.push('\n');
        fs::write(&path, json).map_err(|err| io(&path, err))
    }

    /// Reads what [`Facts::save`] wrote.
    ///
    /// # Errors
    /// A folder without facts, or with damaged ones.
    pub fn load(folder: &Path) -> Result<Self, FactsError> {
        let none = |why: String| FactsError::NoFacts(folder.to_owned(), why);
        let path = folder.join(FILE);
        let json = fs::read_to_string(&path).map_err(|err| none(format!("{FILE}: {err}")))?;
        let mut facts: Self = serde_json::from_str(&json).map_err(|err| none(format!("{FILE}: {err}")))?;
        for name in EVENTS {
            match fs::read_to_string(folder.join("events").join(name).join("format")) {
                Ok(text) => {
                    facts.events.insert(name.to_owned(), Format::parse(&text));
                }
                Err(err) if err.kind() == io::ErrorKind::NotFound => {}
                Err(err) => return Err(none(format!("events/{name}/format: {err}"))),
            }
        }
        Ok(facts)
    }
}
