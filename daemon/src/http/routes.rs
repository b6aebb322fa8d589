//! What is answered to whom.

use std::{convert::Infallible, time::Duration};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Bytes, Incoming},
    header,
};
use tokio::{sync::oneshot, time::timeout};

use super::{Ready, Shared};

/// How long a scrape waits for the pipeline.
const SCRAPE: Duration = Duration::from_secs(5);

const TEXT: &str = "text/plain; charset=utf-8";
/// Prometheus' text format.
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";

const LANDING: &str = "<!doctype html>
<html lang=\"en\"><head><meta charset=\"utf-8\"><title>poisontrace</title></head>
<body><h1>poisontrace</h1>
<p>Why did my KVM guest die on poisoned memory?</p>
<ul>
<li><a href=\"/metrics\">/metrics</a>: for Prometheus</li>
<li><a href=\"/-/healthy\">/-/healthy</a>: the daemon runs</li>
<li><a href=\"/-/ready\">/-/ready</a>: the probes allow a verdict</li>
</ul>
<p>EventKind died, and why: <code>poisontrace incidents</code> and <code>poisontrace explain --last</code> on this host.</p>
</body></html>
";

type Answer = Response<Full<Bytes>>;

/// Answers one request. Its body is not read; one that has any ends the connection.
pub async fn answer(request: &Request<Incoming>, shared: &Shared) -> Result<Answer, Infallible> {
    let access = shared.access();
    let mut response = match shared.logins.allowed(request.headers(), &access.users).await {
        true => routed(request, shared).await,
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

async fn routed(request: &Request<Incoming>, shared: &Shared) -> Answer {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n");
        let allow = header::HeaderValue::from_static("GET, HEAD");
        response.headers_mut().insert(header::ALLOW, allow);
        return response;
    }
    match request.uri().path() {
        "/metrics" => metrics(shared).await,
        "/-/healthy" => plain(StatusCode::OK, TEXT, "healthy\n"),
        "/-/ready" => match shared.ready() {
            Ready::Yes => plain(StatusCode::OK, TEXT, "ready\n"),
            Ready::No(reason) => plain(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{reason}\n")),
        },
        "/" => plain(StatusCode::OK, HTML, LANDING),
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
    let mut response = plain(StatusCode::UNAUTHORIZED, TEXT, "user and password, please\n");
    let ask = header::HeaderValue::from_static("Basic");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, ask);
    response
}

fn plain(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    let sniff = header::HeaderValue::from_static("nosniff");
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, sniff);
    response
}
