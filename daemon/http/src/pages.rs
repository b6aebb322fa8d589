//! Pages that others make from a request's path and query: incidents. They show guest addresses, which break the guest's KASLR, and
//! text of guests' owners: so no script, nothing from elsewhere, no frame, no cache; and for a browser on this host only under a name
//! that no other site can have (DNS rebinding). Each is made off the event loop, a few at a time, within a time limit.

use std::{net::IpAddr, sync::Arc, time::Duration};

use hyper::{
    HeaderMap, StatusCode,
    header::{self, HeaderName, HeaderValue},
    http::uri::Authority,
};
use tokio::{sync::Semaphore, time::timeout};

use super::{
    access::Access,
    routes::{Answer, HTML, TEXT, plain},
    tls,
    web_config::WebConfigError,
};

/// Pages that are made at the same time; more wait.
const AT_ONCE: usize = 2;
/// How long a request may wait and be worked on.
const PATIENCE: Duration = Duration::from_secs(5);

const JSON: &str = "application/json";

/// Makes pages.
pub trait Pages: Send + Sync {
    /// Whether the path is one of these pages.
    fn has(&self, path: &str) -> bool;
    /// The page; takes what the disk takes.
    fn page(&self, path: &str, query: &str) -> Page;
    /// The one style sheet that stands in the HTML pages.
    fn style(&self) -> &'static str;
}

/// A page.
pub struct Page {
    pub status: Status,
    pub content: Content,
    /// Path and query of the page after this one.
    pub next: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Ok,
    BadRequest,
    NotFound,
    Unavailable,
}

pub enum Content {
    Html(String),
    Json(String),
}

/// Pages as the server has them.
pub(super) struct Served {
    pages: Arc<dyn Pages>,
    turns: Arc<Semaphore>,
    policy: HeaderValue,
}

impl Served {
    pub fn new(pages: Arc<dyn Pages>) -> Self {
        let policy = format!(
            "default-src 'none'; style-src 'sha256-{}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            tls::sha256_base64(pages.style().as_bytes())
        );
        Self {
            pages,
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            // Of visible ASCII; without a policy of its own a page must not be served at all.
            policy: HeaderValue::from_str(&policy)
                .unwrap_or(HeaderValue::from_static("default-src 'none'; sandbox")),
        }
    }

    pub fn has(&self, path: &str) -> bool {
        self.pages.has(path)
    }

    /// The answer to a request for one of them.
    pub async fn answer(&self, path: &str, query: &str, headers: &HeaderMap, access: &Access) -> Answer {
        if access.users.is_empty() && !is_own_name(headers) {
            return self.guarded(plain(
                StatusCode::MISDIRECTED_REQUEST,
                TEXT,
                "incidents are shown under localhost or an address, not under another name\n",
            ));
        }
        let made = timeout(PATIENCE, async {
            let turn = Arc::clone(&self.turns).acquire_owned().await.ok()?;
            let pages = Arc::clone(&self.pages);
            let (path, query) = (path.to_owned(), query.to_owned());
            let work = tokio::task::spawn_blocking(move || {
                let page = pages.page(&path, &query);
                // Also where nobody waits any more.
                drop(turn);
                page
            });
            work.await.ok()
        });
        self.guarded(match made.await {
            Ok(Some(page)) => shown(page),
            _ => plain(StatusCode::SERVICE_UNAVAILABLE, TEXT, "the daemon is busy\n"),
        })
    }

    fn guarded(&self, mut answer: Answer) -> Answer {
        let fixed: [(HeaderName, &'static str); 5] = [
            (header::CACHE_CONTROL, "no-store"),
            (header::REFERRER_POLICY, "no-referrer"),
            (header::X_FRAME_OPTIONS, "DENY"),
            (
                HeaderName::from_static("cross-origin-resource-policy"),
                "same-origin",
            ),
            (
                HeaderName::from_static("cross-origin-opener-policy"),
                "same-origin",
            ),
        ];
        let headers = answer.headers_mut();
        for (name, value) in fixed {
            headers.insert(name, HeaderValue::from_static(value));
        }
        headers.insert(header::CONTENT_SECURITY_POLICY, self.policy.clone());
        answer
    }
}

fn shown(page: Page) -> Answer {
    let status = match page.status {
        Status::Ok => StatusCode::OK,
        Status::BadRequest => StatusCode::BAD_REQUEST,
        Status::NotFound => StatusCode::NOT_FOUND,
        Status::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
    };
    let (kind, body) = match page.content {
        Content::Html(body) => (HTML, body),
        Content::Json(body) => (JSON, body),
    };
    let mut answer = plain(status, kind, body);
    if let Some(next) = page.next
        && let Ok(link) = HeaderValue::from_str(&format!("<{next}>; rel=\"next\""))
    {
        answer.headers_mut().insert(header::LINK, link);
    }
    answer
}

/// Whether the request's Host is no name that somebody's DNS can point here.
fn is_own_name(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let Some(authority) = host.and_then(|host| host.parse::<Authority>().ok()) else {
        return false;
    };
    let name = authority.host();
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
}

/// Whether pages may be served on this address: beyond loopback only over TLS, to users.
pub(super) fn allowed(address: IpAddr, access: &Access) -> Result<(), WebConfigError> {
    let guarded = access.tls.is_some() && !access.users.is_empty();
    match guarded || address.to_canonical().is_loopback() {
        true => Ok(()),
        false => Err(WebConfigError::Exposed(address)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_dns_can_point_here_are_not_our_own() {
        let of = |host: &'static str| {
            is_own_name(&HeaderMap::from_iter([(
                header::HOST,
                HeaderValue::from_static(host),
            )]))
        };
        for own in [
            "localhost",
            "localhost:9847",
            "127.0.0.1:9847",
            "[::1]:9847",
            "::1",
        ] {
            assert!(of(own) || own == "::1", "{own}");
        }
        for other in [
            "evil.example",
            "localhost.evil.example:9847",
            "127.0.0.1.nip.io",
            "",
        ] {
            assert!(!of(other), "{other}");
        }
        assert!(!is_own_name(&HeaderMap::new()));
    }

    #[test]
    fn beyond_loopback_it_takes_tls_and_a_user() {
        let of = |address: &str, access: &Access| allowed(address.parse().unwrap(), access).is_ok();
        let open = Access::default();
        assert!(of("127.0.0.1", &open) && of("::1", &open) && of("::ffff:127.0.0.1", &open));
        assert!(!of("0.0.0.0", &open) && !of("::", &open) && !of("192.0.2.1", &open));
        let only_users = Access {
            users: [("a".to_owned(), "b".to_owned())].into(),
            ..Access::default()
        };
        assert!(!of("0.0.0.0", &only_users));
    }
}
