//! Whose lines they are by what stands around them: a collector's record, the head of a section, a shell's prompt.

use std::sync::Arc;

/// Names that keep the lines of several machines in one file apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The machine that logged the line.
    pub host: Option<Arc<str>>,
    /// Console, pod or file: what it is to a VM nothing shows.
    pub label: Option<Arc<str>>,
    /// What else stands before the line, where nothing shows what it is.
    pub column: Option<Arc<str>>,
}

impl Origin {
    /// Whether nothing is named.
    pub fn is_empty(&self) -> bool {
        self.host.is_none() && self.label.is_none() && self.column.is_none()
    }

    /// The names of an inner record, with those of the one around it for what it leaves out.
    #[must_use]
    pub fn within(&self, outer: &Self) -> Self {
        Self {
            host: self.host.clone().or_else(|| outer.host.clone()),
            label: self.label.clone().or_else(|| outer.label.clone()),
            column: self.column.clone().or_else(|| outer.column.clone()),
        }
    }
}
