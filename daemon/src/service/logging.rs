//! The log: text on stderr, or the journal with fields.

use std::{env, io, io::IsTerminal as _};

use tracing_subscriber::{
    EnvFilter, Layer, Registry, layer::SubscriberExt as _, reload, util::SubscriberInitExt as _,
};

use crate::config::{Log, LogFormat, LogLevel};

/// Changes the level of a log that has been started.
pub struct Handle {
    filter: reload::Handle<EnvFilter, Registry>,
    to_journal: bool,
}

impl Handle {
    /// Whether fields reach the journal, so that a long one does no harm.
    pub fn to_journal(&self) -> bool {
        self.to_journal
    }

    pub fn level(&self, level: LogLevel) {
        if let Err(err) = self.filter.reload(filter(level)) {
            tracing::error!(error = %err, "the log level stays as it was");
        }
    }
}

/// Starts the log.
pub fn start(log: &Log) -> Handle {
    let (filter, handle) = reload::Layer::new(filter(log.level));
    let to_journal = match log.format {
        LogFormat::Text => false,
        LogFormat::Journald => true,
        LogFormat::Auto => stderr_is_the_journal(),
    };
    let journal = to_journal.then(tracing_journald::layer);
    let (sink, failed) = match journal {
        Some(Ok(layer)) => (
            layer.with_field_prefix(Some("POISONTRACE".to_owned())).boxed(),
            None,
        ),
        Some(Err(err)) => (text(), Some(err)),
        None => (text(), None),
    };
    tracing_subscriber::registry().with(filter).with(sink).init();
    let to_journal = to_journal && failed.is_none();
    if let Some(err) = failed {
        tracing::warn!(error = %err, "the journal cannot be reached: the log goes to stderr");
    }
    Handle {
        filter: handle,
        to_journal,
    }
}

fn text<S>() -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    let colour = io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(colour)
        .boxed()
}

fn filter(level: LogLevel) -> EnvFilter {
    let level = match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    };
    // aya's own account of its work is of use only when something is wrong with it.
    EnvFilter::new(format!("{level},aya=warn,aya_obj=warn"))
}

/// systemd names the device and inode of the journal's stream (systemd.exec(5)).
fn stderr_is_the_journal() -> bool {
    let Some(named) = env::var("JOURNAL_STREAM").ok() else {
        return false;
    };
    rustix::fs::fstat(io::stderr()).is_ok_and(|stat| named == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// Levels of `aya_log`: 0 none, … 4 debug.
pub fn probe_level(level: LogLevel) -> u8 {
    match level {
        LogLevel::Debug | LogLevel::Trace => aya_log::Level::Debug as u8,
        _ => 0,
    }
}
