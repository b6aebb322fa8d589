//! Binding one program: load, attach, detach, unload.

use std::{io, path::Path};

use aya::{
    Btf,
    programs::{
        Program, ProgramError,
        fentry::FEntryLinkId,
        fexit::FExitLinkId,
        kprobe::KProbeLinkId,
        links::{FdLink, LinkError, PinnedLink},
        raw_trace_point::RawTracePointLinkId,
    },
};

use super::tracepoint::TracepointEvent;
use poisontrace_kernel_facts::plan::Binding;

/// What keeps a program attached.
pub enum Link {
    RawTracepoint(RawTracePointLinkId),
    Fentry(FEntryLinkId),
    Fexit(FExitLinkId),
    Kprobe(KProbeLinkId),
    /// Outlives the daemon.
    Pinned(PinnedLink),
    /// A tracepoint's event that got its program.
    Tracepoint(TracepointEvent),
}

/// Loads the program, unless it is loaded.
pub fn load(program: &mut Program, btf: &Btf, binding: &Binding) -> Result<(), ProgramError> {
    let loaded = match (program, binding) {
        (Program::TracePoint(program), _) => program.load(),
        (Program::RawTracePoint(program), _) => program.load(),
        (Program::FEntry(program), Binding::Fentry(function)) => program.load(function, btf),
        (Program::FExit(program), Binding::Fexit(function)) => program.load(function, btf),
        (Program::KProbe(program), _) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    };
    match loaded {
        Err(ProgramError::AlreadyLoaded) => Ok(()),
        other => other,
    }
}

/// Loads the program, unless it is loaded, and attaches it. `path`: where its link is pinned, so that the program stays
/// attached when the daemon dies; where the kernel has no links for perf events (before 5.15) it does not.
pub fn bind(
    program: &mut Program,
    btf: &Btf,
    binding: &Binding,
    path: Option<&Path>,
) -> Result<Link, ProgramError> {
    load(program, btf, binding)?;
    if let Binding::Tracepoint { group, name } = binding {
        let event = TracepointEvent::open(group, name).map_err(ProgramError::IOError)?;
        return match path.filter(|_| aya::features().bpf_perf_link()) {
            Some(path) => {
                event.pin(program, path)?;
                PinnedLink::from_pin(path).map(Link::Pinned).map_err(by_link)
            }
            None => {
                event.attach(program)?;
                Ok(Link::Tracepoint(event))
            }
        };
    }
    let link = attach(program, binding)?;
    match path {
        Some(path) => pin(program, link, path),
        None => Ok(link),
    }
}

fn attach(program: &mut Program, binding: &Binding) -> Result<Link, ProgramError> {
    Ok(match (program, binding) {
        (Program::RawTracePoint(program), Binding::RawTracepoint(name)) => {
            Link::RawTracepoint(program.attach(name)?)
        }
        (Program::FEntry(program), Binding::Fentry(_)) => Link::Fentry(program.attach()?),
        (Program::FExit(program), Binding::Fexit(_)) => Link::Fexit(program.attach()?),
        (Program::KProbe(program), Binding::Kprobe(function) | Binding::Kretprobe(function)) => {
            Link::Kprobe(program.attach(function, 0)?)
        }
        _ => return Err(ProgramError::UnexpectedProgramType),
    })
}

/// If it cannot be pinned it is detached.
fn pin(program: &mut Program, link: Link, path: &Path) -> Result<Link, ProgramError> {
    if matches!(link, Link::Kprobe(_)) && !aya::features().bpf_perf_link() {
        return Ok(link);
    }
    let taken: FdLink = match (program, link) {
        (Program::KProbe(program), Link::Kprobe(id)) => program.take_link(id)?.try_into().map_err(by_link)?,
        (Program::RawTracePoint(program), Link::RawTracepoint(id)) => program.take_link(id)?.into(),
        (Program::FEntry(program), Link::Fentry(id)) => program.take_link(id)?.into(),
        (Program::FExit(program), Link::Fexit(id)) => program.take_link(id)?.into(),
        (_, link) => return Ok(link),
    };
    taken
        .pin(path)
        .map(Link::Pinned)
        .map_err(|err| ProgramError::IOError(io::Error::other(chain(&err))))
}

fn by_link(err: LinkError) -> ProgramError {
    ProgramError::IOError(io::Error::other(err))
}

/// Detaches; the program stays loaded.
pub fn detach(program: &mut Program, link: Link) -> Result<(), ProgramError> {
    match (program, link) {
        // Closed here.
        (_, Link::Tracepoint(_)) => Ok(()),
        (_, Link::Pinned(link)) => {
            link.unpin().map_err(ProgramError::IOError)?;
            Ok(())
        }
        (Program::RawTracePoint(program), Link::RawTracepoint(link)) => program.detach(link),
        (Program::FEntry(program), Link::Fentry(link)) => program.detach(link),
        (Program::FExit(program), Link::Fexit(link)) => program.detach(link),
        (Program::KProbe(program), Link::Kprobe(link)) => program.detach(link),
        _ => Ok(()),
    }
}

/// Unloads a program, which detaches it. That it was not loaded is fine: the failure may have been the load.
pub fn unload(program: &mut Program) {
    let _ = match program {
        Program::TracePoint(program) => program.unload(),
        Program::RawTracePoint(program) => program.unload(),
        Program::FEntry(program) => program.unload(),
        Program::FExit(program) => program.unload(),
        Program::KProbe(program) => program.unload(),
        _ => Ok(()),
    };
}

/// How much the kernel made of a program.
pub struct Size {
    pub program: &'static str,
    /// Instructions that the verifier went through; `None` before 5.16.
    pub verified: Option<u32>,
    /// Instructions after the verifier's rewriting.
    pub translated: Option<u32>,
}

/// Bytes of an instruction.
const INSTRUCTION: u32 = 8;

/// The size of a loaded program.
pub fn size(name: &'static str, program: &Program) -> Option<Size> {
    let info = program.info().ok()?;
    Some(Size {
        program: name,
        verified: info.verified_instruction_count(),
        translated: info.size_translated().map(|bytes| bytes / INSTRUCTION),
    })
}

/// An error and its causes on one line, without the verifier's log.
pub fn chain(err: &(dyn std::error::Error + 'static)) -> String {
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
    poisontrace_model::text::sanitise(text.lines().next().unwrap_or_default().trim(), 300)
}
