//! The cost of the programs on this machine's own kernel, in its own time.

mod drain;
pub mod idle;
mod image;
mod report;
mod synthetic_exits;
mod tracefs;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use aya::Btf;
use aya::programs::Program;
use aya::sys::{Stats, enable_stats};
use poisontrace_kernel_facts::{facts::Facts, plan::Plan};
use poisontrace_sources::probes::binding;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use synthetic_exits::{ARMED, FAULT, Hook, POISON, Played, Poison, STANDBY};

/// Calls of one round, and rounds: the fastest is reported.
const CALLS: u64 = 200_000;
const ROUNDS: u32 = 7;
/// Three records each, and the ring buffer holds some more.
const POISON_CALLS: u64 = 2_000;
const POISON_ROUNDS: u32 = 50;
const HVA: u64 = 0x7f00_0000_0000;

#[derive(clap::Args)]
pub struct Options {
    #[arg(long)]
    object: PathBuf,
    /// The same programs, empty
    #[arg(long)]
    empty: PathBuf,
    #[arg(long)]
    json: PathBuf,
}

/// All measurements.
#[derive(Serialize)]
struct Machine {
    kernel: String,
    processor: String,
    sizes: Vec<Sizes>,
    ways: Vec<Way>,
    drain: drain::Drain,
}

#[derive(Serialize)]
struct Sizes {
    program: String,
    /// `None`: this kernel does not load it.
    size: Option<image::Size>,
    empty: Option<image::Size>,
}

/// The way of an exit, played by a system call; ns a call.
#[derive(Serialize)]
struct Way {
    name: &'static str,
    nothing: f64,
    empty: f64,
    ours: f64,
    /// Each program's own time, by the kernel's statistics.
    runs: Vec<Run>,
}

#[derive(Serialize)]
struct Run {
    program: &'static str,
    on: &'static str,
    empty: f64,
    ours: f64,
}

pub fn run(options: &Options) -> Result<()> {
    tracefs::ensure()?;
    synthetic_exits::ignore_sigbus(true)?;
    let facts = Facts::of_this_kernel().map_err(|error| anyhow!("{error}"))?;
    let machine = Machine {
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        processor: processor()?,
        sizes: sizes(options, &facts)?,
        ways: [
            ("no poison", &STANDBY[..], State::Idle),
            ("another VM's poison", &ARMED[..], State::Armed),
            ("this VM's poison, an exit not on it", &ARMED[..], State::Victim),
            (
                "this VM's poison, a page fault not on it",
                &FAULT[..],
                State::Victim,
            ),
            (
                "an exit on poison, its three records sent",
                &POISON[..],
                State::Poison,
            ),
        ]
        .into_iter()
        .map(|(name, hooks, state)| way(name, hooks, state, options, &facts).context(name))
        .collect::<Result<_>>()?,
        drain: drain::measure(&options.object, &facts).context("the ring buffer's drain")?,
    };
    std::fs::write(&options.json, serde_json::to_string_pretty(&machine)? + "\n")
        .with_context(|| format!("cannot write {}", options.json.display()))?;
    print!("{}", machine.markdown());
    Ok(())
}

fn processor() -> Result<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("model name"));
    Ok(line
        .unwrap_or_default()
        .trim_start_matches([' ', '\t', ':'])
        .to_owned())
}

fn sizes(options: &Options, facts: &Facts) -> Result<Vec<Sizes>> {
    let mut ours = Played::load(&options.object, facts, false)?;
    let mut empty = Played::load(&options.empty, facts, false)?;
    let btf = Btf::from_sys_fs()?;
    let plan = Plan::new(facts, true);
    let mut names: Vec<String> = ours
        .loaded
        .ebpf
        .programs()
        .map(|(name, _)| name.to_owned())
        .collect();
    names.sort();
    let of = |played: &mut Played, name: &str| -> Result<Option<image::Size>> {
        let program = played
            .loaded
            .ebpf
            .program_mut(name)
            .with_context(|| format!("no program {name}"))?;
        load(program, name, &plan, &btf)
            .then(|| image::size(program))
            .transpose()
    };
    names
        .into_iter()
        .map(|program| {
            Ok(Sizes {
                size: of(&mut ours, &program)?,
                empty: of(&mut empty, &program)?,
                program,
            })
        })
        .collect()
}

/// Whether this kernel takes it.
fn load(program: &mut Program, name: &str, plan: &Plan, btf: &Btf) -> bool {
    match program {
        Program::TracePoint(program) => program.load().is_ok(),
        Program::RawTracePoint(program) => program.load().is_ok(),
        Program::KProbe(program) => program.load().is_ok(),
        other => {
            let mut offered = plan.rows.iter().flat_map(|row| row.offered()).flatten();
            let attach = offered.find(|attach| attach.program == name);
            attach.is_some_and(|attach| binding::load(other, btf, &attach.binding).is_ok())
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Armed,
    /// And this process has had poison.
    Victim,
    /// The calls themselves are exits on poison.
    Poison,
}

fn way(name: &'static str, hooks: &[Hook], state: State, options: &Options, facts: &Facts) -> Result<Way> {
    let poison = Poison::new(HVA);
    let nothing = match state {
        State::Poison => poison_calls(&poison, None)?,
        _ => calls(),
    };
    let (empty, empty_runs) = with(&options.empty, hooks, state, facts, &poison)?;
    let (ours, runs) = with(&options.object, hooks, state, facts, &poison)?;
    let runs = hooks
        .iter()
        .zip(empty_runs)
        .zip(runs)
        .map(|((hook, empty), ours)| Run {
            program: hook.program,
            on: hook.on,
            empty,
            ours,
        });
    Ok(Way {
        name,
        nothing,
        empty,
        ours,
        runs: runs.collect(),
    })
}

/// ns a call, and ns a run of each program.
fn with(
    object: &Path,
    hooks: &[Hook],
    state: State,
    facts: &Facts,
    poison: &Poison,
) -> Result<(f64, Vec<f64>)> {
    if state == State::Victim {
        let mut played = Played::load(object, facts, true)?;
        let signal = POISON[2];
        played.attach(&[signal])?;
        poison.exit(0)?;
        played.detach(&signal)?;
        return measured(&mut played, hooks, || Ok(calls()));
    }
    let mut played = Played::load(object, facts, state != State::Idle)?;
    if state == State::Poison {
        let mut drain = drain::Ring::of(&mut played.loaded)?;
        return measured(&mut played, hooks, || poison_calls(poison, Some(&mut drain)));
    }
    measured(&mut played, hooks, || Ok(calls()))
}

fn measured(
    played: &mut Played,
    hooks: &[Hook],
    mut round: impl FnMut() -> Result<f64>,
) -> Result<(f64, Vec<f64>)> {
    played.attach(hooks)?;
    let ns = round()?;
    let _statistics = enable_stats(Stats::RunTime)?;
    let before = played.costs(hooks)?;
    round()?;
    let after = played.costs(hooks)?;
    let runs = before.iter().zip(&after).map(|(before, after)| {
        let runs = after.0 - before.0;
        (after.1 - before.1).as_nanos() as f64 / runs.max(1) as f64
    });
    Ok((ns, runs.collect()))
}

/// Of the fastest round, ns a call.
fn calls() -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let before = used();
        (0..CALLS).for_each(synthetic_exits::exit);
        best = best.min((used() - before).as_nanos() as f64 / CALLS as f64);
    }
    best
}

/// The same of exits on poison; what they send is taken out of the ring buffer between the rounds.
fn poison_calls(poison: &Poison, mut ring: Option<&mut drain::Ring>) -> Result<f64> {
    let mut best = f64::INFINITY;
    for round in 0..u64::from(POISON_ROUNDS) {
        let before = used();
        for n in 0..POISON_CALLS {
            poison.exit(round * POISON_CALLS + n)?;
        }
        best = best.min((used() - before).as_nanos() as f64 / POISON_CALLS as f64);
        if let Some(ring) = &mut ring {
            ring.drain()?;
        }
    }
    Ok(best)
}

/// Time that this thread has had of its processor.
fn used() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        time.tv_sec.cast_unsigned(),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}
