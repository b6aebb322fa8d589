//! Paths by VM: `/var/log/libvirt/qemu/{name}.log`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use poisontrace_model::incident::model;

/// A path with `{name}`, `{uuid}` and `{pid}` in it; empty: none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Template(String);

/// Why a path cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("{0:?} is not an absolute path")]
    Relative(String),
    #[error("{0:?} has neither {{name}} nor {{uuid}} nor {{pid}}: all VMs would be read from one file")]
    Constant(String),
}

impl std::str::FromStr for Template {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        if !text.is_empty() && !text.starts_with('/') {
            return Err(TemplateError::Relative(text.to_owned()));
        }
        if !text.is_empty() && !["{name}", "{uuid}", "{pid}"].iter().any(|key| text.contains(key)) {
            return Err(TemplateError::Constant(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for Template {
    type Error = TemplateError;

    fn try_from(text: String) -> Result<Self, TemplateError> {
        text.parse()
    }
}

impl From<Template> for String {
    fn from(template: Template) -> Self {
        template.0
    }
}

impl Template {
    /// Where libvirt lets its QEMUs write.
    pub fn libvirt_log() -> Self {
        Self("/var/log/libvirt/qemu/{name}.log".to_owned())
    }

    /// The path of this VM; `None` where it lacks what the template asks for, or its name is no file's.
    pub fn of(&self, vm: &model::Vm) -> Option<PathBuf> {
        if self.0.is_empty() {
            return None;
        }
        // In one pass: a name may itself look like a key.
        let (mut path, mut rest) = (String::new(), self.0.as_str());
        while let Some(at) = rest.find('{') {
            path.push_str(&rest[..at]);
            rest = &rest[at..];
            let values = [
                ("{name}", vm.name.clone()),
                ("{uuid}", vm.uuid.clone()),
                ("{pid}", vm.pid.map(|pid| pid.to_string())),
            ];
            let key = values.into_iter().find(|(key, _)| rest.starts_with(key));
            let (length, value) = match key {
                Some((key, value)) => (key.len(), value.filter(|value| is_file_name(value))?),
                None => (1, "{".to_owned()),
            };
            path.push_str(&value);
            rest = &rest[length..];
        }
        path.push_str(rest);
        Some(path.into())
    }
}

/// A VM is called what its owner likes.
fn is_file_name(text: &str) -> bool {
    !text.is_empty()
        && text != "."
        && text != ".."
        && !text
            .chars()
            .any(|c| c == '/' || c.is_control() || c == char::REPLACEMENT_CHARACTER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vms_name_leads_nowhere_else() {
        let vm = |name: &str| model::Vm {
            name: Some(name.to_owned()),
            name_guess: None,
            uuid: None,
            vmm: None,
            pid: Some(7),
            container: None,
        };
        let log: Template = "/var/log/libvirt/qemu/{name}.log".parse().unwrap();
        assert_eq!(log.of(&vm("db-7")), Some("/var/log/libvirt/qemu/db-7.log".into()));
        for name in ["../../etc/shadow", "a/b", "..", "", "a\u{fffd}b"] {
            assert_eq!(log.of(&vm(name)), None, "{name}");
        }
        assert_eq!(
            log.of(&vm("{pid}{uuid}")),
            Some("/var/log/libvirt/qemu/{pid}{uuid}.log".into()),
            "a name that looks like a key is a name"
        );
        let odd: Template = "/run/{x}{pid}".parse().unwrap();
        assert_eq!(odd.of(&vm("a")), Some("/run/{x}7".into()));
        let qmp: Template = "/run/{pid}/{uuid}".parse().unwrap();
        assert_eq!(qmp.of(&vm("db-7")), None, "its uuid is not known");
        assert_eq!(Template::default().of(&vm("db-7")), None);
        assert!("log/{name}".parse::<Template>().is_err());
        assert!("/var/log/all.log".parse::<Template>().is_err());
    }
}
