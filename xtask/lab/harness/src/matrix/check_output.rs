//! The text of `poisontrace check --verbose`: each probe's binding, and its programs' sizes.

use serde::Serialize;

/// A row of `check`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Probe {
    pub name: String,
    /// None where it is unavailable.
    pub binding: Option<String>,
    pub programs: Vec<Program>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Program {
    pub name: String,
    /// After the verifier's rewriting, and processed by it; none where the kernel does not report it.
    pub instructions: Option<u32>,
    pub verified: Option<u32>,
}

impl Probe {
    /// The ways of binding, without what is bound to.
    pub fn way(&self) -> String {
        let Some(binding) = &self.binding else {
            return "-".to_owned();
        };
        let mut ways: Vec<&str> = binding
            .split(", ")
            .filter_map(|one| one.split(' ').next())
            .collect();
        ways.dedup();
        ways.join("+")
    }
}

/// Reads the text of `check --verbose`.
pub fn probes(text: &str) -> Vec<Probe> {
    let mut probes: Vec<Probe> = Vec::new();
    for line in text.lines() {
        let Some((word, rest)) = line.trim_start().split_once(' ') else {
            continue;
        };
        let rest = rest.trim_start();
        let (name, what) = rest.split_once(' ').unwrap_or((rest, ""));
        let what = what.trim_start();
        match word {
            "attached" => probes.push(Probe {
                name: name.to_owned(),
                binding: Some(what.split(" (").next().unwrap_or(what).to_owned()),
                programs: Vec::new(),
            }),
            "unavailable" => probes.push(Probe {
                name: name.to_owned(),
                ..Probe::default()
            }),
            "program" => {
                let mut numbers = what
                    .split(|c: char| !c.is_ascii_digit() && c != '?')
                    .filter(|n| !n.is_empty());
                let mut number = || numbers.next().and_then(|n| n.parse().ok());
                let program = Program {
                    name: name.to_owned(),
                    instructions: number(),
                    verified: number(),
                };
                if let Some(probe) = probes.last_mut() {
                    probe.programs.push(program);
                }
            }
            _ => {}
        }
    }
    probes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_sizes_are_read_from_what_check_prints() {
        let text = "attached     gup                    fentry get_user_pages_unlocked, fexit get_user_pages_unlocked\n  \
                    program    gup_enter              41 instructions, 66 of them verified\n  program    gup_exit               \
                    70 instructions, ? of them verified\nattached     kvm_page_fault         tracepoint kvm:kvm_page_fault (no \
                    guest_rip as u64: it is that of kvm_exit)\nunavailable  instruction            only SVM hands out; lost: x\n\
                    a verdict is possible on this kernel\n";
        let probes = probes(text);
        let ways: Vec<(String, String)> = probes.iter().map(|p| (p.name.clone(), p.way())).collect();
        assert_eq!(
            ways,
            [
                ("gup".to_owned(), "fentry+fexit".to_owned()),
                ("kvm_page_fault".to_owned(), "tracepoint".to_owned()),
                ("instruction".to_owned(), "-".to_owned()),
            ]
        );
        let sizes: Vec<_> = probes[0]
            .programs
            .iter()
            .map(|p| (p.instructions, p.verified))
            .collect();
        assert_eq!(sizes, [(Some(41), Some(66)), (Some(70), None)]);
    }
}
