//! The HTTP server: /metrics, /-/healthy, /-/ready, a page that names them, and [`Pages`] of others. Only GET and HEAD, HTTP/1.1, and a
//! limit on everything that a client can make us hold: connections, header bytes, time. It runs on the event loop's
//! thread and asks the pipeline for the text, so that a scrape sees what has been decided until then.

mod access;
mod auth;
mod connection;
mod pages;
mod routes;
mod slots;
mod tls;
mod web_config;

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{mpsc, oneshot},
};

pub use pages::{Content, Page, Pages, Status};
use slots::{Entry, Slots};
pub use web_config::{WebConfigError, check as check_web_config};

/// Scrapes that wait for the pipeline.
const MAX_WAITING: usize = 16;
/// After an accept that failed (no descriptors left, for example).
const PAUSE: Duration = Duration::from_secs(1);

/// A scrape that waits for the text of /metrics.
pub type Scrape = oneshot::Sender<String>;

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("cannot listen on {0}: {1}; another port: --web.listen-address, none: --web.listen-address ''")]
    Listen(SocketAddr, io::Error),
    #[error("the socket that systemd handed over cannot be used: {0}")]
    Activation(io::Error),
    #[error("{0}")]
    Config(#[from] WebConfigError),
}

/// Whether the probes allow a verdict: the answer of /-/ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ready {
    Yes,
    /// With the reason.
    No(String),
}

/// A listening server.
pub struct Server {
    listener: TcpListener,
    shared: Arc<Shared>,
    config_file: Option<PathBuf>,
    scrapes: mpsc::Receiver<Scrape>,
}

/// What can change while it serves.
pub struct Controls {
    shared: Arc<Shared>,
    file: Option<PathBuf>,
    address: IpAddr,
}

/// What every connection reads.
struct Shared {
    access: Mutex<Arc<access::Access>>,
    ready: Mutex<Ready>,
    scrapes: mpsc::Sender<Scrape>,
    slots: Arc<Slots>,
    logins: auth::Logins,
    pages: Option<pages::Served>,
}

impl Shared {
    fn new(
        access: access::Access,
        ready: Ready,
        pages: Option<Arc<dyn Pages>>,
    ) -> (Self, mpsc::Receiver<Scrape>) {
        let (sender, scrapes) = mpsc::channel(MAX_WAITING);
        let shared = Self {
            access: Mutex::new(Arc::new(access)),
            ready: Mutex::new(ready),
            scrapes: sender,
            slots: Arc::default(),
            logins: auth::Logins::default(),
            pages: pages.map(pages::Served::new),
        };
        (shared, scrapes)
    }

    fn access(&self) -> Arc<access::Access> {
        Arc::clone(&self.access.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn ready(&self) -> Ready {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Whether a server would start with this: the files are read, nothing is bound. `pages`: whether there are pages beside /metrics.
///
/// # Errors
/// A configuration that is wrong, pages on an address that is open to others.
pub fn would_serve(
    address: SocketAddr,
    config_file: Option<&Path>,
    pages: bool,
) -> Result<(), WebConfigError> {
    let access = access::Access::read(config_file)?;
    match pages {
        true => pages::allowed(address.ip(), &access),
        false => Ok(()),
    }
}

impl Server {
    /// Takes the socket that systemd handed over, else listens on `address`; with neither there is no server.
    /// `config_file`: the form of exporter-toolkit's, or none. `pages`: beside /metrics.
    ///
    /// # Errors
    /// An address that cannot be bound, a configuration that is wrong, pages on an address that is open to others.
    pub fn new(
        address: Option<SocketAddr>,
        config_file: Option<&Path>,
        ready: Ready,
        pages: Option<Arc<dyn Pages>>,
    ) -> Result<Option<Self>, HttpError> {
        let handed = listenfd::ListenFd::from_env()
            .take_tcp_listener(0)
            .map_err(HttpError::Activation)?;
        let listener = match (handed, address) {
            (Some(listener), _) => {
                tracing::info!("the socket that systemd handed over is used, in place of web.listen_address");
                listener
            }
            (None, Some(address)) => {
                TcpListener::bind(address).map_err(|err| HttpError::Listen(address, err))?
            }
            (None, None) => return Ok(None),
        };
        listener.set_nonblocking(true).map_err(HttpError::Activation)?;
        let access = access::Access::read(config_file)?;
        if pages.is_some() {
            let address = listener.local_addr().map_err(HttpError::Activation)?;
            pages::allowed(address.ip(), &access)?;
        }
        let (shared, scrapes) = Shared::new(access, ready, pages);
        Ok(Some(Self {
            listener,
            shared: Arc::new(shared),
            config_file: config_file.map(Path::to_owned),
            scrapes,
        }))
    }

    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Starts serving on the current runtime. The scrapes are to be answered with the text of /metrics.
    ///
    /// # Errors
    /// If the runtime cannot watch the socket.
    pub fn start(self) -> io::Result<(mpsc::Receiver<Scrape>, Controls)> {
        let listener = tokio::net::TcpListener::from_std(self.listener)?;
        let controls = Controls {
            shared: Arc::clone(&self.shared),
            file: self.config_file,
            address: listener.local_addr()?.ip(),
        };
        tokio::spawn(accept(listener, self.shared));
        Ok((self.scrapes, controls))
    }
}

impl Controls {
    /// Changes the answer of /-/ready.
    pub fn ready(&self, ready: Ready) {
        *self.shared.ready.lock().unwrap_or_else(PoisonError::into_inner) = ready;
    }

    /// Certificates and users as they are now; where they are wrong, those before hold.
    ///
    /// # Errors
    /// What is wrong.
    pub fn reload(&self) -> Result<(), WebConfigError> {
        let access = access::Access::read(self.file.as_deref())?;
        if self.shared.pages.is_some() {
            pages::allowed(self.address, &access)?;
        }
        *self.shared.access.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(access);
        Ok(())
    }
}

/// Answers the requests of one client over any stream, as the server does over a socket without TLS; `metrics` is what
/// its answer for /metrics.
pub async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin, ready: Ready, metrics: &str) {
    let (shared, mut scrapes) = Shared::new(access::Access::default(), ready, None);
    let answering = async {
        while let Some(scrape) = scrapes.recv().await {
            // Who has asked may be gone.
            let _ = scrape.send(metrics.to_owned());
        }
    };
    tokio::select! {
        () = connection::requests(stream, Arc::new(shared), None) => {}
        () = answering => {}
    }
}

fn serve(stream: tokio::net::TcpStream, shared: &Arc<Shared>, place: slots::Place) {
    let id = place.id();
    let task = tokio::spawn(connection::serve(stream, Arc::clone(shared), place));
    shared.slots.served_by(id, task.abort_handle());
}

async fn accept(listener: tokio::net::TcpListener, shared: Arc<Shared>) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Nobody waits here, lest all behind it wait too.
                match shared.slots.enter(peer.ip()) {
                    Entry::Served(place) => serve(stream, &shared, place),
                    Entry::Waits(turn) => {
                        let shared = Arc::clone(&shared);
                        tokio::spawn(async move { serve(stream, &shared, turn.place().await) });
                    }
                    Entry::Refused => {}
                }
            }
            Err(err) => {
                tracing::debug!(error = %err, "a connection was not accepted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests;
