//! `cargo xtask demo`: one scenario from set-up to report.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use lab_protocol::vmm_fate::VmmFate;
use lab_protocol::{FORECAST_FILE, GUEST_FTRACE_FILE, RASDAEMON_DATABASE};

use crate::builds;
use crate::cli::Demo;
use lab_harness::run_files::keep;
use lab_harness::scenarios::story::{GUEST_NAME, Story, recording};
use lab_harness::scenarios::{Lab, Run, forecast_check, verdict_check};
use xtask_support::paths::Paths;
use xtask_support::progress::Progress;

/// Files that `--keep` copies.
const KEPT: [&str; 9] = [
    "recording.ptrace",
    "explain.json",
    "explain.txt",
    "console.txt",
    "qemu.log",
    "host.log",
    FORECAST_FILE,
    GUEST_FTRACE_FILE,
    RASDAEMON_DATABASE,
];

pub fn demo(paths: &Paths, options: &Demo, progress: &Progress) -> Result<()> {
    if let Some(reason) = lab_harness::unavailable() {
        bail!("cannot boot the demo's host: {reason}; run it in a container of Debian 12 or 13");
    }
    let host = &options.lab.kernel;
    let guest = options.guest_kernel.as_ref().unwrap_or(host);
    let (daemon, lab) = if options.no_daemon {
        let programs = builds::lab_programs(paths, progress)?;
        let lab = Lab::set_up(paths, host, guest, &programs, progress)?;
        (paths.lab_daemon(), lab)
    } else {
        let download = |progress: &Progress| Lab::download(paths, host, guest, progress);
        let (built, ()) = builds::for_the_lab(paths, progress, download)?;
        let lab = Lab::set_up(paths, host, guest, &built.programs, progress)?;
        (built.daemon, lab)
    };
    let mut scenario = match (options.shadow_paging, options.reloads) {
        (true, _) => options.scenario.scenario_on_shadow_paging(),
        (_, true) => options.scenario.scenario_with_reloads(),
        _ => options.scenario.scenario(),
    };
    scenario.daemon = !options.no_daemon;
    scenario.ftrace = options.ftrace;
    let run = lab.run(options.scenario.name(), &scenario, &daemon, progress)?;
    progress.finish();
    // On standard error: the report alone is the demo's output.
    if let Some(table) = progress.longest_tasks() {
        eprintln!("{table}");
    }
    if let Some(folder) = &options.keep {
        keep(&run.out, &KEPT, folder)?;
        let all = VmmFate::ALL;
        let recordings = all.map(recording);
        keep(&run.out, &recordings, folder)?;
    }
    if options.no_daemon {
        return without_daemon(&run);
    }
    println!(
        "EMULATED: this host ran under software emulation; its times say nothing about real hardware.\n"
    );
    if options.scenario == Story::Vmms {
        return vmms(&run, &daemon);
    }
    print!("{}", read(&run.out, "explain.txt")?);
    judge(&run.out, options, &daemon)
}

/// One line a VMM.
fn vmms(run: &Run, daemon: &Path) -> Result<()> {
    let mut wrong = Vec::new();
    let all = VmmFate::ALL;
    for (fate, (name, end)) in all.into_iter().zip(&run.result.fates) {
        let incidents = verdict_check::incidents(daemon, &run.out.join(recording(fate)))?;
        println!("{name:<20} VMM {end:<24} {}", verdict_check::in_words(&incidents));
        if let Err(error) = verdict_check::of_vmm(fate, &incidents) {
            wrong.push(format!("{name}: {error}"));
        }
    }
    ensure!(
        wrong.is_empty(),
        "{}; files in {}",
        wrong.join("; "),
        run.out.display()
    );
    Ok(())
}

/// The demo fails where the report has another verdict than the scenario.
fn judge(out: &Path, options: &Demo, daemon: &Path) -> Result<()> {
    let incidents = verdict_check::incidents(daemon, &out.join("recording.ptrace"))?;
    let (forecast, foretold) = (out.join(FORECAST_FILE), options.scenario.foretold());
    let row = forecast_check::row(
        options.scenario.name(),
        foretold,
        &forecast,
        Some(GUEST_NAME),
        &incidents,
    )?;
    eprint!("{}", forecast_check::table(&[row]));
    verdict_check::judge(&options.scenario.accepted_verdicts(), &incidents)
        .and_then(|()| verdict_check::origin(options.scenario, &incidents))
        .and_then(|()| match options.scenario {
            Story::MachineCheck => verdict_check::rasdaemon(daemon, out, "", &incidents),
            _ => Ok(()),
        })
        .with_context(|| format!("files in {}", out.display()))
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
