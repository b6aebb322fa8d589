//! Reading a guest's code, where the operator allows it (`--read-guest-code`): at most 15 bytes at the RIP of a poison
//! exit, and the page-table entries on the way. Never written to, never held.
//!
//! The registers are those that the VMM itself fetches after the SIGBUS; memory is read through the VMM's mappings of its
//! guest, by the memslots that KVM has of it at that moment.

mod memory;
mod walk;

use std::collections::BTreeMap;

use memory::{GuestMemory, Slot};
use poisontrace_model::event::{Event, EventKind, Sregs};
use poisontrace_probes::memslots::MAX_SLOTS;

/// Longest x86 instruction.
const MAX_INSN: usize = 15;
/// Threads whose last poison exit is remembered, and RIPs that have been read.
const MAX_KNOWN: usize = 4096;

/// The last poison exit of a thread.
#[derive(Clone, Copy)]
struct LastExit {
    rip: u64,
    gpa: u64,
    hva: u64,
}

/// See the module.
#[derive(Default)]
pub struct CodeReader {
    last: BTreeMap<u32, LastExit>,
    /// The memslots of each VMM.
    slots: BTreeMap<u32, Vec<Slot>>,
    /// RIPs of a VMM that have been tried.
    tried: BTreeMap<(u32, u64), ()>,
}

impl CodeReader {
    /// Takes an event, and returns the code event that follows from it, if any.
    pub fn take(&mut self, event: &Event) -> Option<Event> {
        match &event.what {
            EventKind::PoisonExit(exit) => {
                // With the processor's own bytes there is nothing to read.
                if let (None, Some(rip), Some(gpa), Some(hva)) = (&exit.insn, exit.rip, exit.gpa, exit.hva) {
                    if self.last.len() >= MAX_KNOWN {
                        self.last.pop_first();
                    }
                    self.last.insert(
                        event.tid,
                        LastExit {
                            rip: rip.0,
                            gpa: gpa.0,
                            hva: hva.0,
                        },
                    );
                }
                None
            }
            EventKind::MemSlot { n, gpa, bytes, hva } => {
                if self.slots.len() >= MAX_KNOWN && !self.slots.contains_key(&event.pid) {
                    self.slots.pop_first();
                }
                let slots = self.slots.entry(event.pid).or_default();
                if *n == 0 {
                    slots.clear();
                }
                if slots.len() < MAX_SLOTS as usize {
                    slots.push(Slot {
                        gpa: gpa.0,
                        bytes: *bytes,
                        hva: hva.0,
                    });
                }
                None
            }
            EventKind::Sregs(sregs) => self.read(event, sregs),
            EventKind::VmDestroyed => {
                self.slots.remove(&event.pid);
                self.tried.retain(|(pid, _), ()| *pid != event.pid);
                None
            }
            _ => None,
        }
    }

    fn read(&mut self, event: &Event, sregs: &Sregs) -> Option<Event> {
        let exit = self.last.remove(&event.tid)?;
        if self.tried.len() >= MAX_KNOWN {
            self.tried.pop_first();
        }
        if self.tried.insert((event.pid, exit.rip), ()).is_some() {
            return None;
        }
        let slots = self.slots.get(&event.pid).map_or(&[][..], Vec::as_slice);
        match code(event.pid, slots, exit, sregs) {
            Ok(bytes) => {
                let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                let what = EventKind::GuestCode {
                    rip: poisontrace_model::hex::Hex(exit.rip),
                    bytes: hex,
                };
                Some(Event {
                    t: event.t,
                    tid: event.tid,
                    pid: event.pid,
                    vcpu: event.vcpu,
                    what,
                })
            }
            Err(problem) => {
                tracing::info!(pid = event.pid, rip = %poisontrace_model::hex::Hex(exit.rip), "the guest's code is not readable: {problem}");
                None
            }
        }
    }
}

/// Why guest code cannot be read.
#[derive(Debug, thiserror::Error)]
enum CodeError {
    #[error("{0}")]
    Memory(#[from] memory::MemoryError),
    #[error("{0}")]
    Walk(#[from] walk::WalkError),
}

fn code(pid: u32, slots: &[Slot], exit: LastExit, sregs: &Sregs) -> Result<Vec<u8>, CodeError> {
    const PAGE: u64 = 4096;
    let memory = GuestMemory::open(pid, slots, exit.gpa & !(PAGE - 1), exit.hva & !(PAGE - 1))?;
    let mut bytes = Vec::with_capacity(MAX_INSN);
    while bytes.len() < MAX_INSN {
        let at = exit.rip.wrapping_add(bytes.len() as u64);
        let in_page = usize::try_from(PAGE - at % PAGE).unwrap_or(MAX_INSN);
        let part = (MAX_INSN - bytes.len()).min(in_page);
        let read = walk::translate(at, sregs, |gpa| memory.word(gpa))
            .map_err(CodeError::from)
            .and_then(|gpa| {
                let mut buffer = vec![0; part];
                memory.read(gpa, &mut buffer)?;
                Ok(buffer)
            });
        match read {
            Ok(part) => bytes.extend(part),
            // An instruction that ends before the page does needs no next one.
            Err(_) if !bytes.is_empty() => break,
            Err(err) => return Err(err),
        }
    }
    Ok(bytes)
}
