//! One connection: TLS where it is wanted, then requests, all within a time limit.

use std::{sync::Arc, time::Duration};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

use super::{Shared, routes, slots::Place};

/// For the handshake, and for the headers of each request.
const HEADERS: Duration = Duration::from_secs(5);
/// For a connection as a whole: a scraper that keeps its connection opens another.
const CONNECTION: Duration = Duration::from_secs(300);
/// Bytes buffered of a request's headers.
const MAX_HEADER_BYTES: usize = 16 * 1024;
const MAX_HEADERS: usize = 64;

pub async fn serve(stream: TcpStream, shared: Arc<Shared>, place: Place) {
    let place = Some(Arc::new(place));
    let result = timeout(CONNECTION, async {
        match shared.access().tls.clone() {
            None => requests(stream, shared, place).await,
            Some(config) => match timeout(HEADERS, TlsAcceptor::from(config).accept(stream)).await {
                Ok(Ok(stream)) => requests(stream, shared, place).await,
                Ok(Err(err)) => tracing::debug!(error = %err, "a TLS handshake failed"),
                Err(_) => tracing::debug!("a TLS handshake took too long"),
            },
        }
    })
    .await;
    if result.is_err() {
        tracing::debug!("a connection was open for too long");
    }
}

/// Answers requests until the other side has none left. `place`: is noted as busy meanwhile.
pub async fn requests(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    shared: Arc<Shared>,
    place: Option<Arc<Place>>,
) {
    let service = service_fn(move |request| {
        let (shared, place) = (Arc::clone(&shared), place.clone());
        async move {
            let note = |busy| {
                if let Some(place) = &place {
                    place.busy(busy);
                }
            };
            note(true);
            let answer = routes::answer(&request, &shared).await;
            note(false);
            answer
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .max_buf_size(MAX_HEADER_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(err) = served {
        tracing::debug!(error = %err, "a connection ended early");
    }
}
