//! A QMP session that only listens: capabilities are negotiated, as without that no event is sent, and nothing else
//! is ever asked (qemu.org, docs/interop/qmp-spec).

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    time::{sleep, timeout},
};

const CAPABILITIES: &[u8] = b"{\"execute\":\"qmp_capabilities\"}\n";
/// Longest message that is kept.
const MAX_LINE: usize = 64 * 1024;
/// What is read in one turn, bytes.
const AT_ONCE: usize = 256 * 1024;
/// Bytes a second that are read of one VMM: a guest can make its VMM send events without end.
const RATE: u32 = 256 * 1024;
/// How long a VMM may take to accept the answer to its greeting.
const GREETING: Duration = Duration::from_secs(1);
/// How long after a failure it is tried again: another client may hold the socket.
const AGAIN: Duration = Duration::from_secs(5);

/// Connects without waiting: a VMM that accepts nobody must not hold the others.
fn connect(path: &Path) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // EAGAIN where the queue of connections is full (unix(7)).
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    UnixStream::from_std(socket.into())
}

/// See the module.
pub struct Listener {
    path: PathBuf,
    stream: Option<UnixStream>,
    tried: Option<Instant>,
    greeted: bool,
    line: Vec<u8>,
    number: u64,
}

impl Listener {
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            stream: None,
            tried: None,
            greeted: false,
            line: Vec::new(),
            number: 0,
        }
    }

    /// Listens for `time`, or until something has come.
    pub async fn listen(&mut self, time: Duration, take: &mut (dyn FnMut(u64, &[u8]) + Send)) {
        if self.stream.is_none() && self.tried.is_none_or(|tried| tried.elapsed() >= AGAIN) {
            self.tried = Some(Instant::now());
            match connect(&self.path) {
                Ok(stream) => self.stream = Some(stream),
                Err(err) => tracing::debug!(path = %self.path.display(), "QMP: {err}"),
            }
            self.greeted = false;
            self.line.clear();
        }
        let Some(stream) = self.stream.take() else {
            return sleep(time).await;
        };
        match self.turn(stream, time, take).await {
            Ok(stream) => self.stream = Some(stream),
            Err(err) => tracing::debug!(path = %self.path.display(), "QMP: {err}"),
        }
    }

    async fn turn(
        &mut self,
        mut stream: UnixStream,
        time: Duration,
        take: &mut (dyn FnMut(u64, &[u8]) + Send),
    ) -> io::Result<UnixStream> {
        let mut buffer = [0; 4096];
        let mut read = 0;
        let mut wait = time;
        while read < AT_ONCE {
            match timeout(wait, stream.read(&mut buffer)).await {
                Ok(Ok(0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(Ok(n)) => {
                    read += n;
                    if self.bytes(&buffer[..n], take) {
                        timeout(GREETING, stream.write_all(CAPABILITIES))
                            .await
                            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
                    }
                    // What is there is taken; for more the caller is asked first.
                    wait = Duration::from_millis(1);
                }
                Ok(Err(err)) if err.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(err)) => return Err(err),
                Err(_) => break,
            }
        }
        sleep(Duration::from_secs(1) * u32::try_from(read).unwrap_or(RATE) / RATE).await;
        Ok(stream)
    }

    /// Takes whole lines; returns whether a greeting was among them, which is to be answered.
    fn bytes(&mut self, bytes: &[u8], take: &mut (dyn FnMut(u64, &[u8]) + Send)) -> bool {
        let mut greeted = false;
        for part in bytes.split_inclusive(|b| *b == b'\n') {
            let room = MAX_LINE - self.line.len().min(MAX_LINE);
            self.line.extend_from_slice(&part[..part.len().min(room)]);
            if !part.ends_with(b"\n") {
                continue;
            }
            self.number += 1;
            if !self.greeted && memchr::memmem::find(&self.line, b"\"QMP\"").is_some() {
                (self.greeted, greeted) = (true, true);
            } else {
                take(self.number, self.line.trim_ascii());
            }
            self.line.clear();
        }
        greeted
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, thread};

    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    }

    #[test]
    fn a_flood_of_events_is_read_at_a_bounded_rate() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qmp");
        let server = std::os::unix::net::UnixListener::bind(&path).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = server.accept().unwrap();
            while stream.write_all(b"{\"event\": \"RTC_CHANGE\"}\n").is_ok() {}
        });
        let mut listener = Listener::new(path);
        let (began, mut bytes) = (Instant::now(), 0);
        runtime().block_on(async {
            while began.elapsed() < Duration::from_secs(2) {
                let mut count = |_: u64, line: &[u8]| bytes += line.len() + 1;
                listener.listen(Duration::from_millis(50), &mut count).await;
            }
        });
        let most = AT_ONCE + RATE as usize * (began.elapsed().as_secs() as usize + 1);
        assert!(
            bytes > 0 && bytes <= most,
            "{bytes} bytes, at most {most} allowed"
        );
    }

    #[test]
    fn a_socket_whose_queue_is_full_holds_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qmp");
        let flags = SocketFlags::CLOEXEC;
        let server = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        rustix::net::bind(&server, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        rustix::net::listen(&server, 0).unwrap();
        // Fills the queue; nobody accepts.
        runtime().block_on(async {
            let waiting: Vec<_> = std::iter::from_fn(|| connect(&path).ok()).take(10).collect();
            assert!((1..10).contains(&waiting.len()));
            let began = Instant::now();
            let mut listener = Listener::new(path);
            listener.listen(Duration::from_millis(50), &mut |_, _| {}).await;
            assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        });
    }
}
