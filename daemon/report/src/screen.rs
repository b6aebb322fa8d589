//! What `watch` shows: the labels of its parts, and what stands in a part that is empty.

/// The keys that it knows.
pub const KEYS: &str = "q quit   ↑ ↓ choose an incident";
/// The daemon cannot write to its store.
pub const STORE_DOWN: &str = "the store cannot be written to";
/// The daemon has made no forecast yet.
pub const NO_FORECAST: &str = "not made yet; `poisontrace forecast` makes one now";
/// The store is empty.
pub const NO_INCIDENTS: &str = "none has been recorded";
/// The daemon does not answer.
pub const NO_PROBES: &str = "not known; `poisontrace check` shows what this kernel offers";

/// Head of the list of incidents.
pub const COLUMNS: [&str; 5] = ["began (UTC)", "VM", "outcome", "cause", "exits"];

/// A number in the first line.
#[derive(Clone, Copy)]
pub enum Count {
    /// VMs that run.
    Vms,
    /// Of these, guests that run on poison.
    AtRisk,
    /// Incidents that are not over.
    Open,
    /// Pages that are lost.
    PoisonedPages,
    /// Events that the kernel's buffer had no room for.
    EventsLost,
    /// Memory failures that came before the daemon.
    Missed,
}

impl Count {
    /// Its label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Vms => "VMs",
            Self::AtRisk => "at risk",
            Self::Open => "open",
            Self::PoisonedPages => "poisoned pages",
            Self::EventsLost => "events lost",
            Self::Missed => "missed",
        }
    }
}

/// Title of a part.
#[derive(Clone, Copy)]
pub enum Title<'a> {
    /// Numbers of the whole host.
    Host,
    /// What an error would do.
    Forecast,
    /// Exits on poison; per second, `None` where nothing counts them.
    Rate(Option<u64>),
    /// The list, where it cannot be read or is empty.
    Incidents,
    /// The list.
    NewestFirst,
    /// The answer, with no incident chosen.
    Answer,
    /// The answer about the incident of this id.
    Of(&'a str),
    /// The probes.
    Probes,
}

impl std::fmt::Display for Title<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Host => f.write_str("poisontrace"),
            Self::Forecast => f.write_str("if memory fails now"),
            Self::Rate(Some(rate)) => write!(f, "poison exits/s: {rate}"),
            Self::Rate(None) => f.write_str("poison exits/s: ?"),
            Self::Incidents => f.write_str("incidents"),
            Self::NewestFirst => f.write_str("incidents, the newest first"),
            Self::Answer => f.write_str("answer"),
            Self::Of(id) => write!(f, "poisontrace explain {id}"),
            Self::Probes => f.write_str("probes"),
        }
    }
}

/// How many of the probes are attached.
pub fn attached(on: usize, of: usize) -> String {
    format!("{on} of {of} attached")
}

/// The probes that are not, by name.
pub fn unavailable(names: &[&str]) -> String {
    format!("; unavailable: {}", names.join(", "))
}
