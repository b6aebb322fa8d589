//! The trigger hook: a program of the operator's that is run on incidents, without a shell. Runs wait in a queue of
//! their own and come one after the other, so that an incident's are in order; the pipeline never waits for them. VMs take
//! turns, and so do pages that the kernel has named and all others; where the queue is full the VM with most runs in it loses
//! its newest.
//!
//! | the program gets | |
//! |---|---|
//! | standard input | the incident as in `explain --format json`, one line |
//! | `POISONTRACE_EVENT` | `open`, `verdict` or `close` |
//! | `POISONTRACE_INCIDENT` | the incident's id |
//! | `POISONTRACE_OUTCOME`, `POISONTRACE_CAUSE`, `POISONTRACE_CONFIDENCE` | the verdict |
//! | `POISONTRACE_VM`, `POISONTRACE_HOST` | names, empty where not known |
//! | `POISONTRACE_RUN` | the run: by it, processes are found that the program leaves behind when it is killed |
//! | `PATH` | the daemon's; nothing else of its environment |
//!
//! Its standard output goes nowhere, its standard error where the daemon's goes.

use std::{
    env,
    process::Stdio,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::AsyncWriteExt as _,
    process::Command,
    sync::{Notify, mpsc},
    time::timeout,
};

mod leftovers;

use crate::{
    config::{self, HookEvent},
    fair::{Class, ClassedQueue},
};
use poisontrace_model::host::Host;
use poisontrace_report::document::{Answer, Incident};

/// Runs that wait; more are dropped and counted.
const MAX_WAITING: usize = 256;

/// How a run ended: the label of `poisontrace_hook_runs_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Ok,
    Failed,
    Timeout,
    Dropped,
}

impl Ended {
    pub const ALL: [Self; 4] = [Self::Ok, Self::Failed, Self::Timeout, Self::Dropped];

    pub const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Timeout => "timeout",
            Self::Dropped => "dropped",
        }
    }
}

struct Run {
    settings: config::Hook,
    event: HookEvent,
    variables: [(&'static str, String); 6],
    json: Vec<u8>,
}

/// The runs, a VM's in order, and who waits for one. The one that works them off ends with the runtime.
#[derive(Default)]
struct Queue {
    runs: Mutex<ClassedQueue<Run>>,
    came: Notify,
}

impl Queue {
    fn runs(&self) -> MutexGuard<'_, ClassedQueue<Run>> {
        // Changed by single moves: a panic elsewhere leaves it whole.
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a run; returns whether one (this, or another) had to go for it.
    fn push(&self, vm: u32, class: Class, run: Run) -> bool {
        let mut runs = self.runs();
        runs.push_in_order(vm, class, run);
        let full = runs.len() > MAX_WAITING;
        if full {
            runs.make_room();
        }
        drop(runs);
        self.came.notify_one();
        full
    }

    async fn next(&self) -> Run {
        loop {
            let next = self.runs().pop();
            match next {
                Some(run) => return run,
                None => self.came.notified().await,
            }
        }
    }
}

/// See the module.
pub struct Hook {
    settings: config::Hook,
    host: Host,
    queue: Arc<Queue>,
    ended: mpsc::UnboundedReceiver<Ended>,
    dropped: u64,
}

impl Hook {
    /// Starts the queue on the current runtime.
    pub fn start(settings: config::Hook, host: Host) -> Self {
        leftovers::adopt();
        let queue = Arc::new(Queue::default());
        let (report, ended) = mpsc::unbounded_channel();
        tokio::spawn(work(Arc::clone(&queue), report));
        Self {
            settings,
            host,
            queue,
            ended,
            dropped: 0,
        }
    }

    /// Takes over new settings, for runs that are not queued yet.
    pub fn configure(&mut self, settings: config::Hook) {
        self.settings = settings;
    }

    /// Queues a run, if the program wants to know of `event`.
    pub fn trigger(&mut self, event: HookEvent, incident: &Incident) {
        if self.settings.command.is_empty() || !self.settings.on.contains(&event) {
            return;
        }
        let answer = Answer::new(self.host.clone(), vec![incident.clone()]);
        let mut json = serde_json::to_vec(&answer).unwrap_or_default();
        json.push(b'\n');
        let run = Run {
            settings: self.settings.clone(),
            event,
            variables: [
                ("POISONTRACE_INCIDENT", incident.id.clone()),
                ("POISONTRACE_OUTCOME", incident.outcome.word().to_owned()),
                ("POISONTRACE_CAUSE", incident.cause.word().to_owned()),
                ("POISONTRACE_CONFIDENCE", incident.confidence.word().to_owned()),
                ("POISONTRACE_VM", incident.vm.name.clone().unwrap_or_default()),
                ("POISONTRACE_HOST", self.host.hostname.clone().unwrap_or_default()),
            ],
            json,
        };
        if self
            .queue
            .push(incident.vm.pid.unwrap_or(0), super::class_of(incident), run)
        {
            if self.dropped == 0 {
                tracing::warn!("the hook is too slow: runs of it are dropped");
            }
            self.dropped += 1;
        }
    }

    /// Runs that ended since the last call.
    pub fn ended(&mut self) -> Vec<Ended> {
        let dropped = std::mem::take(&mut self.dropped);
        let mut all: Vec<Ended> = std::iter::from_fn(|| self.ended.try_recv().ok()).collect();
        all.extend(std::iter::repeat_n(
            Ended::Dropped,
            usize::try_from(dropped).unwrap_or(usize::MAX),
        ));
        all
    }
}

async fn work(queue: Arc<Queue>, report: mpsc::UnboundedSender<Ended>) {
    while !report.is_closed() {
        let run = tokio::select! {
            run = queue.next() => run,
            () = report.closed() => return,
        };
        let ended = perform(&run).await;
        leftovers::reap();
        if report.send(ended).is_err() {
            return;
        }
    }
}

async fn perform(run: &Run) -> Ended {
    let Some((program, arguments)) = run.settings.command.split_first() else {
        return Ended::Failed;
    };
    let event = match run.event {
        HookEvent::Open => "open",
        HookEvent::Verdict => "verdict",
        HookEvent::Close => "close",
    };
    let mark = leftovers::new_mark();
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .env("PATH", env::var_os("PATH").unwrap_or_default())
        .env("POISONTRACE_EVENT", event)
        .env(leftovers::RUN, mark.as_str())
        .envs(run.variables.iter().map(|(name, value)| (*name, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .process_group(0)
        .kill_on_drop(true);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(err) => {
            tracing::warn!(program, error = %err, "the hook cannot be started");
            return Ended::Failed;
        }
    };
    let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    let running = leftovers::Program::new(group);
    let limit = Duration::from_secs(run.settings.timeout_seconds.max(1));
    let done = timeout(limit, async {
        if let Some(mut input) = child.stdin.take() {
            // A program that does not read its input has not asked for it.
            let _ = input.write_all(&run.json).await;
        }
        child.wait().await
    })
    .await;
    match done {
        Ok(Ok(status)) if status.success() => Ended::Ok,
        Ok(Ok(status)) => {
            tracing::warn!(program, %status, "the hook failed");
            Ended::Failed
        }
        Ok(Err(err)) => {
            tracing::warn!(program, error = %err, "cannot wait for the hook");
            Ended::Failed
        }
        Err(_) => {
            // With whatever it has started.
            if let Some(group) = group {
                let _ = kill_process_group(group, Signal::KILL);
            }
            let _ = child.wait().await;
            drop(running);
            leftovers::kill(&mark).await;
            tracing::warn!(
                program,
                seconds = limit.as_secs(),
                "the hook took too long and was killed"
            );
            Ended::Timeout
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Instant};

    use super::*;
    use poisontrace_model::{event::session::Session, incident::evidence::Evidence};

    fn incident() -> Incident {
        incident_of(7, "web")
    }

    fn incident_of(pid: u32, name: &str) -> Incident {
        let mut e = Evidence::new(1, pid, Default::default());
        Arc::make_mut(&mut e.vmm).name = Some(name.into());
        poisontrace_report::document(poisontrace_model::correlate::report::incident(
            &e,
            &Session::default(),
        ))
    }

    fn script(dir: &Path, text: &str) -> String {
        let file = dir.join("hook");
        fs::write(&file, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        file.to_str().unwrap().to_owned()
    }

    fn settings(command: Vec<String>) -> config::Hook {
        config::Hook {
            command,
            timeout_seconds: 1,
            ..config::Hook::default()
        }
    }

    /// Triggers once each of `events`, and waits for that many ends.
    fn run(settings: config::Hook, events: &[HookEvent], ends: usize) -> Vec<Ended> {
        let triggers: Vec<(HookEvent, Incident)> = events.iter().map(|event| (*event, incident())).collect();
        run_all(settings, &triggers, ends)
    }

    fn run_all(settings: config::Hook, triggers: &[(HookEvent, Incident)], ends: usize) -> Vec<Ended> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut hook = Hook::start(settings, Host::default());
            for (event, incident) in triggers {
                hook.trigger(*event, incident);
            }
            let began = Instant::now();
            let mut ended = hook.ended();
            while ended.len() < ends && began.elapsed() < Duration::from_secs(20) {
                tokio::time::sleep(Duration::from_millis(20)).await;
                ended.extend(hook.ended());
            }
            ended
        })
    }

    #[test]
    fn the_program_gets_the_incident_and_nothing_of_the_daemons_environment() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let program = script(dir.path(), "env | sort >\"$1\"; cat >>\"$1\"");
        let out_name = out.to_str().unwrap().to_owned();
        let ended = run(settings(vec![program, out_name]), &[HookEvent::Open], 1);
        assert_eq!(ended, [Ended::Ok]);
        let text = fs::read_to_string(out).unwrap();
        assert!(text.contains("POISONTRACE_EVENT=open\n"), "{text}");
        assert!(text.contains("POISONTRACE_VM=web\n"), "{text}");
        assert!(!text.contains("CARGO"), "{text}");
        let answer: Answer = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!(answer.incidents[0].vm.name.as_deref(), Some("web"));
    }

    #[test]
    fn a_program_that_hangs_is_killed_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let marker = dir.path().join("marker");
        let program = script(
            dir.path(),
            &format!("(sleep 3; touch {}) & sleep 60", marker.display()),
        );
        let ended = run(settings(vec![program]), &[HookEvent::Close], 1);
        assert_eq!(ended, [Ended::Timeout]);
        std::thread::sleep(Duration::from_secs(3));
        assert!(!marker.exists());
    }

    #[test]
    fn only_what_was_asked_for_runs_and_a_queue_that_is_full_drops() {
        let dir = tempfile::tempdir().unwrap();
        let program = script(dir.path(), "exit 3");
        let mut wanted = settings(vec![program]);
        wanted.on = vec![HookEvent::Verdict];
        assert_eq!(
            run(wanted.clone(), &[HookEvent::Open, HookEvent::Verdict], 1),
            [Ended::Failed]
        );
        let many = vec![HookEvent::Verdict; MAX_WAITING + 10];
        let ended = run(wanted, &many, MAX_WAITING + 10);
        assert_eq!(ended.iter().filter(|e| **e == Ended::Dropped).count(), 10);
        let absent = settings(vec!["/no/such/program".into()]);
        assert_eq!(run(absent, &[HookEvent::Open], 1), [Ended::Failed]);
    }
    #[test]
    fn a_vms_flood_of_runs_keeps_no_other_vm_waiting_and_costs_it_no_run() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let program = script(dir.path(), &format!("echo $POISONTRACE_VM >>{}", out.display()));
        let mut triggers = vec![(HookEvent::Open, incident_of(7, "flood")); MAX_WAITING + 700];
        triggers.push((HookEvent::Open, incident_of(8, "web")));
        let ended = run_all(settings(vec![program]), &triggers, triggers.len());
        let dropped = ended.iter().filter(|ended| **ended == Ended::Dropped).count();
        assert_eq!((ended.len(), dropped), (triggers.len(), 701));
        let ran = fs::read_to_string(out).unwrap();
        let turn = ran.lines().position(|vm| vm == "web");
        assert!(turn.is_some_and(|turn| turn <= 2), "{turn:?}");
    }

    #[test]
    fn however_many_vmms_make_incidents_the_kernels_own_do_not_wait_for_all_of_them() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let program = script(dir.path(), &format!("echo $POISONTRACE_VM >>{}", out.display()));
        let forged = (100..400).map(|pid| (HookEvent::Open, incident_of(pid, "forged")));
        let mut triggers: Vec<_> = forged.collect();
        let mut named = incident_of(8, "web");
        named.page.pfn = Some(poisontrace_model::hex::Hex(0x1234));
        triggers.push((HookEvent::Open, named));
        run_all(settings(vec![program]), &triggers, triggers.len());
        let ran = fs::read_to_string(out).unwrap();
        let turn = ran.lines().position(|vm| vm == "web");
        assert!(turn.is_some_and(|turn| turn <= 2), "{turn:?}");
    }

    #[test]
    fn a_program_that_hangs_is_killed_with_children_of_other_sessions() {
        let dir = tempfile::tempdir().unwrap();
        let marker = dir.path().join("marker");
        let program = script(
            dir.path(),
            &format!("(setsid sh -c 'sleep 3; touch {}' &); sleep 60", marker.display()),
        );
        let ended = run(settings(vec![program]), &[HookEvent::Close], 1);
        assert_eq!(ended, [Ended::Timeout]);
        std::thread::sleep(Duration::from_secs(3));
        assert!(!marker.exists());
    }
}
