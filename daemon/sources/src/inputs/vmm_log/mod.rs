//! While an incident is open: statements of the VMM itself, from its log and from QMP. Nothing is read of a VM without
//! an incident, nothing is written but QMP's greeting, and the daemon waits for none of it: one thread follows all VMs, each
//! as a task of its own, and hands over statements and nothing else. Files are read on a few threads beside it, as a file
//! system of a VM's owner may never answer.

mod place;
mod tail;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::{
    sync::mpsc::{Receiver, Sender, UnboundedReceiver, UnboundedSender, channel, unbounded_channel},
    task::spawn_blocking,
    time::sleep,
};

use self::place::Place;
use super::qmp;
use crate::{host::machine, inputs::vmm_places::VmmPlaces};
use poisontrace_import::text::{Item, Scanner};
use poisontrace_model::{
    correlate::report::Update,
    event::{
        Event, EventKind,
        log_statement::{LogRecord, LogStatement, Role, Speaker},
    },
    host::ClockPair,
    incident::model,
    text::sanitise,
};

/// VMs that are followed at one time; a host that loses memory of more has other worries than their logs.
const MAX_FOLLOWED: usize = 256;
/// Threads that read logs. With those of the daemon itself they are far below the unit's TasksMax.
const READERS: usize = 8;
/// Statements that wait for the daemon.
const WAITING: usize = 1024;
/// How often a log is looked at, while the incident is young, and later.
const BRISK: Duration = Duration::from_millis(250);
const SLOW: Duration = Duration::from_secs(5);
/// How long after the last news of its incident a VM is looked at briskly.
const YOUNG: Duration = Duration::from_secs(60);
/// How long after the VMM's end its log is still read: libvirt's last line has the reason.
const GRACE: Duration = Duration::from_secs(3);
/// A parser's lines are on the heap.
const STACK: usize = 512 * 1024;
/// A line with a time is taken for the incident's from so long before it, nanoseconds: the clocks' grain.
const BEFORE_NS: i64 = 2_000_000_000;

/// See the module.
pub struct VmmWatcher {
    places: VmmPlaces,
    /// Those that have ended stay for a while: the last that is heard of a VM is news of its incident, too.
    followed: BTreeMap<u32, Arc<Deadlines>>,
    sender: Sender<Event>,
    receiver: Receiver<Event>,
    /// To the thread that follows them; `None`: no VM has been followed yet.
    follower: Option<UnboundedSender<Followed>>,
}

/// A VM to be followed.
type Followed = (Vm, Arc<Deadlines>);

/// Deadlines of a VM's task, milliseconds on its clock.
struct Deadlines {
    begun: Instant,
    brisk_until: AtomicU64,
    /// 0: goes on.
    ends_at: AtomicU64,
}

impl Deadlines {
    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn news(&self) {
        self.brisk_until
            .store(self.now() + YOUNG.as_millis() as u64, Ordering::Relaxed);
    }

    fn end(&self) {
        // 0 would mean that it goes on.
        let at = (self.now() + GRACE.as_millis() as u64).max(1);
        let _ = self
            .ends_at
            .compare_exchange(0, at, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn over(&self) -> bool {
        let ends_at = self.ends_at.load(Ordering::Relaxed);
        ends_at != 0 && self.now() >= ends_at
    }

    fn pause(&self) -> Duration {
        let brisk = self.now() < self.brisk_until.load(Ordering::Relaxed);
        if brisk || self.ends_at.load(Ordering::Relaxed) != 0 {
            BRISK
        } else {
            SLOW
        }
    }
}

impl VmmWatcher {
    pub fn new(places: VmmPlaces) -> Self {
        let (sender, receiver) = channel(WAITING);
        Self {
            places,
            followed: BTreeMap::new(),
            sender,
            receiver,
            follower: None,
        }
    }

    /// Takes news of an incident: its VM is followed from its first to its end.
    pub fn update(&mut self, update: &Update) {
        let vm = &update.incident.vm;
        let Some(pid) = vm.pid else { return };
        let known = self.followed.get(&pid);
        // Another VM, where its number has come again.
        let again = known.is_some_and(|deadlines| deadlines.over() && !update.closed);
        if known.is_none() || again {
            let (log, qmp) = (self.places.log.of(vm), self.places.qmp.of(vm));
            if log.is_none() && qmp.is_none() {
                return;
            }
            let log = match (log, &vm.container) {
                (Some(path), Some(_)) => Place::in_container(Path::new("/proc"), pid, path)
                    .inspect_err(|err| tracing::debug!(pid, "the container's root: {err}"))
                    .ok(),
                (path, _) => path.map(Place::Host),
            };
            if let Err(err) = self.follow(pid, since(&update.incident), log, qmp) {
                tracing::warn!(pid, "this VM's own log and QMP are not followed: {err}");
                return;
            }
        }
        if let Some(deadlines) = self.followed.get(&pid) {
            deadlines.news();
            if update.closed {
                deadlines.end();
            }
        }
    }

    fn follow(
        &mut self,
        pid: u32,
        since_wall: Option<i64>,
        log: Option<Place>,
        qmp: Option<PathBuf>,
    ) -> io::Result<()> {
        if self.followed.len() >= MAX_FOLLOWED {
            self.followed.retain(|_, deadlines| !deadlines.over());
        }
        if self.followed.len() >= MAX_FOLLOWED {
            return Err(io::Error::other(format!(
                "the limit of {MAX_FOLLOWED} VMs is reached"
            )));
        }
        let deadlines = Arc::new(Deadlines {
            begun: Instant::now(),
            brisk_until: AtomicU64::new(0),
            ends_at: AtomicU64::new(0),
        });
        deadlines.news();
        let vm = Vm {
            pid,
            since_wall,
            log: log.map(|place| (name(place.path()), tail::Tail::new(place), Scanner::default())),
            qmp: qmp.map(|path| (qmp::Listener::new("/proc", path, pid), Scanner::default())),
            out: self.sender.clone(),
        };
        if self.follower.as_ref().is_none_or(UnboundedSender::is_closed) {
            self.follower = Some(start()?);
        }
        if let Some(follower) = &self.follower
            && follower.send((vm, Arc::clone(&deadlines))).is_err()
        {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.followed.insert(pid, deadlines);
        Ok(())
    }

    /// The next statement of a VMM.
    pub async fn next(&mut self) -> Event {
        match self.receiver.recv().await {
            Some(event) => event,
            // It holds a sender itself.
            None => std::future::pending().await,
        }
    }

    /// A statement that waits, if one does.
    pub fn waiting(&mut self) -> Option<Event> {
        self.receiver.try_recv().ok()
    }
}

/// Starts the thread that follows VMs. It ends with its sender, and its tasks with it.
fn start() -> io::Result<UnboundedSender<Followed>> {
    let (sender, mut vms): (_, UnboundedReceiver<Followed>) = unbounded_channel();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(READERS)
        .thread_stack_size(STACK)
        .build()?;
    thread::Builder::new()
        .name("vmm_log".to_owned())
        .stack_size(STACK)
        .spawn(move || {
            runtime.block_on(async {
                while let Some((vm, deadlines)) = vms.recv().await {
                    tokio::spawn(vm.run(deadlines));
                }
            });
            // A reader may wait for its file for ever.
            runtime.shutdown_background();
        })?;
    Ok(sender)
}

/// When the incident began, nanoseconds since the epoch.
fn since(incident: &model::Incident) -> Option<i64> {
    let at: jiff::Timestamp = incident.started_at.as_ref()?.parse().ok()?;
    i64::try_from(at.as_nanosecond()).ok()
}

fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    sanitise(&name.to_string_lossy(), 80)
}

/// One followed VM, in its task.
struct Vm {
    pid: u32,
    since_wall: Option<i64>,
    log: Option<Log>,
    qmp: Option<(qmp::Listener, Scanner)>,
    out: Sender<Event>,
}

/// Its log: the file's name, and how far it is read.
type Log = (String, tail::Tail, Scanner);

impl Vm {
    async fn run(mut self, deadlines: Arc<Deadlines>) {
        loop {
            let over = deadlines.over();
            if !self.read_log(over).await || over {
                return;
            }
            let pause = deadlines.pause();
            let heard = match &mut self.qmp {
                Some((listener, scanner)) => {
                    let mut take = |number: u64, line: &[u8]| scanner.line(number, line);
                    listener.listen(pause, &mut take).await;
                    std::mem::take(&mut scanner.items)
                }
                None => {
                    sleep(pause).await;
                    Vec::new()
                }
            };
            if !self.report("QMP", heard, true).await {
                return;
            }
        }
    }

    /// Reads what has come; `false` where nobody listens any more.
    async fn read_log(&mut self, last: bool) -> bool {
        let Some((name, mut tail, mut scanner)) = self.log.take() else {
            return true;
        };
        let read = spawn_blocking(move || {
            let old = tail.read(&mut |number, line| scanner.line(number, line));
            // A report of several lines is over when nothing more comes.
            if last || !old {
                scanner.finish();
            }
            (old, tail, scanner)
        });
        // A reader that panicked: the log is not read any more.
        let Ok((old, tail, mut scanner)) = read.await else {
            return true;
        };
        let items = std::mem::take(&mut scanner.items);
        self.log = Some((name.clone(), tail, scanner));
        self.report(&name, items, !old).await
    }

    /// `new`: it was written while the VM was followed.
    async fn report(&self, source: &str, items: Vec<Item>, new: bool) -> bool {
        let now = machine::clock_pair();
        for item in items.into_iter().filter(|item| new || self.of_now(item)) {
            let event = Event {
                t: time(&item, now),
                tid: 0,
                pid: self.pid,
                vcpu: None,
                what: EventKind::LogStatement(Box::new(LogRecord {
                    source: source.to_owned(),
                    line: item.line,
                    speaker: Speaker {
                        role: Role::Vmm,
                        pid: Some(self.pid),
                        ..Speaker::default()
                    },
                    vm: 0,
                    joined: None,
                    answers: None,
                    text: item.text,
                    own_clock: None,
                    times: Vec::new(),
                    statement: item.statement,
                })),
            };
            if self.out.send(event).await.is_err() {
                return false;
            }
        }
        true
    }

    /// Whether a statement that was there before belongs to the incident: by its time; without one, by its page.
    fn of_now(&self, item: &Item) -> bool {
        match (&item.statement, item.stamp.wall, self.since_wall) {
            (LogStatement::VmName { .. }, ..) => true,
            (_, Some(wall), Some(since)) if !item.stamp.no_year => wall >= since - BEFORE_NS,
            (LogStatement::VmmInjected { gpa: Some(_), .. }, ..) => true,
            _ => false,
        }
    }
}

/// The statement's time on the events' clock: by its own date where that lies shortly before `now`.
fn time(item: &Item, now: ClockPair) -> u64 {
    const AT_MOST: i64 = 3_600_000_000_000;
    let ago = match (now.wall_ns, item.stamp.wall) {
        (Some(now), Some(wall)) if !item.stamp.no_year => now - wall,
        _ => 0,
    };
    match u64::try_from(ago) {
        Ok(ago) if ago <= AT_MOST as u64 => now.monotonic_ns.saturating_sub(ago),
        _ => now.monotonic_ns,
    }
}
