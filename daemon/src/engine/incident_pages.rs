//! The incidents of the store as pages of the HTTP server: a list and the report in HTML, both in JSON too. Each request opens the
//! store for reading, as `poisontrace explain` does, and reads a bounded part of it.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use percent_encoding::percent_decode_str;
use serde_json::json;

use crate::outputs::store::{Bounds, Filter, StoreError, Stored, Wanted};
use poisontrace_http::{Content, Page, Pages, Status};
use poisontrace_model::{
    host::Host,
    incident::terms::{Cause, Outcome},
};
use poisontrace_report::{
    ListFilter,
    document::{Answer, Incident},
    html, list, no_page, refusals,
};
use poisontrace_sources::host::machine;

const HTML: &str = "/incidents";
const API: &str = "/api/v1/incidents";
/// Incidents of a page, where none or too many are asked for.
const INCIDENTS: usize = 50;
/// Rows that are looked at for one page, and for how long.
const ROWS: usize = 2000;
const TIME: Duration = Duration::from_millis(500);
const PARAMETERS: [&str; 5] = ["vm", "outcome", "cause", "before", "limit"];
/// Longest query, bytes.
const MAX_QUERY: usize = 2048;

/// See the module.
pub struct IncidentPages {
    /// The store's folder.
    folder: PathBuf,
}

/// What a request asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Asked {
    filter: Filter,
    /// Incidents of the page.
    limit: Option<usize>,
}

/// Why there is no page.
struct Refusal {
    status: Status,
    why: String,
}

impl From<StoreError> for Refusal {
    fn from(err: StoreError) -> Self {
        // Paths of this host stay in its log.
        tracing::warn!(error = %err, "an incident cannot be shown");
        Self {
            status: Status::Unavailable,
            why: refusals::store_unreadable(),
        }
    }
}

impl IncidentPages {
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
        }
    }

    /// `None`: nothing has been stored yet.
    fn store(&self) -> Result<Option<Stored>, StoreError> {
        match Stored::open(&self.folder) {
            Ok(stored) => Ok(Some(stored)),
            Err(StoreError::Absent(_)) => Ok(None),
            Err(err) => Err(err),
        }
    }

    fn listed(&self, query: &str, is_api: bool) -> Result<Page, Refusal> {
        let asked = asked(query).map_err(|why| Refusal {
            status: Status::BadRequest,
            why,
        })?;
        let most = asked.limit.unwrap_or(INCIDENTS).clamp(1, INCIDENTS);
        let bounds = Bounds {
            incidents: most,
            rows: ROWS,
            until: Instant::now() + TIME,
        };
        let page = match self.store()? {
            Some(stored) => stored.page(&asked.filter, bounds)?,
            None => Default::default(),
        };
        let host = page
            .incidents
            .first()
            .map_or_else(machine::this_host, |(host, _)| host.clone());
        let incidents: Vec<Incident> = page.incidents.into_iter().map(|(_, one)| one).collect();
        let shown = ListFilter {
            vm: asked.filter.vm.clone(),
            outcome: asked.filter.outcome.map(|outcome| outcome.word().to_owned()),
            cause: asked.filter.cause.map(|cause| cause.word().to_owned()),
        };
        let path = if is_api { API } else { HTML };
        let limit = asked.limit.map_or_else(String::new, |_| format!("&limit={most}"));
        let next = page
            .next
            .map(|next| format!("{path}{}{limit}", shown.query(Some(next))));
        let content = match is_api {
            true => Content::Json(body(&Answer::new(host, incidents))),
            false => Content::Html(list(&host, &incidents, HTML, &shown, page.next)),
        };
        Ok(Page {
            status: Status::Ok,
            content,
            next,
        })
    }

    fn one(&self, id: &str, is_api: bool) -> Result<Page, Refusal> {
        let found = match self.store()? {
            Some(stored) => stored.get(&Wanted::Id(decoded(id)))?,
            None => Vec::new(),
        };
        let Some((host, incident)) = found.into_iter().next() else {
            return Err(Refusal {
                status: Status::NotFound,
                why: refusals::no_incident(HTML),
            });
        };
        Ok(Page {
            status: Status::Ok,
            content: match is_api {
                true => Content::Json(body(&Answer::new(host, vec![incident]))),
                false => Content::Html(html(&host, &[incident])),
            },
            next: None,
        })
    }
}

impl Pages for IncidentPages {
    fn has(&self, path: &str) -> bool {
        part(path).is_some()
    }

    fn page(&self, path: &str, query: &str) -> Page {
        let (is_api, id) = part(path).unwrap_or((false, None));
        let made = match id {
            None => self.listed(query, is_api),
            Some(id) => self.one(id, is_api),
        };
        made.unwrap_or_else(|refusal| Page {
            status: refusal.status,
            content: match is_api {
                true => Content::Json(format!("{}\n", json!({"error": refusal.why}))),
                false => Content::Html(no_page(&Host::default(), &refusal.why)),
            },
            next: None,
        })
    }

    fn style(&self) -> &'static str {
        poisontrace_report::STYLE
    }
}

/// Whether it is the API, and the incident's id; `None`: none of these pages.
fn part(path: &str) -> Option<(bool, Option<&str>)> {
    for (base, is_api) in [(API, true), (HTML, false)] {
        match path.strip_prefix(base) {
            Some("") => return Some((is_api, None)),
            Some(rest) if rest.starts_with('/') => return Some((is_api, rest.get(1..))),
            _ => {}
        }
    }
    None
}

fn body(answer: &Answer) -> String {
    let text = serde_json::to_string_pretty(answer).unwrap_or_default();
    format!("{text}\n")
}

fn asked(query: &str) -> Result<Asked, String> {
    if query.len() > MAX_QUERY {
        return Err(refusals::long_query(MAX_QUERY));
    }
    let mut asked = Asked::default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = decoded(value);
        match key {
            "vm" => asked.filter.vm = Some(value),
            "outcome" => asked.filter.outcome = Some(term(key, &value, Outcome::ALL, Outcome::word)?),
            "cause" => asked.filter.cause = Some(term(key, &value, Cause::ALL, Cause::word)?),
            "before" => {
                asked.filter.before = Some(value.parse().map_err(|_| refusals::no_number(key))?);
            }
            "limit" => asked.limit = Some(value.parse().map_err(|_| refusals::no_number(key))?),
            _ => return Err(refusals::no_value("parameter", PARAMETERS.into_iter())),
        }
    }
    Ok(asked)
}

/// The one of `all` whose word this is.
fn term<T: Copy>(key: &str, value: &str, all: &[T], word: fn(T) -> &'static str) -> Result<T, String> {
    let found = all.iter().copied().find(|one| word(*one) == value);
    found.ok_or_else(|| refusals::no_value(key, all.iter().map(|one| word(*one))))
}

/// `%22` and `+`, as browsers and curl write them; what is no such escape stays.
fn decoded(text: &str) -> String {
    let text = text.replace('+', " ");
    percent_decode_str(&text).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_ours_only_below_their_names() {
        assert_eq!(part("/incidents"), Some((false, None)));
        assert_eq!(part("/api/v1/incidents/a%2Fb"), Some((true, Some("a%2Fb"))));
        for other in ["/incidentsx", "/", "/api/v1", "/metrics", "/api/v1/incidents2/x"] {
            assert_eq!(part(other), None, "{other}");
        }
    }

    #[test]
    fn a_query_is_understood_whole_or_refused() {
        let wanted = asked("vm=a%26b+c%&outcome=survived&cause=contained&before=7&limit=3").unwrap();
        assert_eq!(wanted.filter.vm.as_deref(), Some("a&b c%"));
        assert_eq!(wanted.filter.outcome, Some(Outcome::Survived));
        assert_eq!((wanted.filter.before, wanted.limit), (Some(7), Some(3)));
        assert_eq!(asked(""), Ok(Asked::default()));
        for wrong in ["outcome=dead", "cause=", "limit=-1", "before=x", "order=asc"] {
            assert!(asked(wrong).is_err(), "{wrong}");
        }
        assert!(asked(&format!("vm={}", "x".repeat(MAX_QUERY))).is_err());
    }
}
