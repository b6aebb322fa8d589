//! The recording that `record` and `run --record` write. The daemon goes on where it cannot be written.

use std::{fs::File, io::BufWriter, path::Path};

use crate::{failure::Failure, private_file};
use poisontrace_model::event::{Event, session::Session};
use poisontrace_recording::Writer;

/// See the module.
pub struct Recording {
    writer: Writer<BufWriter<File>>,
    failed: bool,
}

impl Recording {
    /// Begins a recording in a new file.
    ///
    /// # Errors
    /// A file that exists, or cannot be written.
    pub fn create(path: &Path, session: &Session) -> Result<Self, Failure> {
        let unwritable = |err: std::io::Error| Failure::new(format!("{}: {err}", path.display()));
        let file = private_file::create(path)?;
        let mut writer = Writer::new(BufWriter::new(file), session).map_err(unwritable)?;
        writer.flush().map_err(unwritable)?;
        Ok(Self {
            writer,
            failed: false,
        })
    }

    pub fn event(&mut self, event: &Event) {
        self.attempt(|writer| writer.event(event));
    }

    pub fn flush(&mut self) {
        self.attempt(Writer::flush);
    }

    fn attempt(&mut self, write: impl FnOnce(&mut Writer<BufWriter<File>>) -> std::io::Result<()>) {
        if self.failed {
            return;
        }
        if let Err(err) = write(&mut self.writer) {
            self.failed = true;
            tracing::error!(error = %err, "the recording cannot be written to; it ends here, the daemon goes on");
        }
    }

    /// Writes the closing line.
    ///
    /// # Errors
    /// If this or an earlier line could not be written.
    pub fn finish(self) -> Result<(), Failure> {
        if self.failed {
            return Err(Failure::new(
                "the recording is not whole: it could not be written to",
            ));
        }
        self.writer
            .finish()
            .map(drop)
            .map_err(|err| Failure::new(format!("the recording's end cannot be written: {err}")))
    }
}
