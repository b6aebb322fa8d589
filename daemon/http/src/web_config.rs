//! `--web.config.file`: the form of Prometheus' exporter-toolkit (docs/web-configuration.md there). What of it is not
//! offered here is refused by name, never ignored.

use std::{
    collections::BTreeMap,
    io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use hyper::header::{HeaderName, HeaderValue};
use serde::Deserialize;

/// Why a web configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WebConfigError {
    #[error("{0}: {1}")]
    Io(PathBuf, io::Error),
    #[error("{0}: {1}")]
    Form(PathBuf, String),
    #[error("{0}: {1}")]
    Tls(PathBuf, String),
    #[error(
        "web.incidents shows guest addresses, which is refused on {0} without TLS and a user: set both in web.config_file, or listen on 127.0.0.1"
    )]
    Exposed(IpAddr),
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct File {
    pub tls_server_config: Option<Tls>,
    pub http_server_config: Http,
    pub basic_auth_users: BTreeMap<String, String>,
}

/// Paths are relative to the file's own folder.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Tls {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
    pub client_auth_type: ClientAuth,
    pub client_ca_file: Option<PathBuf>,
    pub min_version: Option<Version>,
    pub max_version: Option<Version>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(super) enum ClientAuth {
    #[default]
    NoClientCert,
    VerifyClientCertIfGiven,
    RequireAndVerifyClientCert,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(super) enum Version {
    TLS12,
    TLS13,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Http {
    /// Accepted, and without effect: HTTP/1.1 is served, which every client of HTTP/2 speaks too.
    #[serde(rename = "http2")]
    _http2: bool,
    pub headers: BTreeMap<String, String>,
}

/// Headers that exporter-toolkit lets a configuration set.
const HEADERS: [&str; 5] = [
    "content-security-policy",
    "x-frame-options",
    "x-content-type-options",
    "x-xss-protection",
    "strict-transport-security",
];
/// bcrypt's own range; a cost beyond would let one request take a processor for minutes.
const MAX_COST: u32 = 14;

/// Parses the text of the file at `path`; the files that it names are not read.
pub(super) fn parse(path: &Path, text: &str) -> Result<File, WebConfigError> {
    let form = |problem: String| WebConfigError::Form(path.to_owned(), problem);
    let file: File = serde_saphyr::from_str(text).map_err(|err| {
        form(format!(
            "not a web configuration that is understood here: {}",
            poisontrace_model::text::sanitise(err.to_string().lines().next().unwrap_or_default(), 300)
        ))
    })?;
    for (user, hash) in &file.basic_auth_users {
        let parts: bcrypt::HashParts = hash.parse().map_err(|_| {
                form(format!(
                    "basic_auth_users: the password of {user} is not a bcrypt hash: htpasswd -nBC 10 {user} makes one"
                ))
            })?;
        if parts.get_cost() > MAX_COST {
            return Err(form(format!(
                "basic_auth_users: the hash of {user} has a cost above {MAX_COST}: each scrape would take seconds"
            )));
        }
    }
    Ok(file)
}

/// Whether the text is a web configuration that is understood here, but for the files that it names.
///
/// # Errors
/// What is wrong with it.
pub fn check(text: &str) -> Result<(), WebConfigError> {
    let path = Path::new("web.yml");
    let form = |problem| WebConfigError::Form(path.to_owned(), problem);
    headers(parse(path, text)?.http_server_config.headers)
        .map(drop)
        .map_err(form)
}

pub(super) fn headers(wanted: BTreeMap<String, String>) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let mut headers = Vec::new();
    for (name, value) in wanted {
        let known = HEADERS
            .iter()
            .find(|known| name.eq_ignore_ascii_case(known))
            .ok_or_else(|| {
                format!(
                    "http_server_config.headers: {name} is none of {}",
                    HEADERS.join(", ")
                )
            })?;
        let value = HeaderValue::from_str(&value).map_err(|_| {
            format!("http_server_config.headers: the value of {name} is none that a header has")
        })?;
        headers.push((HeaderName::from_static(known), value));
    }
    Ok(headers)
}
