//! `poisontrace config`, and the flags that settings have.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use super::{ConfigArgs, ConfigTask, Outcome, RunArgs, SourceArgs, WebArgs};
use crate::{
    config::{Config, DEFAULT_FILE, Layers},
    engine::serving,
    failure::Failure,
    terminal,
};

pub fn config(args: &ConfigArgs, source: &SourceArgs) -> Outcome {
    match &args.task {
        ConfigTask::Check { file } => check(file.as_deref(), source),
    }
}

/// Status 1: understood, but it will not work on this machine.
fn check(file: Option<&Path>, source: &SourceArgs) -> Outcome {
    let mut layers = source.layers();
    if let Some(file) = file {
        layers.file = Some(file.to_owned());
    }
    let config = layers.read()?;
    let mut problems = config.problems();
    if problems.is_empty() {
        problems.extend(serving::check(&config.web).err().map(|err| err.to_string()));
    }
    for problem in &problems {
        eprintln!(
            "poisontrace: {}",
            poisontrace_model::text::sanitise(problem, 2000)
        );
    }
    if !problems.is_empty() {
        return Ok(ExitCode::from(1));
    }
    let from = match &layers.file {
        Some(file) => file.display().to_string(),
        None if Path::new(DEFAULT_FILE).exists() => DEFAULT_FILE.to_owned(),
        None => format!("no {DEFAULT_FILE}, so the defaults"),
    };
    terminal::print(&format!("{from}: in order\n"))?;
    Ok(ExitCode::SUCCESS)
}

impl SourceArgs {
    /// Where settings come from, with the flags that all commands have.
    pub fn layers(&self) -> Layers {
        let mut layers = Layers {
            file: self.config.clone(),
            ..Layers::default()
        };
        layers.flag("log.level", word(self.log_level));
        layers
    }

    /// The store's folder: of the flag, else of the settings.
    pub fn state_dir(&self, flag: Option<&PathBuf>) -> Result<PathBuf, Failure> {
        match flag {
            Some(dir) => Ok(dir.clone()),
            None => Ok(self.layers().read()?.state_dir),
        }
    }
}

impl RunArgs {
    /// The settings of `run`, and where they come from.
    pub fn settings(&self, source: &SourceArgs) -> Result<(Layers, Config), Failure> {
        let mut layers = source.layers();
        layers.flag("state_dir", self.state.state_dir.as_deref().map(text));
        layers.flag("guest.read_code", self.guest.read_guest_code.then_some(true));
        layers.flag("incident.attribution_window_seconds", self.attribution_window);
        layers.flag("vmm.log", self.vmm.vmm_log.clone().map(String::from));
        layers.flag("vmm.qmp", self.vmm.qmp.clone().map(String::from));
        layers.flag("log.format", word(self.log_format));
        self.web.note(&mut layers);
        layers.flag("metrics.per_vm", self.per_vm_metrics.then_some(true));
        let config = layers.read()?;
        Ok((layers, config))
    }
}

impl WebArgs {
    pub fn note(&self, layers: &mut Layers) {
        layers.flag(
            "web.listen_address",
            self.listen_address.map(|address| address.to_string()),
        );
        layers.flag("web.config_file", self.config_file.as_deref().map(text));
        layers.flag("web.incidents", self.incidents.then_some(true));
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// A choice as the file writes it.
fn word<T: clap::ValueEnum>(choice: Option<T>) -> Option<String> {
    Some(choice?.to_possible_value()?.get_name().to_owned())
}
