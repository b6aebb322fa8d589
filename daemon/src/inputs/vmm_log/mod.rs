//! While an incident is open: statements of the VMM itself, from its log and from QMP. Nothing is read of a VM without
//! an incident, nothing is written but QMP's greeting, and the daemon waits for none of it: each VM has a thread of
//! its own, which hands over statements and nothing else.

mod tail;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::{machine, qmp};
use crate::config::VmmSources;
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
const MAX_FOLLOWED: usize = 64;
/// Statements that wait for the daemon.
const WAITING: usize = 1024;
/// How often a log is looked at, while the incident is young, and later.
const BRISK: Duration = Duration::from_millis(250);
const SLOW: Duration = Duration::from_secs(5);
/// How long after the last news of its incident a VM is looked at briskly.
const YOUNG: Duration = Duration::from_secs(60);
/// How long after the VMM's end its log is still read: libvirt's last line has the reason.
const GRACE: Duration = Duration::from_secs(3);
const STACK: usize = 256 * 1024;
/// A line with a time is taken for the incident's from so long before it, nanoseconds: the clocks' grain.
const BEFORE_NS: i64 = 2_000_000_000;

/// See the module.
pub struct VmmWatcher {
    sources: VmmSources,
    /// Those that have ended stay for a while: the last that is heard of a VM is news of its incident, too.
    followed: BTreeMap<u32, Arc<Deadlines>>,
    sender: Sender<Event>,
    receiver: Receiver<Event>,
}

/// Deadlines of a VM's thread, milliseconds on its clock.
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
    pub fn new(sources: VmmSources) -> Self {
        let (sender, receiver) = channel(WAITING);
        Self {
            sources,
            followed: BTreeMap::new(),
            sender,
            receiver,
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
            let (log, qmp) = (self.sources.log.of(vm), self.sources.qmp.of(vm));
            if log.is_none() && qmp.is_none() {
                return;
            }
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
        log: Option<PathBuf>,
        qmp: Option<PathBuf>,
    ) -> io::Result<()> {
        if self.followed.len() >= MAX_FOLLOWED {
            self.followed.retain(|_, deadlines| !deadlines.over());
        }
        if self.followed.len() >= MAX_FOLLOWED {
            return Err(io::Error::other(format!("{MAX_FOLLOWED} others are")));
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
            log: log.map(|path| (name(&path), tail::Tail::new(path), Scanner::default())),
            qmp: qmp.map(|path| (qmp::Listener::new(path), Scanner::default())),
            out: self.sender.clone(),
        };
        let shared = Arc::clone(&deadlines);
        thread::Builder::new()
            .name(format!("follow {pid}"))
            .stack_size(STACK)
            .spawn(move || vm.run(&shared))?;
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

/// When the incident began, nanoseconds since the epoch.
fn since(incident: &model::Incident) -> Option<i64> {
    let at: jiff::Timestamp = incident.started_at.as_ref()?.parse().ok()?;
    i64::try_from(at.as_nanosecond()).ok()
}

fn name(path: &std::path::Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    sanitise(&name.to_string_lossy(), 80)
}

/// One followed VM, in its thread.
struct Vm {
    pid: u32,
    since_wall: Option<i64>,
    log: Option<(String, tail::Tail, Scanner)>,
    qmp: Option<(qmp::Listener, Scanner)>,
    out: Sender<Event>,
}

impl Vm {
    fn run(mut self, deadlines: &Deadlines) {
        loop {
            let over = deadlines.over();
            if !self.read_log(over) || over {
                return;
            }
            let pause = deadlines.pause();
            let heard = match &mut self.qmp {
                Some((listener, scanner)) => {
                    listener.listen(pause, &mut |number, line| scanner.line(number, line));
                    std::mem::take(&mut scanner.items)
                }
                None => {
                    thread::sleep(pause);
                    Vec::new()
                }
            };
            if !self.say("QMP", heard, true) {
                return;
            }
        }
    }

    /// Reads what has come; `false` where nobody listens any more.
    fn read_log(&mut self, last: bool) -> bool {
        let Some((name, tail, scanner)) = &mut self.log else {
            return true;
        };
        let old = tail.read(&mut |number, line| scanner.line(number, line));
        // A report of several lines is over when nothing more comes.
        if last || !old {
            scanner.finish();
        }
        let items = std::mem::take(&mut scanner.items);
        let name = name.clone();
        self.say(&name, items, !old)
    }

    /// `new`: it was written while the VM was followed.
    fn say(&self, source: &str, items: Vec<Item>, new: bool) -> bool {
        let now = machine::clock_pair();
        items
            .into_iter()
            .filter(|item| new || self.of_now(item))
            .all(|item| {
                let event = Event {
                    t: time(&item, now),
                    tid: 0,
                    pid: self.pid,
                    vcpu: None,
                    what: EventKind::LogStatement(LogRecord {
                        source: source.to_owned(),
                        line: item.line,
                        speaker: Speaker {
                            role: Role::Vmm,
                            pid: Some(self.pid),
                            ..Speaker::default()
                        },
                        vm: 0,
                        joined: None,
                        text: item.text,
                        own_clock: None,
                        statement: item.statement,
                    }),
                };
                self.out.blocking_send(event).is_ok()
            })
    }

    /// Whether a statement that was there before belongs to the incident: by its time; without one, by its page.
    fn of_now(&self, item: &Item) -> bool {
        match (&item.statement, item.stamp.wall, self.since_wall) {
            (LogStatement::VmName { .. }, ..) => true,
            (_, Some(wall), Some(since)) if !item.stamp.no_year => wall >= since - BEFORE_NS,
            (LogStatement::VmmTold { gpa: Some(_), .. }, ..) => true,
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
