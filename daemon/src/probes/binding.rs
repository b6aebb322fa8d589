//! Binding one program: load, attach, detach, unload.

use aya::{
    Btf,
    programs::{
        FEntry, FExit, KProbe, Program, ProgramError, RawTracePoint, TracePoint, fentry::FEntryLinkId,
        fexit::FExitLinkId, kprobe::KProbeLinkId, raw_trace_point::RawTracePointLinkId,
        trace_point::TracePointLinkId,
    },
};

use crate::kernel::plan::Binding;

/// What keeps a program attached.
pub enum Link {
    Tracepoint(TracePointLinkId),
    RawTracepoint(RawTracePointLinkId),
    Fentry(FEntryLinkId),
    Fexit(FExitLinkId),
    Kprobe(KProbeLinkId),
}

/// Loads the program, unless it is loaded, and attaches it.
pub fn bind(program: &mut Program, btf: &Btf, binding: &Binding) -> Result<Link, ProgramError> {
    let loaded = |result| match result {
        Err(ProgramError::AlreadyLoaded) => Ok(()),
        other => other,
    };
    Ok(match binding {
        Binding::Tracepoint { group, name } => {
            let program: &mut TracePoint = program.try_into()?;
            loaded(program.load())?;
            Link::Tracepoint(program.attach(group, name)?)
        }
        Binding::RawTracepoint(name) => {
            let program: &mut RawTracePoint = program.try_into()?;
            loaded(program.load())?;
            Link::RawTracepoint(program.attach(name)?)
        }
        Binding::Fentry(function) => {
            let program: &mut FEntry = program.try_into()?;
            loaded(program.load(function, btf))?;
            Link::Fentry(program.attach()?)
        }
        Binding::Fexit(function) => {
            let program: &mut FExit = program.try_into()?;
            loaded(program.load(function, btf))?;
            Link::Fexit(program.attach()?)
        }
        Binding::Kprobe(function) | Binding::Kretprobe(function) => {
            let program: &mut KProbe = program.try_into()?;
            loaded(program.load())?;
            Link::Kprobe(program.attach(function, 0)?)
        }
    })
}

/// Detaches; the program stays loaded.
pub fn detach(program: &mut Program, link: Link) -> Result<(), ProgramError> {
    match (program, link) {
        (Program::TracePoint(program), Link::Tracepoint(link)) => program.detach(link),
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
    crate::text::sanitise(text.lines().next().unwrap_or_default().trim(), 300)
}
