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
    /// The VM whose records or whose console they are.
    pub domain: Option<Arc<str>>,
    /// What of that VM's they are.
    pub of_domain: OfDomain,
}

/// What lines of one VM are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OfDomain {
    /// Records of any kind.
    #[default]
    Record,
    /// Its own console, as a tool shows it.
    Console,
    /// Of the pod in which it runs, and which runs no other.
    Launcher,
}

impl Origin {
    /// Whether nothing is named.
    pub fn is_empty(&self) -> bool {
        self.host.is_none() && self.label.is_none() && self.column.is_none() && self.domain.is_none()
    }

    /// The names of an inner record, with those of the one around it for what it leaves out.
    #[must_use]
    pub fn within(&self, outer: &Self) -> Self {
        Self {
            host: self.host.clone().or_else(|| outer.host.clone()),
            label: self.label.clone().or_else(|| outer.label.clone()),
            column: self.column.clone().or_else(|| outer.column.clone()),
            domain: self.domain.clone().or_else(|| outer.domain.clone()),
            of_domain: match self.of_domain {
                OfDomain::Record => outer.of_domain,
                of => of,
            },
        }
    }
}
