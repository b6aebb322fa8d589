//! Why files cannot be used, as types: who prints them adds a next step where they name none.

use std::{fmt, io, path::PathBuf};

use poisontrace_model::text::counted;
use poisontrace_recording::RecordingError;

/// A file that cannot be used, or not to its end; or what an answer has no room for.
#[derive(Debug)]
pub enum Problem {
    /// A file.
    File {
        /// As it was given.
        file: PathBuf,
        /// What is wrong with it.
        cause: Cause,
    },
    /// Incidents beyond the number that an answer holds.
    Evicted {
        /// Incidents that are left out: the first.
        evicted: u64,
        /// Incidents of the answer.
        kept: usize,
    },
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// A recording that cannot be read.
    #[error(transparent)]
    Recording(RecordingError),
    /// A format that another program turns into text; the message names it.
    #[error("line 1: {0}")]
    OtherProgram(&'static str),
    /// A compressed file that ends in the middle.
    #[error("{}the compressed file ends in the middle ({reason}): take a whole copy, or use --allow-truncated to explain what is there", in_line(*line))]
    Torn {
        /// The line that is not whole, counted from 1; `None`: not known.
        line: Option<u64>,
        /// What the decompressor finds.
        reason: String,
    },
    /// The system does not let it be read.
    #[error("{}", remedy(.0).map_or_else(|| .0.to_string(), str::to_owned))]
    Unreadable(io::Error),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// What to do about it, where that is known.
fn remedy(err: &io::Error) -> Option<&'static str> {
    match err.kind() {
        io::ErrorKind::NotFound => Some("there is no such file: look for a slip in its path"),
        io::ErrorKind::IsADirectory => Some("Is a directory: name the files in it"),
        io::ErrorKind::PermissionDenied => {
            Some("not readable: run it with sudo, or take a copy that you may read")
        }
        _ => None,
    }
}

fn in_line(line: Option<u64>) -> String {
    line.map_or_else(String::new, |line| format!("line {line}: "))
}

impl From<RecordingError> for Cause {
    fn from(err: RecordingError) -> Self {
        match err {
            RecordingError::Io(err) if err.kind() == io::ErrorKind::UnexpectedEof => Self::Torn {
                line: None,
                reason: err.to_string(),
            },
            other => Self::Recording(other),
        }
    }
}

impl From<String> for Cause {
    fn from(message: String) -> Self {
        Self::Other(message)
    }
}

impl Problem {
    /// Whether its text names the command or the flag that helps.
    pub fn names_a_remedy(&self) -> bool {
        let Self::File { cause, .. } = self else {
            return true;
        };
        match cause {
            Cause::Recording(
                RecordingError::NotARecording
                | RecordingError::Version { .. }
                | RecordingError::Truncated { .. },
            )
            | Cause::OtherProgram(_)
            | Cause::Torn { .. } => true,
            Cause::Unreadable(err) => remedy(err).is_some(),
            Cause::Recording(_) | Cause::Other(_) => false,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file, cause } => write!(f, "{}: {cause}", file.display()),
            Self::Evicted { evicted, kept } => write!(
                f,
                "the first {} left out: an answer holds the last {kept}; give a shorter span of time",
                counted(*evicted, "incident is", "incidents are")
            ),
        }
    }
}
