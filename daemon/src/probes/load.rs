//! Carries an attach plan out.

use aya::{
    Btf, Ebpf, EbpfLoader,
    programs::{FEntry, FExit, KProbe, Program, ProgramError, TracePoint},
};

use crate::{
    event::session::ProbeStatus,
    kernel::plan::{Attach, Binding, Plan, Row},
};

/// The object that `cargo xtask build` made; empty in a build without it.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/probes.o"));

/// Why nothing could be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("this poisontrace was built without its BPF programs: build it with `cargo xtask build`")]
    NotBuiltIn,
    #[error("cannot load the BPF object: {0}")]
    Object(String),
    #[error("cannot read the kernel's BTF: {0}")]
    Btf(String),
    #[error("no probe could be attached; the first reason: {0}")]
    Nothing(String),
    #[error("the BPF object has no map {0}: the binary and its probes do not belong together")]
    Map(&'static str),
}

/// Loaded and attached programs. Dropping it detaches them all.
pub struct Loaded {
    pub ebpf: Ebpf,
    /// One row each, in the plan's order.
    pub probes: Vec<ProbeStatus>,
}

/// Loads the object and attaches all that the plan offers. A row whose alternatives all fail is reported and
/// left out.
///
/// `armed`: arm from the start, for poison that predates the daemon. `log_level`: of the probes' own
/// diagnostics, as `aya_log::Level` (0: none).
///
/// # Errors
/// If the object cannot be loaded, or nothing at all can be attached.
pub fn attach(plan: &Plan, armed: bool, log_level: u8) -> Result<Loaded, LoadError> {
    if OBJECT.is_empty() {
        return Err(LoadError::NotBuiltIn);
    }
    attach_object(OBJECT, plan, armed, log_level)
}

/// The same with another object of these programs: what they cost is measured beside empty ones.
///
/// # Errors
/// As [`attach`].
pub fn attach_object(object: &[u8], plan: &Plan, armed: bool, log_level: u8) -> Result<Loaded, LoadError> {
    let btf = Btf::from_sys_fs().map_err(|err| LoadError::Btf(chain(&err)))?;
    let armed = u32::from(armed);
    let mut loader = EbpfLoader::new();
    loader.btf(Some(&btf));
    loader.override_global("ARMED", &armed, true);
    loader.override_global(aya_log::LEVEL, &log_level, false);
    for (name, offset) in &plan.offsets {
        loader.override_global(name, offset, true);
    }
    let mut ebpf = loader
        .load(object)
        .map_err(|err| LoadError::Object(chain(&err)))?;
    let probes: Vec<ProbeStatus> = plan
        .rows
        .iter()
        .map(|row| attach_row(&mut ebpf, &btf, row))
        .collect();
    if probes.iter().all(|probe| probe.binding.is_none()) {
        let why = probes
            .iter()
            .find_map(|probe| probe.why.clone())
            .unwrap_or_default();
        return Err(LoadError::Nothing(why));
    }
    Ok(Loaded { ebpf, probes })
}

fn attach_row(ebpf: &mut Ebpf, btf: &Btf, row: &Row) -> ProbeStatus {
    let mut reasons = row.reasons.clone();
    for alternative in &row.alternatives {
        match attach_all(ebpf, btf, alternative) {
            Ok(()) => {
                let bindings: Vec<String> = alternative.iter().map(|a| a.binding.to_string()).collect();
                reasons.extend(row.partial.iter().cloned());
                let first_choice = row.alternatives.first() == Some(alternative) && row.partial.is_empty();
                return ProbeStatus {
                    name: row.name.to_owned(),
                    binding: Some(bindings.join(", ")),
                    why: (!first_choice).then(|| reasons.join("; ")),
                    lost: None,
                };
            }
            Err(reason) => reasons.push(reason),
        }
    }
    ProbeStatus {
        name: row.name.to_owned(),
        binding: None,
        why: Some(reasons.join("; ")),
        lost: Some(row.lost.to_owned()),
    }
}

/// Attaches all of an alternative, or none of it.
fn attach_all(ebpf: &mut Ebpf, btf: &Btf, alternative: &[Attach]) -> Result<(), String> {
    for (done, attach) in alternative.iter().enumerate() {
        if let Err(reason) = attach_one(ebpf, btf, attach) {
            for earlier in &alternative[..=done] {
                if let Some(program) = ebpf.program_mut(earlier.program) {
                    unload(program);
                }
            }
            return Err(format!("{}: {reason}", attach.binding));
        }
    }
    Ok(())
}

/// Unloads a program, which detaches it. That it was not loaded is fine: the failure may have been the load.
fn unload(program: &mut Program) {
    let _ = match program {
        Program::TracePoint(program) => program.unload(),
        Program::FEntry(program) => program.unload(),
        Program::FExit(program) => program.unload(),
        Program::KProbe(program) => program.unload(),
        _ => Ok(()),
    };
}

fn attach_one(ebpf: &mut Ebpf, btf: &Btf, attach: &Attach) -> Result<(), String> {
    let program = ebpf
        .program_mut(attach.program)
        .ok_or_else(|| format!("no program {}", attach.program))?;
    bind(program, btf, &attach.binding).map_err(|err| {
        tracing::debug!(program = attach.program, error = ?err, "not attached");
        chain(&err)
    })
}

fn bind(program: &mut Program, btf: &Btf, binding: &Binding) -> Result<(), ProgramError> {
    match binding {
        Binding::Tracepoint { group, name } => {
            let program: &mut TracePoint = program.try_into()?;
            program.load()?;
            program.attach(group, name)?;
        }
        Binding::Fentry(function) => {
            let program: &mut FEntry = program.try_into()?;
            program.load(function, btf)?;
            program.attach()?;
        }
        Binding::Fexit(function) => {
            let program: &mut FExit = program.try_into()?;
            program.load(function, btf)?;
            program.attach()?;
        }
        Binding::Kprobe(function) | Binding::Kretprobe(function) => {
            let program: &mut KProbe = program.try_into()?;
            program.load()?;
            program.attach(function, 0)?;
        }
    }
    Ok(())
}

/// An error and its causes on one line, without the verifier's log.
fn chain(err: &(dyn std::error::Error + 'static)) -> String {
    if let Some(ProgramError::LoadError { io_error, .. }) = err.downcast_ref() {
        return format!("the kernel refuses it: {io_error}");
    }
    let mut text = first_line(&err.to_string());
    let mut cause = err.source();
    while let Some(err) = cause {
        let line = first_line(&err.to_string());
        if !text.ends_with(&line) {
            text = format!("{text}: {line}");
        }
        cause = err.source();
    }
    text
}

fn first_line(text: &str) -> String {
    crate::text::sanitise(text.lines().next().unwrap_or_default().trim(), 300)
}
