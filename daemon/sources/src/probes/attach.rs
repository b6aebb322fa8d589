//! Attaches the programs of one alternative.

use aya::{Btf, Ebpf};

use super::binding::{self, Link, chain};
use crate::probes::bpffs::Pins;
use poisontrace_kernel_facts::plan::Attach;

/// Attaches all of an alternative, or none of it.
pub fn attach_all(
    ebpf: &mut Ebpf,
    btf: &Btf,
    alternative: &[Attach],
    pins: Option<&Pins>,
) -> Result<Vec<(&'static str, Link)>, String> {
    let mut links = Vec::new();
    for (done, attach) in alternative.iter().enumerate() {
        match attach_one(ebpf, btf, attach, pins) {
            Ok(link) => links.push((attach.program, link)),
            Err(reason) => {
                // Links that are pinned are kept by their files.
                for (name, link) in links {
                    if let Some(program) = ebpf.program_mut(name) {
                        let _ = binding::detach(program, link);
                    }
                }
                for earlier in &alternative[..=done] {
                    if let Some(program) = ebpf.program_mut(earlier.program) {
                        binding::unload(program);
                    }
                }
                return Err(format!("{}: {reason}", attach.binding));
            }
        }
    }
    Ok(links)
}

fn attach_one(ebpf: &mut Ebpf, btf: &Btf, attach: &Attach, pins: Option<&Pins>) -> Result<Link, String> {
    let program = ebpf
        .program_mut(attach.program)
        .ok_or_else(|| format!("no program {}", attach.program))?;
    let path = pins.map(|pins| pins.link(attach.program));
    binding::bind(program, btf, &attach.binding, path.as_deref()).map_err(|err| {
        tracing::debug!(program = attach.program, error = ?err, "not attached");
        chain(&err)
    })
}
