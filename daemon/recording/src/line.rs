//! An event out of its line of a recording. The three kinds that come by the million have a reader of their own: serde
//! buffers every field of a flattened enum, which takes several times as long.

mod written;

use poisontrace_model::event::Event;

/// Reads one line.
///
/// # Errors
/// What is not an event.
pub fn event(line: &str) -> serde_json::Result<Event> {
    match written::event(line) {
        Some(event) => Ok(event),
        None => serde_json::from_str(line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use poisontrace_model::event::{Access, Isa, OtherAddress, PoisonExit, SigbusSeverity, What};
    use poisontrace_model::hex::Hex;

    fn exit() -> PoisonExit {
        PoisonExit {
            exit_ns: Some(1),
            fault_ns: None,
            gup_ns: Some(3),
            gup_ret: Some(-133),
            signal_ns: Some(4),
            user_ns: None,
            entry_ns: Some(u64::MAX),
            rip: Some(Hex(0xffff_ffff_8100_0000)),
            gpa: None,
            other_address: Some(OtherAddress::Virtual(Hex(0x1000))),
            hva: Some(Hex(0x7f00_0000_0000)),
            access: Access::Write,
            isa: Isa::Svm,
            reason: 0x400,
            user_reason: None,
            user_errno: Some(-4),
            insn: Some("0fae3f".to_owned()),
        }
    }

    fn sigbus() -> What {
        What::Sigbus {
            hva: Hex(0x7f00_0000_0000),
            severity: SigbusSeverity::ActionRequired,
            lsb: 12,
            target_tid: 2,
            target_pid: 1,
            forced: true,
            comm: "a \"name\"\n".to_owned(),
        }
    }

    #[test]
    fn a_line_is_the_event_that_was_written_however_it_is_read() {
        let kinds = [
            What::PoisonExit(exit()),
            sigbus(),
            What::Reentry {
                exit_ns: 1,
                entry_ns: 2,
            },
            What::Delivered,
            What::FailureBegin {
                pfn: Hex(7),
                flags: 0,
            },
        ];
        for what in kinds {
            for vcpu in [None, Some(3)] {
                let written = Event {
                    t: 5,
                    tid: 2,
                    pid: 1,
                    vcpu,
                    what: what.clone(),
                };
                let line = serde_json::to_string(&written).unwrap();
                assert_eq!(event(&line).unwrap(), written, "{line}");
                assert_eq!(serde_json::from_str::<Event>(&line).unwrap(), written, "{line}");
            }
        }
    }

    #[test]
    fn what_is_refused_is_refused_either_way() {
        let line = serde_json::to_string(&Event {
            t: 5,
            tid: 2,
            pid: 1,
            vcpu: None,
            what: sigbus(),
        })
        .unwrap();
        for (good, bad) in [
            ("\"lsb\":12", "\"lsb\":-1"),
            ("\"lsb\":12,", ""),
            ("\"sigbus\"", "\"sigbuss\""),
            ("\"tid\":2,", ""),
            ("\"action_required\"", "\"action\""),
        ] {
            let line = line.replacen(good, bad, 1);
            assert!(event(&line).is_err(), "{line}");
            assert!(serde_json::from_str::<Event>(&line).is_err(), "{line}");
        }
    }
}
