//! The wordings that are known, as tables: which program prints a line, in which versions, its whole shape, what
//! its fields mean, and a real line as its test. `docs/log-wordings.md` describes how to add one.

mod guest_panic;
pub mod hardware;
mod kernel;
mod machine;
pub mod process;
mod shape;
mod vmm;

use std::sync::LazyLock;

use poisontrace_model::event::log_statement::{LogStatement, Role};
pub use shape::{Fields, Shape};

/// One wording of one program.
pub struct Wording {
    /// Program that writes it.
    pub program: &'static str,
    /// Versions in which the wording holds.
    pub versions: &'static str,
    /// Who prints it: a [`Role::Kernel`] may turn out to be the host's or a guest's.
    pub role: Role,
    /// See [`Shape`]. The message alone: what loggers put before it is cut off already.
    pub shape: &'static str,
    /// Reads the fields.
    pub read: fn(&Fields<'_>) -> Option<LogStatement>,
    /// A line as the program prints it.
    pub line: &'static str,
}

/// Longer messages are no program's that is known here.
const MAX_MESSAGE: usize = 4096;

/// All tables, in the order in which they are tried.
const TABLES: [&[Wording]; 6] = [
    guest_panic::WORDINGS,
    hardware::WORDINGS,
    kernel::WORDINGS,
    vmm::WORDINGS,
    process::WORDINGS,
    machine::WORDINGS,
];

struct Compiled {
    wording: &'static Wording,
    shape: Shape,
    anchor: memchr::memmem::Finder<'static>,
}

/// By the first byte of a message; those that begin with a field come last, under each.
struct Index {
    all: Vec<Compiled>,
    by_first: Vec<Vec<usize>>,
    floating: Vec<usize>,
}

static INDEX: LazyLock<Index> = LazyLock::new(|| {
    let all: Vec<Compiled> = TABLES
        .iter()
        .flat_map(|table| table.iter())
        .map(|wording| {
            let shape = Shape::new(wording.shape);
            Compiled {
                wording,
                anchor: memchr::memmem::Finder::new(shape.anchor()),
                shape,
            }
        })
        .collect();
    let mut by_first = vec![Vec::new(); 256];
    let mut floating = Vec::new();
    for (n, compiled) in all.iter().enumerate() {
        match compiled.shape.stem().first() {
            Some(first) => by_first[usize::from(*first)].push(n),
            None => floating.push(n),
        }
    }
    Index {
        all,
        by_first,
        floating,
    }
});

/// The statement of a message, and its wording.
pub fn read(message: &[u8]) -> Option<(&'static Wording, LogStatement)> {
    let index = &*INDEX;
    let first = usize::from(*message.first()?);
    let fixed = index
        .by_first
        .get(first)?
        .iter()
        .filter_map(|n| index.all.get(*n));
    let fixed = fixed.filter(|c| message.starts_with(c.shape.stem()));
    let floating = index.floating.iter().filter_map(|n| index.all.get(*n));
    // A message is no longer than a field of it may be, and a few words.
    let within = message.len() <= MAX_MESSAGE;
    let floating = floating.filter(|c| within && c.anchor.find(message).is_some());
    fixed.chain(floating).find_map(|c| {
        let fields = c.shape.read(message)?;
        Some((c.wording, (c.wording.read)(&fields)?))
    })
}

/// Whether a message begins as a wording does whose stem no other program's prose has: what does not go on as it
/// must looks cut or wrapped.
pub fn is_stem(message: &[u8]) -> bool {
    const SHORTEST: usize = 12;
    let index = &*INDEX;
    let Some(first) = message.first() else {
        return false;
    };
    let fixed = index.by_first.get(usize::from(*first));
    fixed
        .into_iter()
        .flatten()
        .filter_map(|n| index.all.get(*n))
        .any(|c| c.shape.stem().len() >= SHORTEST && message.starts_with(c.shape.stem()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wording_reads_its_own_line_and_no_part_of_it() {
        for wording in TABLES.iter().flat_map(|table| table.iter()) {
            let found = read(wording.line.as_bytes());
            let found = found.map(|(found, _)| (found.program, found.shape));
            assert_eq!(found, Some((wording.program, wording.shape)), "{}", wording.line);
            assert!(!wording.versions.is_empty());
            for prose in [format!("see {}", wording.line), format!("\"{}\"", wording.line)] {
                assert!(read(prose.as_bytes()).is_none(), "{prose}");
            }
        }
    }
}
