//! What is answered to whom.

use std::{convert::Infallible, time::Duration};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Bytes, Incoming},
    header,
};
use tokio::{sync::oneshot, time::timeout};

use super::{Ready, Shared, access::Access};

/// How long a scrape waits for the pipeline.
const SCRAPE: Duration = Duration::from_secs(5);

pub(super) const TEXT: &str = "text/plain; charset=utf-8";
/// Prometheus' text format.
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
pub(super) const HTML: &str = "text/html; charset=utf-8";

/// `more`: further places.
fn landing(more: &str) -> String {
    format!(
        "<!doctype html>
<html lang=\"en\"><head><meta charset=\"utf-8\"><title>poisontrace</title></head>
<body><h1>poisontrace</h1>
<p>Why did my KVM guest die on poisoned memory?</p>
<ul>
<li><a href=\"/metrics\">/metrics</a>: for Prometheus</li>
<li><a href=\"/-/healthy\">/-/healthy</a>: the daemon runs</li>
<li><a href=\"/-/ready\">/-/ready</a>: the probes allow a verdict</li>
{more}</ul>
<p>Which guest died, and why: <code>poisontrace incidents</code> and <code>poisontrace explain --last</code> on this host.</p>
</body></html>
"
    )
}

const INCIDENTS: &str = "<li><a href=\"/incidents\">/incidents</a>: what happened to which guest, and why; as JSON: \
                         <a href=\"/api/v1/incidents\">/api/v1/incidents</a></li>\n";

pub(super) type Answer = Response<Full<Bytes>>;

/// Answers one request. Its body is not read; one that has any ends the connection.
pub async fn answer(request: &Request<Incoming>, shared: &Shared) -> Result<Answer, Infallible> {
    let access = shared.access();
    let mut response = match shared.logins.allowed(request.headers(), &access.users).await {
        true => routed(request, shared, &access).await,
        false => unauthorized(),
    };
    if !request.body().is_end_stream() {
        let close = header::HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    for (name, value) in &access.headers {
        response.headers_mut().insert(name.clone(), value.clone());
    }
    Ok(response)
}

async fn routed(request: &Request<Incoming>, shared: &Shared, access: &Access) -> Answer {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n");
        let allow = header::HeaderValue::from_static("GET, HEAD");
        response.headers_mut().insert(header::ALLOW, allow);
        return response;
    }
    let path = request.uri().path();
    if let Some(pages) = shared.pages.as_ref().filter(|pages| pages.has(path)) {
        let query = request.uri().query().unwrap_or_default();
        return pages.answer(path, query, request.headers(), access).await;
    }
    match path {
        "/metrics" => metrics(shared).await,
        "/-/healthy" => plain(StatusCode::OK, TEXT, "healthy\n"),
        "/-/ready" => match shared.ready() {
            Ready::Yes => plain(StatusCode::OK, TEXT, "ready\n"),
            Ready::No(reason) => plain(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{reason}\n")),
        },
        "/" => plain(
            StatusCode::OK,
            HTML,
            landing(shared.pages.as_ref().map_or("", |_| INCIDENTS)),
        ),
        _ => plain(
            StatusCode::NOT_FOUND,
            TEXT,
            "nothing here; / names what there is\n",
        ),
    }
}

async fn metrics(shared: &Shared) -> Answer {
    let (sender, text) = oneshot::channel();
    let asked = shared.scrapes.try_send(sender).is_ok();
    match timeout(SCRAPE, text).await {
        Ok(Ok(text)) if asked => plain(StatusCode::OK, METRICS, text),
        _ => plain(
            StatusCode::SERVICE_UNAVAILABLE,
            TEXT,
            "the daemon is busy, or stopping\n",
        ),
    }
}

fn unauthorized() -> Answer {
    let mut response = plain(StatusCode::UNAUTHORIZED, TEXT, "authentication required\n");
    let ask = header::HeaderValue::from_static("Basic");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, ask);
    response
}

pub(super) fn plain(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    let sniff = header::HeaderValue::from_static("nosniff");
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, sniff);
    response
}
