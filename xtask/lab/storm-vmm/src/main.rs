//! A VMM just large enough for a storm: one vCPU whose guest walks over a page that the VMM has poisoned.
//! It counts for itself what poisontrace must find out from outside.

mod rounds;
mod sigbus;
mod sregs;

use std::collections::BTreeSet;
use std::io::{Write, stdout};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kvm_ioctls::VcpuExit;
use lab_protocol::storm::{Counters, Mode, Poison, StormPlan};

use storm_vmm::dram;
use storm_vmm::guest::{BARE_EXITS_DONE, DONE, FLUSHED, Guest, MACHINE_CHECK, POISON_ME};
use storm_vmm::machine::Machine;
use storm_vmm::memory::{Memory, PAGE};

use sigbus::{Code, Sigbus};

/// KVM_RUNs that are timed.
const TIMED: usize = 4096;
/// After the poison: the bare exits are known by the exit reasons, which nobody reads before there is poison.
const SETTLE: Duration = Duration::from_millis(300);
const AFTERLIFE: Duration = Duration::from_millis(300);

fn main() -> Result<()> {
    let argument = std::env::args()
        .nth(1)
        .context("usage: storm-vmm <plan as JSON>")?;
    sigbus::handle()?;
    if let Ok(plan) = serde_json::from_str(&argument) {
        return rounds::measure(plan);
    }
    let plan: StormPlan = serde_json::from_str(&argument).context("the plan is not readable")?;
    if plan.mode != Mode::Swallow || plan.exits <= TIMED as u64 {
        keep_the_processor()?;
    }
    let ended = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(libc::SIGTERM, Arc::clone(&ended)).context("cannot handle SIGTERM")?;
    let enough = Arc::new(AtomicBool::new(!plan.until_signal));
    signal_hook::flag::register(libc::SIGUSR1, Arc::clone(&enough)).context("cannot handle SIGUSR1")?;
    let mut memory = if plan.pinned {
        Memory::pinned()?
    } else {
        Memory::map()?
    };
    let guest = Guest::write(&mut memory, plan)?;
    let machine = Machine::create(&memory, plan)?;
    let mut run = Run {
        plan,
        memory,
        guest,
        machine,
        rips: BTreeSet::new(),
        run_ns: Vec::new(),
        counters: Counters::default(),
        machine_checks_before: 0,
        ended,
        enough,
    };
    let outcome = run.go_on();
    if outcome.is_err() {
        // Its counts until then stay true.
        run.report()?;
    }
    outcome?;
    // A real VMM lives on for a while; on the emulated host's one processor its witness reads guest memory then.
    std::thread::sleep(AFTERLIFE);
    // QEMU too leaves its VM to the kernel's clearing up; closing the VM first and living on is no VMM's way.
    std::mem::forget(run);
    Ok(())
}

/// Nothing else runs in between: on the emulated host's one processor the witness would, and its time would be taken for
/// the exits'. A storm that fills the witness's buffer must let it.
fn keep_the_processor() -> Result<()> {
    let first = libc::sched_param { sched_priority: 1 };
    // SAFETY: the kernel reads the structure only.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const first) } != 0 {
        return Err(std::io::Error::last_os_error()).context("sched_setscheduler(SCHED_FIFO)");
    }
    Ok(())
}

struct Run {
    plan: StormPlan,
    memory: Memory,
    guest: Guest,
    machine: Machine,
    rips: BTreeSet<u64>,
    run_ns: Vec<u64>,
    counters: Counters,
    /// Machine checks that poison in DRAM had raised before this storm.
    machine_checks_before: u32,
    /// SIGTERM has come.
    ended: Arc<AtomicBool>,
    /// The storm may end at the plan's number of exits.
    enough: Arc<AtomicBool>,
}

/// The guest's request to the VMM.
enum Call {
    Port(u16),
    Interrupted,
    Other(String),
}

impl Run {
    fn go_on(&mut self) -> Result<()> {
        loop {
            ensure!(
                !self.ended.load(Ordering::Relaxed),
                "SIGTERM came before the guest was done"
            );
            let started = Instant::now();
            let call = match self.machine.vcpu.run() {
                Ok(VcpuExit::IoOut(port, _)) => Call::Port(port),
                Ok(other) => Call::Other(format!("{other:?}")),
                Err(error) if error.errno() == libc::EINTR => Call::Interrupted,
                Err(error) => return Err(error).context("KVM_RUN"),
            };
            let took = started.elapsed();
            if let Some(signal) = sigbus::take() {
                ensure!(
                    matches!(call, Call::Interrupted),
                    "SIGBUS came while the guest did something else"
                );
                if self.consumed(&signal)? {
                    continue;
                }
                if self.run_ns.len() < TIMED {
                    self.run_ns.push(u64::try_from(took.as_nanos())?);
                }
                self.on_sigbus(signal)?;
                if self.plan.mode == Mode::Swallow
                    && self.counters.exits >= self.plan.exits
                    && self.enough.load(Ordering::Relaxed)
                {
                    return self.report();
                }
                continue;
            }
            match call {
                Call::Interrupted | Call::Port(BARE_EXITS_DONE) => {}
                Call::Port(POISON_ME) => {
                    self.poison()?;
                    // A guest that walks on at once must be seen as well.
                    if self.plan.mode != Mode::WalkThenRead {
                        std::thread::sleep(SETTLE);
                    }
                }
                Call::Port(FLUSHED) => {
                    self.counters.flush_machine_checks = self.machine_checks()?;
                }
                Call::Port(MACHINE_CHECK) => self.counters.handled += 1,
                Call::Port(DONE) => {
                    self.counters.finished = true;
                    return self.report();
                }
                Call::Port(port) => bail!("the guest wrote to port {port:#x}"),
                Call::Other(exit) => {
                    let rip = self.machine.vcpu.get_regs().map_or(0, |regs| regs.rip);
                    bail!("unexpected {exit} at RIP {rip:#x}");
                }
            }
        }
    }

    fn poison(&mut self) -> Result<()> {
        let page = Guest::poisoned(self.plan.page);
        self.counters.gpa = page;
        self.counters.hva = self.memory.host(page);
        self.counters.pfn = self.memory.page_frame(page)?;
        if self.plan.poison == Poison::Dram {
            self.machine_checks_before = dram::consumed()?;
            return dram::poison(self.counters.pfn * PAGE);
        }
        self.memory.poison(page)?;
        // Poisoning its own memory gets a process a signal at once: action optional up to Linux 6.9, required from 6.11.
        if let Some(signal) = sigbus::take() {
            let name = match signal.code {
                Code::ActionRequired => "AR",
                Code::ActionOptional => "AO",
                Code::Other(_) => "other",
            };
            self.counters.sigbus_while_poisoning.push(name.to_owned());
        }
        Ok(())
    }

    fn machine_checks(&self) -> Result<u32> {
        Ok(dram::consumed()? - self.machine_checks_before)
    }

    /// The guest has consumed the poison, if that is what the signal came of: then it gets the machine check that QEMU gives
    /// it. There is poison from here on, and who looks on has time to see to it.
    fn consumed(&mut self, signal: &Sigbus) -> Result<bool> {
        let rip = self.machine.vcpu.get_regs().context("KVM_GET_REGS")?.rip;
        if !self.guest.consumes(rip) {
            return Ok(false);
        }
        if self.plan.pinned && matches!(signal.code, Code::Other(_)) {
            self.counters.sigbus_plain += 1;
            self.counters.consumed += 1;
            self.counters.consumed_rip = rip;
            self.counters.machine_checks = self.machine_checks()?;
            self.report()?;
            // The kernel gives the memory to somebody else, who is not to die of it.
            dram::heal(self.counters.pfn * PAGE)?;
            // As QEMU does with a SIGBUS that names no page.
            sigbus::die()?;
        }
        ensure!(
            signal.code == Code::ActionRequired
                && signal.address - signal.address % PAGE == self.counters.hva,
            "the guest consumed poison, and SIGBUS is of {:#x}",
            signal.address
        );
        self.counters.sigbus_ar += 1;
        self.counters.consumed += 1;
        self.counters.consumed_rip = rip;
        self.counters.injected += 1;
        self.counters.machine_checks = self.machine_checks()?;
        std::thread::sleep(SETTLE);
        self.machine.inject(self.counters.gpa)?;
        Ok(true)
    }

    fn on_sigbus(&mut self, signal: Sigbus) -> Result<()> {
        // As QEMU does before it decides anything.
        let mut regs = self.machine.vcpu.get_regs().context("KVM_GET_REGS")?;
        self.counters.sregs2 += u64::from(sregs::read(&self.machine.vcpu, self.plan.sregs2)?);
        match signal.code {
            Code::ActionRequired => self.counters.sigbus_ar += 1,
            Code::ActionOptional => self.counters.sigbus_ao += 1,
            Code::Other(code) => bail!("SIGBUS with code {code}"),
        }
        // The signal has the page; the guest's address register has the line.
        let page = signal.address - signal.address % PAGE;
        ensure!(
            page == self.counters.hva,
            "SIGBUS of {:#x}, which was not poisoned",
            signal.address
        );
        self.counters.exits += 1;
        self.counters.line_bitmap |= 1 << Guest::line(self.plan.page, regs.rdi);
        self.rips.insert(regs.rip);
        match self.plan.mode {
            Mode::StepOver | Mode::WalkThenRead | Mode::WalkThenWrite => {
                regs.rip = self.guest.after(regs.rip)?;
                self.machine.vcpu.set_regs(&regs).context("KVM_SET_REGS")
            }
            Mode::Inject => {
                self.counters.injected += 1;
                self.machine.inject(self.counters.gpa)
            }
            Mode::Swallow => Ok(()),
            Mode::Die => {
                self.report()?;
                sigbus::die()
            }
        }
    }

    /// The only line on standard output.
    fn report(&mut self) -> Result<()> {
        self.counters.distinct_rips = self.rips.len() as u64;
        self.run_ns.sort_unstable();
        self.counters.run_ns = self.run_ns.get(self.run_ns.len() / 2).copied().unwrap_or(0);
        let mut out = stdout().lock();
        serde_json::to_writer(&mut out, &self.counters)?;
        writeln!(out)?;
        out.flush().context("cannot write the counters")
    }
}
