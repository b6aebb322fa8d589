//! The configuration: a flag wins over the environment, that over the file, that over the default. Every key has a value, so that
//! the shipped file (`packaging/poisontrace.toml`) can show each with its default; a test holds the two together.

mod layers;
mod reload;

use std::{fmt, net::SocketAddr, path::PathBuf};

use clap::ValueEnum;
use poisontrace_sources::inputs::vmm_places::VmmPlaces;
use serde::{Deserialize, Serialize};

pub use layers::{ConfigError, Layers, parse};
pub use reload::needs_restart;

/// Read where no other file is named, if it is there.
pub const DEFAULT_FILE: &str = "/etc/poisontrace/poisontrace.toml";

/// All settings. The keys' meanings are in the shipped file; they are not repeated here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub state_dir: PathBuf,
    pub store: Store,
    pub log: Log,
    pub web: Web,
    pub metrics: Metrics,
    pub probes: Probes,
    pub guest: Guest,
    pub vmm: VmmPlaces,
    pub incident: Incident,
    pub hook: Hook,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Store {
    pub max_age_days: u32,
    pub max_megabytes: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    pub level: LogLevel,
    pub format: LogFormat,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Web {
    pub listen_address: ListenAddress,
    /// Empty: none.
    pub config_file: PathBuf,
    pub incidents: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    pub per_vm: bool,
    pub max_vms: u32,
}

impl Metrics {
    /// How many VMs get metrics of their own; `None`: no such metrics.
    pub fn max_labelled_vms(&self) -> Option<usize> {
        self.per_vm.then_some(self.max_vms as usize)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Probes {
    pub hot_path: HotPathChoice,
}

/// When something is attached to the hooks that every exit of every guest passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum HotPathChoice {
    /// While there is poison; from the start where this kernel does not allow that
    #[default]
    OnPoison,
    /// From the start
    Always,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Guest {
    pub read_code: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Incident {
    pub attribution_window_seconds: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Hook {
    /// Program and arguments; empty: no hook.
    pub command: Vec<String>,
    pub on: Vec<HookEvent>,
    pub timeout_seconds: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// The journal where stderr leads there, else text.
    Auto,
    Text,
    Journald,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HookEvent {
    Open,
    Verdict,
    Close,
}

/// `HOST:PORT`, numeric; empty (`None`): nothing listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ListenAddress(pub Option<SocketAddr>);

impl TryFrom<String> for ListenAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        text.parse().map(|address| Self(Some(address))).map_err(|_| {
            format!("{text:?} is not a numeric ADDRESS:PORT such as 127.0.0.1:9847 or [::]:9847")
        })
    }
}

impl std::str::FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.to_owned().try_into()
    }
}

impl From<ListenAddress> for String {
    fn from(address: ListenAddress) -> Self {
        address.to_string()
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |address| address.fmt(f))
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            state_dir: "/var/lib/poisontrace".into(),
            store: Store::default(),
            log: Log::default(),
            web: Web::default(),
            metrics: Metrics::default(),
            probes: Probes::default(),
            guest: Guest::default(),
            vmm: VmmPlaces::default(),
            incident: Incident::default(),
            hook: Hook::default(),
        }
    }
}

impl Default for Store {
    fn default() -> Self {
        Self {
            max_age_days: 400,
            max_megabytes: 256,
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: LogLevel::Info,
            format: LogFormat::Auto,
        }
    }
}

impl Default for Web {
    fn default() -> Self {
        Self {
            listen_address: ListenAddress(Some(SocketAddr::from(([127, 0, 0, 1], 9847)))),
            config_file: PathBuf::new(),
            incidents: false,
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            per_vm: false,
            max_vms: 100,
        }
    }
}

impl Default for Incident {
    fn default() -> Self {
        Self {
            attribution_window_seconds: 600,
        }
    }
}

impl Default for Hook {
    fn default() -> Self {
        Self {
            command: Vec::new(),
            on: vec![HookEvent::Open, HookEvent::Verdict, HookEvent::Close],
            timeout_seconds: 10,
        }
    }
}

impl Config {
    /// What is well formed and will not work: found by looking at this machine.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (key, value) in [
            ("max_age_days", self.store.max_age_days),
            ("max_megabytes", self.store.max_megabytes),
        ] {
            if value == 0 {
                problems.push(format!("store.{key}: 0 would keep nothing: at least 1"));
            }
        }
        if let Some(program) = self.hook.command.first() {
            let path = std::path::Path::new(program);
            if !path.is_absolute() {
                problems.push(format!("hook.command: {program} is not an absolute path"));
            } else if let Err(err) = rustix::fs::access(path, rustix::fs::Access::EXEC_OK) {
                problems.push(format!("hook.command: {program} cannot be run: {err}"));
            }
        }
        if self.hook.timeout_seconds == 0 {
            problems.push("hook.timeout_seconds: 0 leaves the hook no time: at least 1".to_owned());
        }
        if !self.web.config_file.as_os_str().is_empty()
            && let Err(err) = std::fs::File::open(&self.web.config_file)
        {
            problems.push(format!(
                "web.config_file: {}: {err}",
                self.web.config_file.display()
            ));
        }
        problems
    }
}

#[cfg(test)]
mod tests;
