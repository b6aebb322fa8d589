//! A QMP session that only listens: capabilities are negotiated, as without that no event is sent, and nothing else
//! is ever asked (qemu.org, docs/interop/qmp-spec).

use std::{
    io,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{
    fs::{FileType, Mode, OFlags},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    time::{sleep, timeout},
};

use super::vm_registry::proc::{self, Holds};

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

/// Connects without waiting: a VMM that accepts nobody must not hold the others. The socket must not be another VM's: a VM's name is
/// its owner's choice, its path may be a link, and a VMM has one client at a time. `pid`: of this VM.
fn connect(proc: &Path, path: &Path, pid: u32) -> io::Result<UnixStream> {
    let place = rustix::fs::open(
        path,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    if FileType::from_raw_mode(rustix::fs::fstat(&place)?.st_mode) != FileType::Socket {
        return Err(io::Error::other("it is no socket"));
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // What was looked at, though another may be under its name by now.
    let held = format!("/proc/self/fd/{}", place.as_raw_fd());
    // EAGAIN where the queue of connections is full (unix(7)).
    rustix::net::connect(&socket, &SocketAddrUnix::new(held)?)?;
    // Who listens: the VMM, or libvirt, which hands it the socket.
    let peer = rustix::net::sockopt::socket_peercred(&socket)?.pid;
    let peer = u32::try_from(peer.as_raw_nonzero().get()).unwrap_or(pid);
    if peer != pid && proc::holds_a_vm(proc, peer) == Holds::Vm {
        return Err(io::Error::other(format!("it is another VM's, of process {peer}")));
    }
    UnixStream::from_std(socket.into())
}

/// See the module.
pub struct Listener {
    proc: PathBuf,
    path: PathBuf,
    pid: u32,
    stream: Option<UnixStream>,
    tried: Option<Instant>,
    greeted: bool,
    line: Vec<u8>,
    number: u64,
}

impl Listener {
    /// `proc`: `/proc`; `pid`: of the VMM.
    pub fn new(proc: impl Into<PathBuf>, path: PathBuf, pid: u32) -> Self {
        Self {
            proc: proc.into(),
            path,
            pid,
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
            match connect(&self.proc, &self.path, self.pid) {
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
        let mut listener = Listener::new("/proc", path, std::process::id());
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
    fn neither_a_link_nor_another_vms_socket_is_connected_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qmp");
        let _server = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let link = dir.path().join("evil");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let own = std::process::id();
        // A /proc in which this process is a VMM.
        let descriptors = dir.path().join(own.to_string()).join("fd");
        std::fs::create_dir_all(&descriptors).unwrap();
        std::os::unix::fs::symlink("anon_inode:kvm-vm", descriptors.join("3")).unwrap();
        runtime().block_on(async {
            assert!(connect(dir.path(), &path, own).is_ok());
            let refused = connect(dir.path(), &path, own + 1).unwrap_err();
            assert!(refused.to_string().contains("another VM's"), "{refused}");
            assert!(connect(dir.path(), &link, own).is_err());
            assert!(connect(dir.path(), &descriptors, own).is_err());
        });
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
            let waiting: Vec<_> = std::iter::from_fn(|| connect(Path::new("/proc"), &path, 1).ok())
                .take(10)
                .collect();
            assert!((1..10).contains(&waiting.len()));
            let began = Instant::now();
            let mut listener = Listener::new("/proc", path, std::process::id());
            listener.listen(Duration::from_millis(50), &mut |_, _| {}).await;
            assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        });
    }
}
