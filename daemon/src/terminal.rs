//! Standard output.

use std::io::{self, Write as _};

use crate::failure::Failure;

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
