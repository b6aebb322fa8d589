//! What commands print beside an answer.

/// An incident that was asked for.
#[derive(Clone, Copy)]
pub enum Asked<'a> {
    /// By its id.
    Id(&'a str),
    /// By the name of its VM.
    Vm(&'a str),
    /// The latest.
    Last,
}

/// There is no such incident. `in_files`: in files that were named, not in the store.
pub fn no_such_incident(asked: Asked<'_>, in_files: bool) -> String {
    match (asked, in_files) {
        (Asked::Id(id), false) => format!("no incident {id}: `poisontrace incidents` lists those there are"),
        (Asked::Id(id), true) => {
            format!("no incident {id}: leave out the id to explain all incidents of the files")
        }
        (Asked::Vm(name), false) => {
            format!("no incident of a VM named {name}: `poisontrace incidents` lists those there are")
        }
        (Asked::Vm(name), true) => {
            format!("no incident of a VM named {name}: leave out --vm to explain all incidents of the files")
        }
        (Asked::Last, _) => {
            "no incident has been recorded; `poisontrace check` shows whether the probes can record one"
                .to_owned()
        }
    }
}

/// The store is empty.
pub const fn nothing_recorded() -> &'static str {
    "no incident has been recorded\n"
}

/// Host events that the answer has no room for.
pub fn host_events_left_out(more: u64) -> String {
    format!("… and {more} more losses of the host, which are left out\n")
}

/// What `detach` removed: maps and links.
pub fn detached(removed: usize) -> String {
    match removed {
        0 => "nothing was pinned\n".to_owned(),
        n => format!("detached: {n} pinned maps and links removed\n"),
    }
}
