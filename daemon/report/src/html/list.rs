//! Incidents as a list, newest first, each with a link to its page; links filter by what stands in a row.

use std::fmt::Write as _;

use maud::{Markup, html};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};

use super::{mood, page};
use crate::{document::Incident, or};
use poisontrace_model::host::Host;

/// By what a list is filtered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListFilter {
    /// The VM's name.
    pub vm: Option<String>,
    /// The outcome's word.
    pub outcome: Option<String>,
    /// The cause's word.
    pub cause: Option<String>,
}

impl ListFilter {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The query of the list from `before` on; empty where nothing is asked for.
    pub fn query(&self, before: Option<i64>) -> String {
        let before = before.map(|before| before.to_string());
        let keys = [
            ("vm", &self.vm),
            ("outcome", &self.outcome),
            ("cause", &self.cause),
            ("before", &before),
        ];
        let mut query = String::new();
        for (key, value) in keys {
            if let Some(value) = value {
                let mark = if query.is_empty() { '?' } else { '&' };
                let _ = write!(query, "{mark}{key}={}", encoded(value));
            }
        }
        query
    }
}

/// All but what a URL may hold as it is (RFC 3986, 2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Text as a part of a URL.
fn encoded(text: &str) -> PercentEncode<'_> {
    utf8_percent_encode(text, RESERVED)
}

/// The list at `path`. `next`: where the next page begins.
pub fn list(
    host: &Host,
    incidents: &[Incident],
    path: &str,
    filter: &ListFilter,
    next: Option<i64>,
) -> String {
    let content = html! {
        header {
            h1 { "Incidents of " (or(host.hostname.as_deref())) }
            @if !filter.is_empty() { (chosen(path, filter)) }
            @if incidents.is_empty() && next.is_none() {
                p { "None: nothing here is poison in a guest's memory." }
            }
        }
        @for incident in incidents { (row(incident, path, filter)) }
        @if let Some(next) = next {
            p { a href={ (path) (filter.query(Some(next))) } rel="next" { "Older incidents" } }
        }
    };
    page("poisontrace: incidents", host, &content)
}

/// A page that states why there is no other.
pub fn no_page(host: &Host, why: &str) -> String {
    page("poisontrace", host, &html! { h1 { (why) } })
}

fn chosen(path: &str, filter: &ListFilter) -> Markup {
    let named = [
        ("VM", &filter.vm),
        ("outcome", &filter.outcome),
        ("cause", &filter.cause),
    ];
    html! {
        p {
            @for (name, value) in named {
                @if let Some(value) = value { span.badge { (name) ": " (value) } }
            }
            a href=(path) { "all incidents" }
        }
    }
}

fn row(i: &Incident, path: &str, filter: &ListFilter) -> Markup {
    let with = |change: fn(&mut ListFilter, String), value: &str| {
        let mut filter = filter.clone();
        change(&mut filter, value.to_owned());
        format!("{path}{}", filter.query(None))
    };
    let vm = i.vm.name.as_deref();
    html! {
        section {
            h2 { a href={ (path) "/" (encoded(&i.id).to_string()) } { (i.summary) } }
            p.verdict {
                a class={ "badge " (mood(i.outcome)) } href=(with(|f, v| f.outcome = Some(v), i.outcome.word())) { (i.outcome) }
                a.badge href=(with(|f, v| f.cause = Some(v), i.cause.word())) { "cause: " (i.cause) }
                span class={ "badge " (i.confidence) } { (i.confidence) }
                @match vm {
                    Some(name) => a.badge href=(with(|f, v| f.vm = Some(v), name)) { "VM: " (name) },
                    None => span.badge { "VM: ?" },
                }
            }
            p.note { "began " (or(i.started_at.as_deref())) " · " code { (i.id) } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use poisontrace_model::{
        correlate::report::incident, event::session::Session, incident::evidence::Evidence,
    };

    fn named(name: &str) -> Incident {
        let mut evidence = Evidence::new(1, 7, Default::default());
        std::sync::Arc::make_mut(&mut evidence.vmm).name = Some(name.to_owned());
        crate::document(incident(&evidence, &Session::default()))
    }

    #[test]
    fn a_name_is_shown_and_stays_within_its_link() {
        let evil = "\"><script>alert(1)</script>&outcome=survived#%00";
        let list = list(
            &Host::default(),
            &[named(evil)],
            "/incidents",
            &ListFilter::default(),
            Some(7),
        );
        assert!(!list.contains("<script"), "{list}");
        let link = "/incidents?vm=%22%3E%3Cscript%3Ealert%281%29%3C%2Fscript%3E%26outcome%3Dsurvived%23%2500";
        assert!(list.contains(&format!("href=\"{link}\"")), "{list}");
        assert!(list.contains("href=\"/incidents?before=7\""), "{list}");
    }

    #[test]
    fn filters_add_up_and_can_be_left() {
        let filter = ListFilter {
            outcome: Some("survived".to_owned()),
            ..ListFilter::default()
        };
        let list = list(&Host::default(), &[named("web")], "/incidents", &filter, None);
        assert!(list.contains("?vm=web&amp;outcome=survived\""), "{list}");
        assert!(list.contains("href=\"/incidents\""), "{list}");
        assert!(!list.contains("Older"), "{list}");
    }
}
