//! Standard output.

use std::io::{self, Write as _};

use crate::failure::Failure;
use poisontrace_report::Look;

/// How a text for standard output looks as it is now: a terminal's own width within reason, colours unless NO_COLOR is set.
pub fn look() -> Look {
    let terminal = console::Term::stdout();
    if !terminal.is_term() {
        return Look::PLAIN;
    }
    // A terminal without a size (a serial line, script(1)) is still one.
    let columns = terminal.size_checked().map(|(_, columns)| usize::from(columns));
    Look {
        width: columns.map_or(Look::PLAIN.width, |columns| columns.clamp(80, 120)),
        colour: console::colors_enabled(),
    }
}

/// Prints to standard output. A reader that closed its end (`| head`) has what it wanted.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(err) if err.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("cannot write to standard output: {err}")))
        }
        _ => Ok(()),
    }
}
