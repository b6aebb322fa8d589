//! File, environment and flags, one over the other.

use std::{
    collections::BTreeSet,
    env, fs, io,
    path::{Path, PathBuf},
};

use toml::{Table, Value, de::DeTable};

use super::{Config, DEFAULT_FILE};

/// Longest file that is read, bytes: the shipped one is some 5 KiB.
const MAX_FILE: u64 = 1024 * 1024;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{0}: {problem}", problem = unreadable(.1))]
    Io(PathBuf, io::Error),
    #[error("{file}:{line}: {problem}")]
    Line {
        file: PathBuf,
        line: usize,
        problem: String,
    },
    #[error("environment variable {name}: {problem}")]
    Environment { name: String, problem: String },
    #[error("{key}: {problem}")]
    Flag { key: String, problem: String },
}

fn unreadable(err: &io::Error) -> String {
    match err.kind() {
        io::ErrorKind::NotFound => {
            "there is no such file: name another with --config, or leave it out for /etc/poisontrace/poisontrace.toml, \
             or the defaults where that is not there"
                .to_owned()
        }
        io::ErrorKind::PermissionDenied => "not allowed: run it with sudo, or name another with --config".to_owned(),
        _ => err.to_string(),
    }
}

/// Where settings come from. Kept, so that SIGHUP reads the same again.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    /// `--config`; a file that is named must be there.
    pub file: Option<PathBuf>,
    /// Settings by flag: key and value.
    pub flags: Vec<(&'static str, Value)>,
}

impl Layers {
    /// Notes a flag that was given.
    pub fn flag(&mut self, key: &'static str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.flags.push((key, value.into()));
        }
    }

    /// The settings that hold, read now.
    ///
    /// # Errors
    /// A file that cannot be read or is wrong (with its line), a variable or flag of a wrong value.
    pub fn read(&self) -> Result<Config, ConfigError> {
        misspelt(env::vars_os().filter_map(|(name, _)| name.into_string().ok()))?;
        self.read_with(|name| env::var(name).ok())
    }

    pub(super) fn read_with(
        &self,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Config, ConfigError> {
        let mut config = match &self.file {
            Some(file) => read_file(file)?,
            None => match read_file(Path::new(DEFAULT_FILE)) {
                Err(ConfigError::Io(_, err)) if err.kind() == io::ErrorKind::NotFound => Config::default(),
                result => result?,
            },
        };
        for (old, new) in RENAMED {
            let name = variable(old);
            if environment(&name).is_some() {
                let problem = format!("it is now {}: rename it", variable(new));
                return Err(ConfigError::Environment { name, problem });
            }
        }
        for key in keys() {
            let name = variable(&key);
            if let Some(text) = environment(&name) {
                let wrong = |problem| ConfigError::Environment {
                    name: name.clone(),
                    problem,
                };
                let value = parse_like(&config, &key, &text).map_err(wrong)?;
                config = with(&config, &key, value).map_err(wrong)?;
            }
        }
        for (key, value) in &self.flags {
            config = with(&config, key, value.clone()).map_err(|problem| ConfigError::Flag {
                key: (*key).to_owned(),
                problem,
            })?;
        }
        Ok(config)
    }
}

/// Refuses a variable of a section (`POISONTRACE_WEB_`) that has no such key: a misspelt setting would not hold. Others that begin with
/// POISONTRACE_ are those of a hook, and of builds.
///
/// # Errors
/// The first such variable.
pub(super) fn misspelt(mut names: impl Iterator<Item = String>) -> Result<(), ConfigError> {
    let keys = keys();
    let known: BTreeSet<String> = keys.iter().map(|key| variable(key)).collect();
    let sections: BTreeSet<String> = keys
        .iter()
        .filter_map(|key| key.split_once('.'))
        .map(|(section, _)| variable(section) + "_")
        .collect();
    let renamed = |name: &String| RENAMED.iter().any(|(old, _)| variable(old) == *name);
    let wrong = names.find(|name| {
        let of = |section: &String| name.starts_with(section);
        sections.iter().any(of) && !known.contains(name) && !renamed(name)
    });
    match wrong {
        Some(name) => Err(ConfigError::Environment {
            name,
            problem:
                "there is no such setting: its name is POISONTRACE_, the section and the key, as the shipped \
                      poisontrace.toml has them"
                    .to_owned(),
        }),
        None => Ok(()),
    }
}

/// Reads one file over the defaults.
///
/// # Errors
/// See [`ConfigError`].
pub fn read_file(file: &Path) -> Result<Config, ConfigError> {
    let opened = fs::File::open(file).map_err(|err| ConfigError::Io(file.to_owned(), err))?;
    let text = io::read_to_string(io::Read::take(opened, MAX_FILE))
        .map_err(|err| ConfigError::Io(file.to_owned(), err))?;
    parse(&text).map_err(|(at, problem)| ConfigError::Line {
        file: file.to_owned(),
        line: 1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count(),
        problem,
    })
}

/// Settings out of a file's text.
///
/// # Errors
/// The byte where it is wrong, and what is.
pub fn parse(text: &str) -> Result<Config, (usize, String)> {
    let at = |err: &toml::de::Error| {
        let message = err.message().lines().next().unwrap_or_default();
        (err.span().map_or(0, |span| span.start), message.to_owned())
    };
    let table = DeTable::parse(text).map_err(|err| at(&err))?;
    unknown(table.get_ref(), &table_of(&Config::default()), "")?;
    toml::from_str(text).map_err(|err| at(&err))
}

/// Finds keys that there are not.
fn unknown(found: &DeTable<'_>, known: &Table, prefix: &str) -> Result<(), (usize, String)> {
    for (key, value) in found {
        let name = format!("{prefix}{}", key.get_ref());
        match (known.get(key.get_ref().as_ref()), value.get_ref().as_table()) {
            (None, _) => {
                return Err((key.span().start, unknown_key(&name)));
            }
            (Some(Value::Table(known)), Some(found)) => unknown(found, known, &format!("{name}."))?,
            _ => {}
        }
    }
    Ok(())
}

fn unknown_key(name: &str) -> String {
    if let Some((_, new)) = RENAMED.iter().find(|(old, _)| *old == name) {
        return format!("{name} is now {new}: rename it");
    }
    let keys = keys();
    let sections = table_of(&Config::default())
        .iter()
        .filter(|(_, value)| value.is_table())
        .map(|(name, _)| name.clone())
        .collect::<Vec<_>>();
    let nearest = keys
        .iter()
        .chain(&sections)
        .max_by(|a, b| strsim::jaro_winkler(a, name).total_cmp(&strsim::jaro_winkler(b, name)));
    // A key in the wrong section is found by its last word.
    let last = name.rsplit('.').next().unwrap_or(name);
    let elsewhere = keys.iter().find(|key| key.rsplit('.').next() == Some(last));
    match elsewhere.or(nearest) {
        Some(nearest) => format!("unknown key {name}; did you mean {nearest}?"),
        None => format!("unknown key {name}"),
    }
}

/// Keys of version 0.1 and their names now.
const RENAMED: [(&str, &str); 2] = [
    (
        "incident.late_death_seconds",
        "incident.attribution_window_seconds",
    ),
    ("metrics.vm_labels", "metrics.per_vm"),
];

/// All keys, with their sections: `web.listen_address`.
pub(super) fn keys() -> Vec<String> {
    let mut keys = Vec::new();
    for (name, value) in table_of(&Config::default()) {
        match value {
            Value::Table(section) => keys.extend(section.keys().map(|key| format!("{name}.{key}"))),
            _ => keys.push(name),
        }
    }
    keys
}

/// The environment variable of a key: `web.listen_address` is POISONTRACE_WEB_LISTEN_ADDRESS.
pub(super) fn variable(key: &str) -> String {
    format!("POISONTRACE_{}", key.replace('.', "_").to_uppercase())
}

pub(super) fn table_of(config: &Config) -> Table {
    // Strings, numbers and lists of them: nothing that TOML cannot hold.
    Table::try_from(config).unwrap_or_default()
}

/// Where a key's value lies in a table.
pub(super) fn slot<'t>(table: &'t mut Table, key: &str) -> Option<&'t mut Value> {
    match key.split_once('.') {
        Some((section, key)) => table.get_mut(section)?.as_table_mut()?.get_mut(key),
        None => table.get_mut(key),
    }
}

/// Text as a value of the key's own kind.
fn parse_like(config: &Config, key: &str, text: &str) -> Result<Value, String> {
    let mut table = table_of(config);
    match slot(&mut table, key) {
        Some(Value::String(_)) => Ok(Value::String(text.to_owned())),
        _ => text
            .parse()
            .map_err(|_| format!("{text:?} is not a TOML value such as true, 10 or [\"open\"]")),
    }
}

/// The settings with one of them changed.
fn with(config: &Config, key: &str, value: Value) -> Result<Config, String> {
    let mut table = table_of(config);
    if let Some(slot) = slot(&mut table, key) {
        *slot = value;
    }
    table
        .try_into()
        .map_err(|err: toml::de::Error| err.message().lines().next().unwrap_or_default().to_owned())
}
