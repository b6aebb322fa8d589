//! Basic authentication against bcrypt hashes.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hyper::header::{AUTHORIZATION, HeaderMap};
use tokio::sync::Semaphore;

/// Compared with where there is no such user, so that the answer takes as long.
const NOBODY: &str = "$2b$10$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";

/// Whether the request may have an answer. `hashing`: one at a time, as each takes a processor for a while.
pub async fn allowed(headers: &HeaderMap, users: &BTreeMap<String, String>, hashing: &Semaphore) -> bool {
    if users.is_empty() {
        return true;
    }
    let Some((user, password)) = credentials(headers) else {
        return false;
    };
    let known = users.get(&user).cloned();
    let exists = known.is_some();
    let hash = known.unwrap_or_else(|| NOBODY.to_owned());
    let Ok(_turn) = hashing.acquire().await else {
        return false;
    };
    let right = tokio::task::spawn_blocking(move || bcrypt::verify(password, &hash).unwrap_or(false)).await;
    right.unwrap_or(false) && exists
}

fn credentials(headers: &HeaderMap) -> Option<(String, String)> {
    let (scheme, encoded) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}
