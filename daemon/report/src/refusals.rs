//! Why a request for an incident's page has no page.

/// The store cannot be read; why is not for the client.
pub fn store_unreadable() -> String {
    "the store cannot be read; the daemon's log has the reason".to_owned()
}

/// There is no such incident; `list`: the path of the list.
pub fn no_incident(list: &str) -> String {
    format!("no such incident; {list} lists those there are")
}

/// The query is longer than `most` bytes.
pub fn long_query(most: usize) -> String {
    format!("the query is longer than {most} bytes")
}

/// The value of `key` is none of these.
pub fn no_value<'a>(key: &str, known: impl Iterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.collect();
    format!("no such {key}; there are: {}", known.join(", "))
}

/// The value of `key` is no number.
pub fn no_number(key: &str) -> String {
    format!("{key}: a number is expected")
}
