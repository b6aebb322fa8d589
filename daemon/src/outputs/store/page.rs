//! The newest incidents that fit a filter, a page at a time: each with a limit on the rows that are read and on the time.

use std::time::Instant;

use rusqlite::{params_from_iter, types::Value};
use serde::Deserialize;

use super::{
    StoreError, Stored,
    reader::{bytes, failed, parse},
};
use poisontrace_model::{
    host::Host,
    incident::terms::{Cause, Outcome},
};
use poisontrace_report::document::Incident;

/// Which incidents are wanted; those without a condition fit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Name of the VM.
    pub vm: Option<String>,
    pub outcome: Option<Outcome>,
    pub cause: Option<Cause>,
    /// Where the page before ended: its `next`.
    pub before: Option<i64>,
}

/// How much is read for a page.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Incidents of the page.
    pub incidents: usize,
    /// Rows that are looked at.
    pub rows: usize,
    pub until: Instant,
}

/// The newest first.
#[derive(Debug, Default)]
pub struct Page {
    pub incidents: Vec<(Host, Incident)>,
    /// Where the next page begins; `None`: there are no more. A page may be empty and not be the last, where the bounds ended it.
    pub next: Option<i64>,
}

/// What is read of a row to see whether it fits.
#[derive(Deserialize)]
struct Terms {
    outcome: String,
    cause: String,
}

impl Filter {
    fn fits(&self, incident: &[u8]) -> bool {
        if self.outcome.is_none() && self.cause.is_none() {
            return true;
        }
        let Ok(terms) = parse::<Terms>(incident) else {
            return false;
        };
        self.outcome.is_none_or(|outcome| outcome.word() == terms.outcome)
            && self.cause.is_none_or(|cause| cause.word() == terms.cause)
    }
}

impl Stored {
    /// A page of incidents; damaged ones are left out.
    ///
    /// # Errors
    /// Those of the database.
    pub fn page(&self, filter: &Filter, bounds: Bounds) -> Result<Page, StoreError> {
        let mut conditions = Vec::new();
        let mut values: Vec<Value> = Vec::new();
        if let Some(vm) = &filter.vm {
            conditions.push("vm = ?");
            values.push(vm.clone().into());
        }
        if let Some(before) = filter.before {
            conditions.push("first_stored < ?");
            values.push(before.into());
        }
        let conditions = match conditions.is_empty() {
            true => String::new(),
            false => format!("WHERE {}", conditions.join(" AND ")),
        };
        let sql = format!(
            "SELECT first_stored, host, incident FROM incident {conditions} ORDER BY first_stored DESC LIMIT {}",
            bounds.rows.saturating_add(1)
        );
        let read = || {
            let mut page = Page::default();
            let mut statement = self.connection.prepare(&sql)?;
            let mut rows = statement.query(params_from_iter(values))?;
            let (mut looked_at, mut last) = (0, None);
            while let Some(row) = rows.next()? {
                // One at least, however slow the disk is.
                let over = looked_at > 0 && Instant::now() > bounds.until;
                if page.incidents.len() >= bounds.incidents || looked_at >= bounds.rows || over {
                    page.next = last;
                    break;
                }
                looked_at += 1;
                last = row.get(0).ok();
                let incident = bytes(row, 2);
                if filter.fits(&incident)
                    && let (Ok(host), Ok(incident)) = (parse(&bytes(row, 1)), parse(&incident))
                {
                    page.incidents.push((host, incident));
                }
            }
            Ok(page)
        };
        read().map_err(|err| failed(&self.path, err))
    }
}
