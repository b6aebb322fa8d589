//! Programs of any object, attached after the daemon's own plan.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use aya::maps::{HashMap, MapData};
use poisontrace_kernel_facts::{facts::Facts, plan::Plan};
use poisontrace_probes::page_totals::{PageKey, PageTotals};
use poisontrace_sources::probes::load::Loaded;

#[derive(clap::Args)]
pub struct Options {
    #[arg(long)]
    object: PathBuf,
    /// As if there were poison from the start: the hooks are those of an armed host
    #[arg(long)]
    armed: bool,
    /// So many VMs besides have had poison
    #[arg(long, default_value_t = 0)]
    victims: u32,
    /// So many pages have totals
    #[arg(long, default_value_t = 0)]
    pages: u32,
}

/// Attaches, prints that it is ready, and stays until a signal ends the process.
pub fn hold(options: &Options) -> Result<()> {
    let mut loaded = attach(options)?;
    fill(&mut loaded, options).context("cannot fill the maps")?;
    for probe in loaded.probes() {
        println!(
            "{}: {}",
            probe.probe,
            probe
                .binding
                .as_ref()
                .map_or("not attached".into(), poisontrace_report::probes::binding)
        );
    }
    println!("poisontrace-bench: ready");
    loop {
        std::thread::park();
    }
}

/// As if other VMs' pages had been poisoned and touched before: numbers that no process has.
fn fill(loaded: &mut Loaded, options: &Options) -> Result<()> {
    const FIRST_PID: u32 = 1 << 23;
    let map = |loaded: &mut Loaded, name: &'static str| loaded.ebpf.take_map(name).context(name);
    if options.victims > 0 {
        let mut victims: HashMap<MapData, u32, u64> = HashMap::try_from(map(loaded, "VICTIMS")?)?;
        for n in 0..options.victims {
            victims.insert(FIRST_PID + n, 1, 0)?;
        }
    }
    if options.pages > 0 {
        let mut pages: HashMap<MapData, [u8; size_of::<PageKey>()], [u8; size_of::<PageTotals>()]> =
            HashMap::try_from(map(loaded, "PAGES")?)?;
        for n in 0..options.pages {
            let pid = FIRST_PID + n % options.victims.max(1);
            let key: [u8; size_of::<PageKey>()] = zerocopy::transmute!(PageKey {
                pid,
                tid: pid,
                gfn: u64::from(n),
            });
            pages.insert(key, [0; size_of::<PageTotals>()], 0)?;
        }
    }
    Ok(())
}

fn attach(options: &Options) -> Result<Loaded> {
    let object =
        fs::read(&options.object).with_context(|| format!("cannot read {}", options.object.display()))?;
    let facts = Facts::of_this_kernel().map_err(|error| anyhow!("{error}"))?;
    let plan = Plan::new(&facts, false);
    Loaded::of(&object, plan, &facts, options.armed, 0, None).map_err(|error| anyhow!("{error}"))
}
