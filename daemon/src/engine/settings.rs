//! What SIGHUP reads again.

use super::{pipeline::Pipeline, serving::Serving};
use crate::{
    config::{Config, Layers, needs_restart},
    service::logging,
};

/// The configuration, and where it comes from.
pub struct Settings {
    pub(super) layers: Layers,
    /// As they were at the start.
    pub config: Config,
    pub(super) log: logging::Handle,
}

impl Settings {
    /// Takes over what can be changed while running.
    pub fn reload(&self, pipeline: &mut Pipeline, serving: &Serving) {
        let new = match self.layers.read() {
            Ok(new) => new,
            Err(err) => {
                tracing::error!(error = %err, "cannot apply the new configuration; the previous one stays in effect");
                return;
            }
        };
        for problem in new.problems() {
            tracing::warn!("{problem}");
        }
        let rest = needs_restart(&self.config, &new);
        if !rest.is_empty() {
            tracing::warn!(
                keys = rest.join(", "),
                "these settings change with a restart only"
            );
        }
        self.log.level(new.log.level);
        pipeline.configure(&new);
        serving.reload();
        tracing::info!("the configuration has been read again");
    }
}
