//! The daemon's end of the store: hands what changed to a thread of its own, which alone waits for the disk. While
//! the disk is full, read-only or gone, what changed waits in memory and is written when it can be.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::{
    FILE, Retention, StoreError,
    clock_watch::{CONFIRMED_AFTER, ClockWatch, Reading},
    database::Database,
    queue::{EventRow, Queue, Row, Verdict},
    retention, sample,
};
use crate::{fair::Class, service::privileges};
use poisontrace_model::{event::Event, host::Host};
use poisontrace_report::document::Incident;
use poisontrace_sources::host::machine;

/// First and longest wait before a store that could not be written to is tried again.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(15);
/// Bytes of incidents and events that a paced store writes a second; SQLite makes three to four times as much of them. A
/// change waits for what was written before it: of a full queue, a second at most.
const PACE: usize = 2 << 20;
/// How often the age limit is applied.
const PRUNE: Duration = Duration::from_secs(3600);
/// How often it is logged that it cannot be.
const REMIND: Duration = Duration::from_secs(86_400);

/// How the store fares, for metrics and status pages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Why nothing can be written now; `None`: it can.
    pub failing: Option<String>,
    /// Writes that failed, since the start.
    pub failures: u64,
    /// Transactions written, since the start.
    pub written: u64,
    /// Incidents and events that wait.
    pub waiting_incidents: u64,
    pub waiting_events: u64,
    /// How long the oldest of those incidents has waited.
    pub longest_wait: Duration,
    /// Events that found no room while the disk could not be written to.
    pub dropped_events: u64,
    /// Incidents that retention has deleted.
    pub pruned: u64,
    /// Files that were set aside.
    pub set_aside: u64,
}

/// See the module. Dropping it without [`Store::close`] leaves the thread behind.
pub struct Store {
    dir: PathBuf,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Something is to be written, or the end has come.
    work: Condvar,
    /// The thread has come round.
    done: Condvar,
}

#[derive(Default)]
struct State {
    queue: Queue,
    health: Health,
    writing: bool,
    /// When the oldest change of the batch that is being written came.
    writing_since: Option<Instant>,
    ended: bool,
    /// The end is near: no pace is kept any more.
    hurrying: bool,
    closing: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves the queue as whole as any: it is changed by single moves.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`Store::room`].
pub struct Room<'a>(MutexGuard<'a, State>);

impl Room<'_> {
    /// Whether an incident of this VM (process number) and class has room.
    pub fn takes(&self, vm: u32, class: Class) -> bool {
        self.0.queue.takes(vm, class)
    }
}

impl Store {
    /// Opens the store in `dir` and starts its thread. Where it cannot be opened now, that is logged, and it goes on
    /// in memory.
    pub fn start(dir: &Path, host: &Host, retention: Retention) -> Self {
        Self::with_pace(dir, host, retention, None)
    }

    /// As [`Store::start`], for events that a guest or a VMM can make without end: what is written a second is bounded.
    pub fn paced(dir: &Path, host: &Host, retention: Retention) -> Self {
        Self::with_pace(dir, host, retention, Some(PACE))
    }

    fn with_pace(dir: &Path, host: &Host, retention: Retention, pace: Option<usize>) -> Self {
        let shared = Arc::new(Shared::default());
        let mut writer = Writer {
            dir: dir.to_owned(),
            host: serde_json::to_string(host).unwrap_or_default(),
            retention,
            shared: Arc::clone(&shared),
            database: None,
            pruned_at: None,
            clock: ClockWatch::default(),
            reminded_at: None,
            too_large: false,
            pace,
            retry: RETRY,
        };
        // Before the thread, so that a store that is there is whole when this returns.
        if let Err(err) = writer.ensure_open() {
            writer.failed(&err);
        }
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || {
                privileges::only_write();
                writer.run();
            })
            .map_err(|err| tracing::error!(error = %err, "no thread for the store: nothing will be stored"))
            .ok();
        Self {
            dir: dir.to_owned(),
            shared,
            thread,
        }
    }

    /// Bytes that the database takes on disk.
    pub fn size_bytes(&self) -> u64 {
        ["", "-wal", "-shm"]
            .iter()
            .filter_map(|end| std::fs::metadata(self.dir.join(format!("{FILE}{end}"))).ok())
            .map(|file| file.len())
            .sum()
    }

    /// What [`Store::put`] will take now. The store's thread waits as long as this lives.
    pub fn room(&self) -> Room<'_> {
        Room(self.shared.state())
    }

    /// Takes an incident as it stands now, with what is needed to go on with it; never waits.
    pub fn put(&self, incident: &Incident, state: Option<String>, events_seen: u64) {
        let json = match serde_json::to_string(incident) {
            Ok(mut json) => {
                // Written into a buffer that doubles; many wait where the disk is slow.
                json.shrink_to_fit();
                json
            }
            Err(err) => {
                tracing::error!(incident = incident.id, error = %err, "an incident cannot be written as JSON");
                return;
            }
        };
        let now = jiff::Timestamp::now()
            .strftime("%Y-%m-%dT%H:%M:%S%.3fZ")
            .to_string();
        let row = Row {
            seq: 0,
            since: Instant::now(),
            vm: incident.vm.name.clone(),
            started_at: incident.started_at.clone(),
            json,
            state,
            events_seen,
            verdicts: vec![Verdict::of(incident, now)],
        };
        self.shared.state().queue.put(incident.id.clone(), row);
        self.shared.work.notify_one();
    }

    /// Takes event number `n` (from 0) of an incident, if it is of those that are kept.
    pub fn event(&self, incident: &str, n: u64, event: &Event) {
        if !sample::kept(n) {
            return;
        }
        let Ok(json) = serde_json::to_string(event) else {
            return;
        };
        let mut state = self.shared.state();
        let taken = state.queue.event(EventRow {
            incident: incident.to_owned(),
            n,
            json,
        });
        if !taken {
            state.health.dropped_events += 1;
        }
    }

    pub fn health(&self) -> Health {
        let state = self.shared.state();
        Health {
            waiting_incidents: state.queue.rows.len() as u64,
            waiting_events: state.queue.events.len() as u64,
            longest_wait: state.queue.longest_wait().max(
                state
                    .writing_since
                    .map_or(Duration::ZERO, |since| since.elapsed()),
            ),
            ..state.health.clone()
        }
    }

    /// Gives up the pace: the daemon ends, and what it holds is to be written.
    pub fn hurry(&self) {
        self.shared.state().hurrying = true;
        self.shared.work.notify_one();
    }

    /// Waits until all that was put is written, or a write has failed, or `patience` is over. Returns whether all
    /// is written.
    pub fn settle(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        let mut state = self.shared.state();
        loop {
            if state.queue.is_empty() && !state.writing {
                return true;
            }
            if state.ended || state.health.failing.is_some() {
                return false;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            self.shared.work.notify_one();
            state = self
                .shared
                .done
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Writes what is left and ends the thread, at most `patience` long: a disk that hangs must not keep the
    /// daemon. Returns whether all is written.
    pub fn close(mut self, patience: Duration) -> bool {
        self.shared.state().closing = true;
        self.shared.work.notify_one();
        let until = Instant::now() + patience;
        let mut state = self.shared.state();
        while !state.ended {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self
                .shared
                .done
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        let whole = state.queue.is_empty();
        drop(state);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        whole
    }
}

struct Writer {
    dir: PathBuf,
    host: String,
    retention: Retention,
    shared: Arc<Shared>,
    database: Option<Database>,
    pruned_at: Option<Instant>,
    clock: ClockWatch,
    /// When it was last logged that nothing goes by age.
    reminded_at: Option<Instant>,
    /// The store is too large, and has been after the last pruning: all in it is open.
    too_large: bool,
    /// Bytes a second.
    pace: Option<usize>,
    retry: Duration,
}

impl Writer {
    fn run(mut self) {
        loop {
            let (batch, closing) = self.next();
            let bytes = batch.bytes();
            if !batch.is_empty() {
                self.write(batch);
            }
            self.prune_if_due();
            let mut state = self.shared.state();
            state.writing = false;
            state.writing_since = None;
            state.ended = closing;
            self.shared.done.notify_all();
            if closing {
                return;
            }
            drop(state);
            self.rest(bytes);
        }
    }

    /// Waits until what was written is within the pace, or the end has come.
    fn rest(&self, bytes: usize) {
        let Some(pace) = self.pace else { return };
        let until = Instant::now() + Duration::from_secs_f64(bytes as f64 / pace as f64);
        let mut state = self.shared.state();
        while !state.closing && !state.hurrying {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self
                .shared
                .work
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Waits for something to write (or, after a failure, for the next try).
    fn next(&self) -> (Queue, bool) {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.state();
        let since = Instant::now();
        loop {
            let failing = state.health.failing.is_some();
            let waited = since.elapsed();
            if state.closing || (!failing && !state.queue.is_empty()) || (failing && waited >= self.retry) {
                state.writing = true;
                state.writing_since = state.queue.rows.values().map(|row| row.since).min();
                return (state.queue.take(), state.closing);
            }
            let wait = if failing { self.retry - waited } else { PRUNE };
            state = shared
                .work
                .wait_timeout(state, wait)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
            if !failing && state.queue.is_empty() && since.elapsed() >= PRUNE {
                return (Queue::default(), state.closing);
            }
        }
    }

    fn write(&mut self, batch: Queue) {
        let outcome = self.ensure_open().and_then(|()| match &mut self.database {
            Some(database) => database.write(&batch),
            None => Ok(()),
        });
        match outcome {
            Ok(()) => {
                self.retry = RETRY;
                let mut state = self.shared.state();
                state.health.written += 1;
                if state.health.failing.take().is_some() {
                    let dropped = state.health.dropped_events;
                    drop(state);
                    tracing::info!(
                        dropped_events = dropped,
                        "the store can be written to again; no incident was lost"
                    );
                }
            }
            Err(err) => {
                self.shared.state().queue.put_back(batch);
                self.failed(&err);
            }
        }
    }

    fn failed(&mut self, err: &StoreError) {
        // Opened anew at the next try: the disk may have been mounted again, the file moved or spoiled.
        self.database = None;
        let mut state = self.shared.state();
        state.health.failures += 1;
        let before = state.health.failing.replace(err.to_string());
        drop(state);
        self.shared.done.notify_all();
        if before.is_none() {
            tracing::error!(
                error = %err,
                "the store cannot be written to; incidents are kept in memory and tried again"
            );
        } else {
            self.retry = (self.retry * 2).min(RETRY_MAX);
        }
    }

    fn ensure_open(&mut self) -> Result<(), StoreError> {
        if let Some(database) = &self.database
            && database.in_place()
        {
            return Ok(());
        }
        if self.database.take().is_some() {
            tracing::error!(
                path = %self.dir.join(FILE).display(),
                "somebody moved the store away; a new one is begun"
            );
        }
        let (database, aside) = Database::open(&self.dir, &self.host, machine::boot_id().as_deref())?;
        self.shared.state().health.set_aside += u64::from(aside.is_some());
        self.database = Some(database);
        Ok(())
    }

    /// Retention: each hour, and when the database has grown too large.
    fn prune_if_due(&mut self) {
        let Some(database) = &self.database else { return };
        let due = self.pruned_at.is_none_or(|at| at.elapsed() >= PRUNE)
            || retention::used_bytes(&database.connection).is_ok_and(|used| used > self.retention.max_bytes);
        if !due {
            return;
        }
        let confirmed = self.clock.confirms(Reading::now());
        if !confirmed
            && self.reminded_at.is_none_or(|at| at.elapsed() >= REMIND)
            && let Ok(Some(days)) = retention::stale_days(&database.connection, self.retention)
        {
            self.reminded_at = Some(Instant::now());
            tracing::warn!(
                days,
                confirmed_after_days = CONFIRMED_AFTER.as_secs() / REMIND.as_secs(),
                "no incident was stored for longer than any is kept, or the clock has jumped: what was stored before is not \
                 deleted by age until the clock has run for days without a jump; `poisontrace incidents prune --older-than` \
                 deletes it now"
            );
        }
        self.pruned_at = Some(Instant::now());
        match retention::prune(
            &database.connection,
            self.retention,
            database.boot_id(),
            confirmed,
        ) {
            Ok(0) => {}
            Ok(gone) => {
                self.shared.state().health.pruned += gone;
                tracing::info!(
                    incidents = gone,
                    "retention: incidents are deleted from the store, the oldest, and those of the VM that has most"
                );
            }
            Err(err) => {
                tracing::warn!(error = %err, "retention could not be applied; it is tried again in an hour");
            }
        }
        let too_large =
            retention::used_bytes(&database.connection).is_ok_and(|used| used > self.retention.max_bytes);
        if too_large && !self.too_large {
            tracing::warn!("the store is larger than allowed, and all incidents in it are open: they stay");
        }
        self.too_large = too_large;
    }
}
