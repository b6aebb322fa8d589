//! `cargo xtask demo`: one scenario from set-up to report.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::builds;
use crate::cli::Demo;
use crate::lab::{Lab, Run};
use crate::paths::Paths;
use crate::progress::Progress;

/// What --keep copies.
const KEPT: [&str; 6] = [
    "recording.ptrace",
    "explain.json",
    "explain.txt",
    "console.txt",
    "qemu.log",
    "host.log",
];

pub fn demo(paths: &Paths, options: &Demo, progress: &Progress) -> Result<()> {
    let daemon = if options.no_daemon {
        paths.daemon()
    } else {
        builds::daemon(paths, progress)?
    };
    let programs = builds::lab_programs(paths, progress)?;
    let lab = Lab::set_up(
        paths,
        &options.lab.kernel,
        &options.lab.kernel,
        &programs,
        progress,
    )?;
    let mut scenario = match options.shadow_paging {
        true => options.scenario.scenario_on_shadow_paging(),
        false => options.scenario.scenario(),
    };
    scenario.daemon = !options.no_daemon;
    let run = lab.run(options.scenario.name(), &scenario, &daemon, progress)?;
    progress.finish();
    if let Some(folder) = &options.keep {
        keep(&run.out, &KEPT, folder)?;
    }
    if options.no_daemon {
        return without_daemon(&run);
    }
    println!(
        "EMULATED: this host ran under software emulation; its times say nothing about real hardware.\n"
    );
    print!("{}", read(&run.out, "explain.txt")?);
    judge(&run.out, options)
}

/// The demo fails where the report does not say what the scenario shows.
fn judge(out: &Path, options: &Demo) -> Result<()> {
    let report: Value = serde_json::from_str(&read(out, "explain.json")?).with_context(|| {
        format!(
            "poisontrace explain gave no report; see {}",
            out.join("host.log").display()
        )
    })?;
    let incident = &report["incidents"][0];
    let story = options.scenario;
    for (key, expected) in [("outcome", story.outcome()), ("cause", story.cause())] {
        if incident[key] != expected {
            bail!(
                "expected {key} {expected}, poisontrace says {}; files in {}",
                incident[key],
                out.display()
            );
        }
    }
    Ok(())
}

fn without_daemon(run: &Run) -> Result<()> {
    println!("{}", serde_json::to_string_pretty(&run.result)?);
    for name in ["console.txt", "qemu.log"] {
        println!("--- {name}\n{}", read(&run.out, name)?);
    }
    Ok(())
}

fn read(out: &Path, name: &str) -> Result<String> {
    let path = out.join(name);
    let bytes = fs::read(&path).with_context(|| format!("the lab left no {}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

pub fn keep(out: &Path, names: &[&str], folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    for name in names {
        let from = out.join(name);
        if from.is_file() {
            // Read and written, not copied: the copy gets the permissions of any new file.
            let bytes = fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?;
            fs::write(folder.join(name), bytes)
                .with_context(|| format!("cannot write to {}", folder.display()))?;
        }
    }
    Ok(())
}
