//! The HTTP server as the event loops use it.

use std::{future::pending, path::Path, sync::Arc};

use tokio::sync::mpsc;

use super::incident_pages::IncidentPages;
use crate::{config::Web, failure::Failure};
use poisontrace_http::{Controls, HttpError, Pages, Ready, Scrape, Server, WebConfigError, would_serve};
use poisontrace_kernel_facts::plan::Plan;
use poisontrace_model::event::probe::ProbeId;
use poisontrace_report::check;

/// Scrapes that come in; none where nothing listens.
pub struct Serving {
    scrapes: Option<mpsc::Receiver<Scrape>>,
    controls: Option<Controls>,
}

impl Serving {
    pub fn none() -> Self {
        Self {
            scrapes: None,
            controls: None,
        }
    }

    /// Starts on the current runtime. The socket is bound by then, so that an address in use is reported at start.
    pub fn start(server: Option<Server>) -> Result<Self, Failure> {
        let Some(server) = server else {
            return Ok(Self::none());
        };
        let address = server.address()?;
        let (scrapes, controls) = server.start()?;
        tracing::info!(%address, "/metrics is served");
        Ok(Self {
            scrapes: Some(scrapes),
            controls: Some(controls),
        })
    }

    /// The next scrape.
    pub async fn next(&mut self) -> Scrape {
        match &mut self.scrapes {
            Some(scrapes) => match scrapes.recv().await {
                Some(scrape) => scrape,
                None => pending().await,
            },
            None => pending().await,
        }
    }

    /// Sets the answer of /-/ready.
    pub fn ready(&self, ready: Ready) {
        if let Some(controls) = &self.controls {
            controls.ready(ready);
        }
    }

    /// Reads certificates and users again.
    pub fn reload(&self) {
        if let Some(Err(err)) = self.controls.as_ref().map(Controls::reload) {
            tracing::error!(error = %err, "cannot apply the new web configuration; the previous one stays in effect");
        }
    }
}

/// Whether the probes that are `attached` now allow a verdict.
pub fn readiness(attached: impl Fn(&ProbeId) -> bool) -> Ready {
    let missing = Plan::verdict_needs(attached);
    check::not_ready(&missing).map_or(Ready::Yes, Ready::No)
}

/// Binds the configured address; where another program has it, the daemon runs without /metrics.
///
/// # Errors
/// A wrong web configuration, or a socket of systemd's that cannot be used.
pub fn server_or_none(web: &Web, ready: Ready, store: &Path) -> Result<Option<Server>, Failure> {
    match bound(web, ready, Some(store)) {
        Err(err @ HttpError::Listen(..)) => {
            tracing::error!(error = %err, "/metrics is not served; incidents are recorded");
            Ok(None)
        }
        other => Ok(other?),
    }
}

/// Binds the configured address. `store`: the folder whose incidents are served, where that is configured.
pub fn server(web: &Web, ready: Ready, store: Option<&Path>) -> Result<Option<Server>, Failure> {
    Ok(bound(web, ready, store)?)
}

/// Whether `run` would serve with these settings; nothing is bound.
///
/// # Errors
/// What `run` would end with.
pub fn check(web: &Web) -> Result<(), WebConfigError> {
    let address = web.listen_address.0;
    address.map_or(Ok(()), |address| {
        would_serve(address, config_file(web), web.incidents)
    })
}

fn config_file(web: &Web) -> Option<&Path> {
    Some(web.config_file.as_path()).filter(|file| !file.as_os_str().is_empty())
}

fn bound(web: &Web, ready: Ready, store: Option<&Path>) -> Result<Option<Server>, HttpError> {
    let file = config_file(web);
    let pages = store.filter(|_| web.incidents).map(IncidentPages::new);
    let pages = pages.map(|pages| Arc::new(pages) as Arc<dyn Pages>);
    Server::new(web.listen_address.0, file, ready, pages)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::config::ListenAddress;

    #[test]
    fn a_port_that_is_taken_does_not_keep_the_probes_from_running() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let web = Web {
            listen_address: ListenAddress(taken.local_addr().ok()),
            ..Web::default()
        };
        assert!(
            server_or_none(&web, Ready::Yes, Path::new("/nowhere"))
                .unwrap()
                .is_none()
        );
        assert!(
            server(&web, Ready::Yes, None).is_err(),
            "a replay has nothing else to do"
        );
    }
}
