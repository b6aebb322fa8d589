//! The statements of one file, as it was read.

use super::text::{Item, Scanner, Sender, clock::Stamp};
use poisontrace_model::event::log_statement::{LogStatement, Role};

/// The statements of one file.
pub struct Log {
    pub name: String,
    pub items: Vec<Item>,
    pub senders: Vec<Sender>,
    pub(super) libvirt_kernel: Option<String>,
    pub hostname: Option<String>,
    pub(super) dropped: u64,
    /// The items are a trace's own, on its clock.
    pub(super) trace: bool,
    pub(super) records: u64,
}

impl Log {
    pub fn new(name: String, scanner: Scanner, records: u64) -> Self {
        let mut items = scanner.items;
        items.sort_by_key(|item| (item.line, item.order));
        Self {
            name,
            items,
            senders: scanner.senders,
            libvirt_kernel: scanner.host_kernel,
            hostname: scanner.hostname,
            dropped: scanner.dropped,
            trace: false,
            records,
        }
    }

    /// A host's database.
    pub fn of_host(name: String, items: Vec<Item>) -> Self {
        Self {
            name,
            items,
            senders: vec![Sender::default()],
            libvirt_kernel: None,
            hostname: None,
            dropped: 0,
            trace: false,
            records: 0,
        }
    }

    /// Failures of pages in a trace for which no signal was seen.
    pub fn of_trace(loose: Vec<(u64, LogStatement)>) -> Self {
        let items = loose.into_iter().zip(1..).map(|((t, statement), line)| Item {
            order: 0,
            line,
            stamp: Stamp {
                boot: Some(t),
                ..Stamp::default()
            },
            sender: 0,
            role: Role::HostKernel,
            text: String::new(),
            statement,
        });
        Self {
            trace: true,
            ..Self::of_host("trace".to_owned(), items.collect())
        }
    }

    /// Whether it is worth keeping although the file could not be read to its end.
    pub fn useful(&self) -> bool {
        !self.items.is_empty() || self.records > 0
    }
}
