//! The three kinds that come by the million, as this program itself writes them: every key in its place, no space, no
//! escape. Any other line is `None`, and left to serde, which takes twice as long or more: what is read here reads the same
//! there.

use poisontrace_model::{
    event::{Access, Event, EventKind, Isa, OtherAddress, PoisonExit, SigbusSeverity},
    hex::Hex,
};

/// Where the fields of an event's kind lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Beside the time: version 1.
    Flat,
    /// In an object of their own: version 2.
    Nested,
}

/// Reads a line, `None` unless it is such a one.
pub fn event(line: &str, layout: Layout) -> Option<Event> {
    let mut line = Line { rest: line };
    let t = line.key("{\"t\":")?.number()?;
    let tid = line.key(",\"tid\":")?.small()?;
    let pid = line.key(",\"pid\":")?.small()?;
    let vcpu = match line.key(",\"vcpu\":") {
        Some(line) => Some(line.small()?),
        None => None,
    };
    line.key(",\"event\":")?;
    let (kind, end) = match layout {
        Layout::Flat => (line.word()?, "}"),
        Layout::Nested => {
            let kind = line.key("{")?.word()?;
            line.key(":{")?;
            (kind, "}}}")
        }
    };
    let what = match kind {
        "poison_exit" => EventKind::PoisonExit(line.poison_exit(layout)?),
        "sigbus" => line.sigbus(layout)?,
        "reentry" => EventKind::Reentry {
            exit_ns: line.first(layout, "\"exit_ns\":")?.number()?,
            entry_ns: line.key(",\"entry_ns\":")?.number()?,
        },
        _ => return None,
    };
    let left = line.rest.strip_prefix(end)?;
    matches!(left, "" | "\n").then_some(Event {
        t,
        tid,
        pid,
        vcpu,
        what,
    })
}

/// What is left of it.
struct Line<'a> {
    rest: &'a str,
}

impl<'a> Line<'a> {
    fn key(&mut self, key: &str) -> Option<&mut Self> {
        self.rest = self.rest.strip_prefix(key)?;
        Some(self)
    }

    /// The key of a kind's first field: in an object of its own no comma comes before it.
    fn first(&mut self, layout: Layout, key: &str) -> Option<&mut Self> {
        if layout == Layout::Flat {
            self.key(",")?;
        }
        self.key(key)
    }

    fn digits(&mut self, digit: impl Fn(u8) -> bool) -> Option<&'a str> {
        let end = self.rest.bytes().position(|byte| !digit(byte))?;
        let (digits, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest;
        (!digits.is_empty()).then_some(digits)
    }

    /// A whole number as JSON has it: no sign, no leading zero.
    fn number(&mut self) -> Option<u64> {
        let bytes = self.rest.as_bytes();
        let (mut value, mut length) = (0_u64, 0);
        while let Some(digit @ b'0'..=b'9') = bytes.get(length) {
            value = value.checked_mul(10)?.checked_add(u64::from(digit - b'0'))?;
            length += 1;
        }
        if length == 0 || length > 1 && bytes.starts_with(b"0") {
            return None;
        }
        self.rest = self.rest.get(length..)?;
        Some(value)
    }

    fn small(&mut self) -> Option<u32> {
        u32::try_from(self.number()?).ok()
    }

    fn signed(&mut self) -> Option<i64> {
        match self.key("-") {
            // Minus zero is a fraction to serde.
            Some(line) => 0_i64.checked_sub_unsigned(line.number().filter(|value| *value != 0)?),
            None => i64::try_from(self.number()?).ok(),
        }
    }

    fn or_null<T>(&mut self, value: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        match self.key("null") {
            Some(_) => Some(None),
            None => value(self).map(Some),
        }
    }

    fn hex(&mut self) -> Option<Hex> {
        let bytes = self.key("\"0x")?.rest.as_bytes();
        let (mut value, mut length) = (0_u64, 0);
        while let Some(digit) = bytes.get(length).filter(|byte| byte.is_ascii_hexdigit()) {
            let letter = (digit & 0x40) >> 6;
            value = value << 4 | u64::from((digit & 0xf) + 9 * letter);
            length += 1;
        }
        if length == 0 || length > 16 {
            return None;
        }
        self.rest = self.rest.get(length..)?;
        self.key("\"")?;
        Some(Hex(value))
    }

    /// A string without escapes.
    fn word(&mut self) -> Option<&'a str> {
        let word = self
            .key("\"")?
            .digits(|byte| byte != b'"' && byte != b'\\' && byte >= b' ');
        let word = word.or_else(|| self.rest.starts_with('"').then_some(""))?;
        self.key("\"")?;
        Some(word)
    }

    fn flag(&mut self) -> Option<bool> {
        match self.key("true") {
            Some(_) => Some(true),
            None => self.key("false").map(|_| false),
        }
    }

    fn poison_exit(&mut self, layout: Layout) -> Option<PoisonExit> {
        Some(PoisonExit {
            exit_ns: self.first(layout, "\"exit_ns\":")?.or_null(Self::number)?,
            fault_ns: self.key(",\"fault_ns\":")?.or_null(Self::number)?,
            gup_ns: self.key(",\"gup_ns\":")?.or_null(Self::number)?,
            gup_ret: self.key(",\"gup_ret\":")?.or_null(Self::signed)?,
            signal_ns: self.key(",\"signal_ns\":")?.or_null(Self::number)?,
            user_ns: self.key(",\"user_ns\":")?.or_null(Self::number)?,
            entry_ns: self.key(",\"entry_ns\":")?.or_null(Self::number)?,
            rip: self.key(",\"rip\":")?.or_null(Self::hex)?,
            gpa: self.key(",\"gpa\":")?.or_null(Self::hex)?,
            other_address: match self.key(",\"other_address\":{") {
                Some(line) => Some(line.other_address()?),
                None => None,
            },
            hva: self.key(",\"hva\":")?.or_null(Self::hex)?,
            access: match self.key(",\"access\":")?.word()? {
                "read" => Access::Read,
                "write" => Access::Write,
                "fetch" => Access::Fetch,
                "unknown" => Access::Unknown,
                _ => return None,
            },
            isa: match self.key(",\"isa\":")?.word()? {
                "vmx" => Isa::Vmx,
                "svm" => Isa::Svm,
                "unknown" => Isa::Unknown,
                _ => return None,
            },
            reason: self.key(",\"reason\":")?.small()?,
            user_reason: self.key(",\"user_reason\":")?.or_null(Self::small)?,
            user_errno: self
                .key(",\"user_errno\":")?
                .or_null(|line| i32::try_from(line.signed()?).ok())?,
            insn: match self.key(",\"insn\":") {
                Some(line) => line.or_null(Self::word)?.map(str::to_owned),
                None => None,
            },
            recovered: self.key(",\"recovered\":true").is_some(),
        })
    }

    fn other_address(&mut self) -> Option<OtherAddress> {
        let kind = self.word()?;
        let at = self.key(":")?.hex()?;
        self.key("}")?;
        match kind {
            "virtual" => Some(OtherAddress::Virtual(at)),
            "nested" => Some(OtherAddress::Nested(at)),
            _ => None,
        }
    }

    fn sigbus(&mut self, layout: Layout) -> Option<EventKind> {
        Some(EventKind::Sigbus {
            hva: self.first(layout, "\"hva\":")?.hex()?,
            severity: match self.key(",\"severity\":")?.word()? {
                "action_optional" => SigbusSeverity::ActionOptional,
                "action_required" => SigbusSeverity::ActionRequired,
                _ => return None,
            },
            lsb: self.key(",\"lsb\":")?.small()?,
            target_tid: self.key(",\"target_tid\":")?.small()?,
            target_pid: self.key(",\"target_pid\":")?.small()?,
            forced: self.key(",\"forced\":")?.flag()?,
            comm: self.key(",\"comm\":")?.word()?.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn exits() -> impl Strategy<Value = EventKind> {
        let ns = || any::<Option<u64>>();
        let hex = || any::<Option<u64>>().prop_map(|value| value.map(Hex));
        let access = prop_oneof![
            Just(Access::Read),
            Just(Access::Write),
            Just(Access::Fetch),
            Just(Access::Unknown)
        ];
        let isa = prop_oneof![Just(Isa::Vmx), Just(Isa::Svm), Just(Isa::Unknown)];
        let times = (ns(), ns(), ns(), any::<Option<i64>>(), ns(), ns(), ns());
        let reasons = (any::<u32>(), any::<Option<u32>>(), any::<Option<i32>>());
        let other = prop_oneof![
            any::<u64>().prop_map(|at| OtherAddress::Virtual(Hex(at))),
            any::<u64>().prop_map(|at| OtherAddress::Nested(Hex(at)))
        ];
        let insn = (proptest::option::of("[0-9a-f]{0,30}"), any::<bool>());
        let addresses = (hex(), hex(), hex(), proptest::option::of(other));
        (times, addresses, access, isa, reasons, insn).prop_map(
            |(times, (rip, gpa, hva, other_address), access, isa, reasons, insn)| {
                EventKind::PoisonExit(PoisonExit {
                    exit_ns: times.0,
                    fault_ns: times.1,
                    gup_ns: times.2,
                    gup_ret: times.3,
                    signal_ns: times.4,
                    user_ns: times.5,
                    entry_ns: times.6,
                    rip,
                    gpa,
                    other_address,
                    hva,
                    access,
                    isa,
                    reason: reasons.0,
                    user_reason: reasons.1,
                    user_errno: reasons.2,
                    insn: insn.0,
                    recovered: insn.1,
                })
            },
        )
    }

    fn signals() -> impl Strategy<Value = EventKind> {
        let severity = prop_oneof![
            Just(SigbusSeverity::ActionOptional),
            Just(SigbusSeverity::ActionRequired)
        ];
        let numbers = any::<(u64, u32, u32, u32, bool)>();
        (numbers, severity, "[ -!#-\\[\\]-~]{0,16}").prop_map(|(numbers, severity, comm)| EventKind::Sigbus {
            hva: Hex(numbers.0),
            severity,
            lsb: numbers.1,
            target_tid: numbers.2,
            target_pid: numbers.3,
            forced: numbers.4,
            comm,
        })
    }

    fn events() -> impl Strategy<Value = Event> {
        let reentries =
            any::<(u64, u64)>().prop_map(|(exit_ns, entry_ns)| EventKind::Reentry { exit_ns, entry_ns });
        let head = any::<(u64, u32, u32, Option<u32>)>();
        (head, prop_oneof![exits(), signals(), reentries]).prop_map(|((t, tid, pid, vcpu), what)| Event {
            t,
            tid,
            pid,
            vcpu,
            what,
        })
    }

    /// The same line as version 1 has it.
    fn flat(written: &Event) -> String {
        let line = serde_json::to_string(written).unwrap();
        let kind = ["poison_exit", "sigbus", "reentry"]
            .into_iter()
            .find(|kind| line.contains(&format!("{{\"{kind}\":{{")))
            .unwrap();
        let flat = line.replacen(&format!("{{\"{kind}\":{{"), &format!("\"{kind}\","), 1);
        flat.strip_suffix("}}").unwrap().to_owned()
    }

    proptest! {
        #[test]
        fn a_written_line_is_read_here(written in events()) {
            let line = serde_json::to_string(&written).unwrap();
            prop_assert_eq!(event(&line, Layout::Nested), Some(written.clone()));
            prop_assert_eq!(event(&format!("{line}\n"), Layout::Nested), Some(written.clone()));
            let line = flat(&written);
            let value: serde_json::Value = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(crate::compat::v1::event(value).unwrap(), written.clone());
            prop_assert_eq!(event(&line, Layout::Flat), Some(written));
        }

        #[test]
        fn a_damaged_line_is_read_as_serde_reads_it_or_not_here(
            written in events(), at in any::<prop::sample::Index>(), byte in " -~"
        ) {
            let mut line = serde_json::to_string(&written).unwrap();
            let at = at.index(line.len());
            line.replace_range(at..=at, &byte);
            if let Some(read) = event(&line, Layout::Nested) {
                prop_assert_eq!(serde_json::from_str::<Event>(&line).ok(), Some(read));
            }
        }
    }
}
