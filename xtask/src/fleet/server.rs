//! One process that serves many hosts: `/HOST/metrics`.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Result;

const THREADS: usize = 4;
const PATIENCE: Duration = Duration::from_secs(10);

/// Serves for as long as this program runs.
pub struct Server {
    pub address: SocketAddr,
    served: Arc<AtomicU64>,
}

impl Server {
    /// `bodies`: by host.
    pub fn start(bodies: HashMap<String, Arc<str>>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let served = Arc::new(AtomicU64::new(0));
        let bodies = Arc::new(bodies);
        for _ in 0..THREADS {
            let (listener, bodies, served) = (listener.try_clone()?, bodies.clone(), served.clone());
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    // A peer that hangs up misses its answer, and Prometheus counts it.
                    if answer(&stream, &bodies).is_ok() {
                        served.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        Ok(Self { address, served })
    }

    pub fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }
}

fn answer(mut stream: &TcpStream, bodies: &HashMap<String, Arc<str>>) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut lines = BufReader::new(stream).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let host = request
        .strip_prefix("GET /")
        .and_then(|rest| rest.split_once("/metrics "))
        .map(|(host, _)| host);
    let (status, body) = match host.and_then(|host| bodies.get(host)) {
        Some(body) => ("200 OK", &**body),
        None => ("404 Not Found", ""),
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_host_has_a_body_of_its_own_and_a_stranger_none() {
        let bodies = ["a", "b"].map(|host| (host.to_owned(), Arc::from(format!("up_{host} 1\n"))));
        let server = Server::start(bodies.into()).unwrap();
        let get = |path: &str| ureq::get(format!("http://{}{path}", server.address)).call();
        let body = get("/b/metrics").unwrap().body_mut().read_to_string().unwrap();
        assert_eq!(body, "up_b 1\n");
        assert!(get("/c/metrics").is_err());
    }
}
