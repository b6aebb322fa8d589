//! One run of Bochs, from power-on to power-off.

use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lab_protocol::{DONE, FAILED, STEP};

use super::process::{End, Running};
use super::processor::Processor;
use xtask_support::command;
use xtask_support::progress::Progress;
use xtask_support::unpacked;

pub const DISC: &str = "host.iso";
const CONSOLE: &str = "console.txt";
pub const SHIPPED: &str = "shipped.jsonl";
/// Bochs ends with its machine.
const POWER_OFF: Duration = Duration::from_secs(20);

pub struct Host<'a> {
    pub bochs: &'a Path,
    pub tree: &'a Path,
    pub processor: Processor,
    /// The run's folder, with the CD in it. Bochs runs there: names in its configuration need no quoting then.
    pub folder: &'a Path,
    pub memory_mib: u32,
    pub deadline: Duration,
}

impl Host<'_> {
    /// Boots, and follows the console to its last word.
    pub fn boot(&self, progress: &Progress) -> Result<End> {
        progress.step("lab: booting the host's kernel in Bochs");
        for (file, name) in [
            ("usr/share/bochs/BIOS-bochs-latest", "bios.bin"),
            ("usr/share/vgabios/vgabios.bin", "vgabios.bin"),
        ] {
            let from = unpacked::file(self.tree, file)?;
            fs::copy(&from, self.folder.join(name))
                .with_context(|| format!("cannot copy {}", from.display()))?;
        }
        fs::write(self.folder.join("bochsrc"), self.configuration())?;
        let output = File::create(self.folder.join("bochs.txt"))?;
        let errors = output.try_clone()?;
        let child = command::clean(self.bochs)
            .current_dir(self.folder)
            .args(["-q", "-f", "bochsrc"])
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .context("cannot start Bochs")?;
        self.follow(Running(child), progress)
    }

    fn follow(&self, mut child: Running, progress: &Progress) -> Result<End> {
        let deadline = Instant::now() + self.deadline;
        let mut shown = 0;
        loop {
            let ended = child.ended();
            // Bochs creates it as it starts.
            let console = fs::read(self.folder.join(CONSOLE)).unwrap_or_default();
            let console = String::from_utf8_lossy(&console);
            // Whole lines only.
            let lines: Vec<&str> = console[..console.rfind('\n').unwrap_or(0)].lines().collect();
            for line in lines.iter().skip(shown) {
                if let Some(step) = line.find(STEP) {
                    progress.step(&line[step..]);
                }
            }
            shown = lines.len();
            if lines.iter().any(|line| line.contains(DONE)) {
                child.wait(POWER_OFF);
                return Ok(End::Done);
            }
            let failed = lines.iter().find_map(|line| line.split_once(FAILED));
            if let Some((_, reason)) = failed {
                child.wait(POWER_OFF);
                return Ok(End::Failed(reason.to_owned()));
            }
            if ended {
                let last = lines.last().map_or("nothing", |line| line);
                return Ok(End::Silent(format!("Bochs ended early; its last line: {last}")));
            }
            if Instant::now() > deadline {
                let limit = self.deadline.as_secs();
                return Ok(End::Silent(format!("no answer in {limit} s")));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Time is the count of instructions, and nothing is random: two runs of one storm take the same time. Messages of the
    /// devices are off: Bochs 3.0 can deadlock on the lock of its log.
    fn configuration(&self) -> String {
        format!(
            "display_library: nogui\n\
             romimage: file=bios.bin\n\
             vgaromimage: file=vgabios.bin\n\
             cpu: model={}, count=1, ips=100000000, reset_on_triple_fault=0, ignore_bad_msrs=1, \
             exclude_features=\"rdrand,rdseed\"\n\
             memory: guest={memory}, host={memory}\n\
             ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14\n\
             ata0-master: type=cdrom, path={DISC}, status=inserted\n\
             boot: cdrom\n\
             com1: enabled=1, mode=file, dev={CONSOLE}\n\
             com2: enabled=1, mode=file, dev={SHIPPED}\n\
             clock: sync=none, time0=1600000000\n\
             log: bochs.log\n\
             panic: action=fatal\n\
             error: action=ignore\n\
             info: action=ignore\n\
             debug: action=ignore\n",
            self.processor.model(),
            memory = self.memory_mib,
        )
    }
}
