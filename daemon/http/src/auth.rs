//! Basic authentication against bcrypt hashes.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher as _, RandomState},
    sync::{Mutex, PoisonError},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hyper::header::{AUTHORIZATION, HeaderMap};
use tokio::sync::Semaphore;

/// Right logins that are remembered.
const MAX_KNOWN: usize = 64;
/// bcrypt's lowest cost, for hashes that cannot be read.
const LOWEST_COST: u32 = 4;

/// The order of hashing, and logins that were right.
pub struct Logins {
    /// One at a time, as each takes a processor for a while.
    hashing: Semaphore,
    /// Right logins need no second hashing, so that a scraper does not wait behind wrong ones. Keyed hashes of them, with
    /// keys that nobody outside can learn; never passwords.
    known: Mutex<Vec<[u64; 2]>>,
    keys: [RandomState; 2],
}

impl Default for Logins {
    fn default() -> Self {
        Self {
            hashing: Semaphore::new(1),
            known: Mutex::default(),
            keys: [RandomState::new(), RandomState::new()],
        }
    }
}

impl Logins {
    /// Whether the request may have an answer.
    pub async fn allowed(&self, headers: &HeaderMap, users: &BTreeMap<String, String>) -> bool {
        if users.is_empty() {
            return true;
        }
        let Some((user, password)) = credentials(headers) else {
            return false;
        };
        let hash = users.get(&user).cloned();
        // With the hash: a new password makes the old one wrong.
        let login = (&user, &password, &hash);
        let print = [self.keys[0].hash_one(login), self.keys[1].hash_one(login)];
        if self.known().contains(&print) {
            return true;
        }
        let highest = users.values().map(|hash| cost(hash)).max().unwrap_or(LOWEST_COST);
        let Ok(_turn) = self.hashing.acquire().await else {
            return false;
        };
        let verified = tokio::task::spawn_blocking(move || verify(&password, hash.as_deref(), highest)).await;
        let right = verified.unwrap_or(false);
        if right {
            let mut known = self.known();
            if known.len() >= MAX_KNOWN {
                known.remove(0);
            }
            known.push(print);
        }
        right
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Vec<[u64; 2]>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the password is that of `hash`. It takes as long for every user and for nobody: as the dearest of all hashes. A
/// step of cost doubles the time, so that a hash of cost c and one each of c, c + 1, … highest - 1 take as long as one of
/// the highest.
fn verify(password: &str, hash: Option<&str>, highest: u32) -> bool {
    let Some(hash) = hash else {
        let _ = bcrypt::hash(password, highest);
        return false;
    };
    let right = bcrypt::verify(password, hash).unwrap_or(false);
    for cost in cost(hash)..highest {
        let _ = bcrypt::hash(password, cost);
    }
    right
}

fn cost(hash: &str) -> u32 {
    let parts: Result<bcrypt::HashParts, _> = hash.parse();
    parts.map_or(LOWEST_COST, |parts| parts.get_cost())
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustix::time::{ClockId, clock_gettime};

    use super::*;

    #[test]
    fn a_user_is_not_found_out_by_the_time_that_a_wrong_login_takes() {
        let cheap = bcrypt::hash("right", 5).unwrap();
        let time = |hash: Option<&str>| {
            // The processor's: other tests run meanwhile.
            let now = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap();
            let began = now();
            assert!(!verify("wrong", hash, 9));
            now() - began
        };
        let (nobody, known) = (time(None), time(Some(&cheap)));
        let ratio = nobody.as_secs_f64() / known.as_secs_f64();
        assert!((0.6..1.7).contains(&ratio), "{nobody:?} and {known:?}");
        assert!(verify("right", Some(&cheap), 9));
    }

    #[test]
    fn a_scraper_that_was_let_in_does_not_wait_behind_wrong_logins() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let users = BTreeMap::from([("prometheus".to_owned(), bcrypt::hash("right", 10).unwrap())]);
        let headers = |login: &str| {
            let value = format!("Basic {}", STANDARD.encode(login));
            HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())])
        };
        let logins = Logins::default();
        runtime.block_on(async {
            let right = headers("prometheus:right");
            assert!(logins.allowed(&right, &users).await);
            let turn = logins.hashing.acquire().await.unwrap();
            let again = tokio::time::timeout(Duration::from_secs(5), logins.allowed(&right, &users));
            assert!(again.await.unwrap(), "without its turn");
            drop(turn);
            assert!(!logins.allowed(&headers("prometheus:wrong"), &users).await);
            let changed = BTreeMap::from([("prometheus".to_owned(), bcrypt::hash("new", 4).unwrap())]);
            assert!(
                !logins.allowed(&right, &changed).await,
                "its password was changed"
            );
        });
    }
}
