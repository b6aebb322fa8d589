//! Programs of any object, attached after the daemon's own plan.

use std::fs;

use anyhow::{Context, Result, anyhow};
use poisontrace::kernel::{facts::Facts, plan::Plan};
use poisontrace::probes::load::Loaded;

use crate::Attach;

/// Attaches, says so, and stays until a signal ends the process.
pub fn hold(options: &Attach) -> Result<()> {
    let loaded = attach(options)?;
    for probe in loaded.probes() {
        println!(
            "{}: {}",
            probe.name,
            probe.binding.as_deref().unwrap_or("not attached")
        );
    }
    println!("poisontrace-bench: ready");
    loop {
        std::thread::park();
    }
}

fn attach(options: &Attach) -> Result<Loaded> {
    let object =
        fs::read(&options.object).with_context(|| format!("cannot read {}", options.object.display()))?;
    let facts = Facts::of_this_kernel().map_err(|error| anyhow!("{error}"))?;
    let plan = Plan::new(&facts, false);
    Loaded::of(&object, plan, &facts, options.armed, 0, None).map_err(|error| anyhow!("{error}"))
}
