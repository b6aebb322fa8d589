//! Where VMMs speak, as the operator sets it.

use serde::{Deserialize, Serialize};

use super::path_template::Template;

/// Where VMMs speak, by VM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VmmPlaces {
    pub log: Template,
    pub qmp: Template,
}

impl Default for VmmPlaces {
    fn default() -> Self {
        Self {
            log: Template::libvirt_log(),
            qmp: Template::default(),
        }
    }
}
