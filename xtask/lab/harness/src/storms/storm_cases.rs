//! The storms that are worth a run of their own, and what poisontrace has to say of each.

use anyhow::{Result, bail, ensure};
use lab_protocol::daemon_cli::{READ_GUEST_CODE, without};
use lab_protocol::daemon_lines::{ATTACH_TYPE_DISABLED, GUEST_VIRTUAL_ADDRESS};
use lab_protocol::storm::{
    GUEST_VIRTUAL, Instruction, LINES, Mode, Page, Poison, SHADOW_PAGING, Storm, StormPlan,
};
use serde_json::Value;

use super::dram_check;
use super::lab::StormRun;

/// Bounces of the storm on one line.
const BOUNCES: u64 = 1000;
const ALL_BUT_TRACEPOINTS: &str = "kprobe,fentry,raw_tracepoint";

/// The evidence that poisontrace has of a storm.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Watch {
    Plain,
    /// poisontrace may read the guest's code.
    GuestCode,
    /// poisontrace has tracepoints only, as on a kernel without kprobes and BTF.
    Tracepoints,
    /// KVM shadows the guest's page tables.
    ShadowPaging,
}

/// A storm under poisontrace.
#[derive(Clone, Copy)]
pub struct StormCase {
    pub mode: Mode,
    pub instruction: Instruction,
    pub watch: Watch,
    pub poison: Poison,
    pub page: Page,
}

/// One CLFLUSH for each line of the page.
pub const WALK: StormCase = StormCase {
    mode: Mode::StepOver,
    instruction: Instruction::Clflush,
    watch: Watch::Plain,
    poison: Poison::Software,
    page: Page::Data,
};
/// The same after the guest has consumed an error of the host's DRAM.
pub const CONSUMED: StormCase = StormCase {
    poison: Poison::Dram,
    ..WALK
};
/// One load for each line of a page whose page table is lost.
pub const PAGE_TABLE: StormCase = StormCase {
    instruction: Instruction::Load,
    page: Page::Table,
    ..WALK
};
/// The same with less evidence.
pub const POORER: [StormCase; 2] = [
    StormCase {
        watch: Watch::Tracepoints,
        ..WALK
    },
    StormCase {
        watch: Watch::ShadowPaging,
        ..WALK
    },
];

/// Every kind of storm with and without the bytes of its instruction; the plainest of them also with less evidence.
pub fn all() -> Vec<StormCase> {
    use Instruction::{Clflush, Clflushopt, Clwb, Load, Store};
    let kinds = [
        (Mode::StepOver, Clflush),
        (Mode::StepOver, Clflushopt),
        (Mode::StepOver, Clwb),
        (Mode::StepOver, Load),
        (Mode::StepOver, Store),
        (Mode::WalkThenRead, Clflush),
        (Mode::WalkThenWrite, Clflush),
        (Mode::Inject, Clflush),
        (Mode::Swallow, Clflush),
        (Mode::Die, Clflush),
    ];
    let case = |(mode, instruction), watch| StormCase {
        mode,
        instruction,
        watch,
        ..WALK
    };
    kinds
        .into_iter()
        .flat_map(|kind| [case(kind, Watch::Plain), case(kind, Watch::GuestCode)])
        .chain(POORER)
        .chain([CONSUMED, PAGE_TABLE])
        .collect()
}

impl StormCase {
    pub fn name(&self) -> String {
        let watch = match self.watch {
            Watch::Plain => "",
            Watch::GuestCode => "-code",
            Watch::Tracepoints => "-tracepoints",
            Watch::ShadowPaging => "-shadow",
        };
        let poison = match self.poison {
            Poison::Software => "",
            Poison::Dram => "-dram",
        };
        let page = match self.page {
            Page::Data => "",
            Page::Table => "-table",
        };
        format!("{}-{}{watch}{poison}{page}", self.instruction, self.mode)
    }

    pub fn storm(&self) -> Storm {
        Storm {
            name: self.name(),
            daemon: Some(self.watch.options()),
            check: false,
            ftrace: false,
            perf: false,
            kills: 0,
            kills_while: Vec::new(),
            until_detached: false,
            look_at_exits: false,
            bystander: false,
            kvm: self.watch.kvm(),
            plan: self.plan(BOUNCES),
        }
    }

    fn plan(&self, exits: u64) -> StormPlan {
        StormPlan {
            exits,
            // Half of what may be read is read by the newer call.
            sregs2: self.watch == Watch::GuestCode && self.instruction != Instruction::Clflush,
            poison: self.poison,
            page: self.page,
            ..StormPlan::new(self.mode, self.instruction)
        }
    }

    /// Whether the report has the verdict that the storm must get.
    pub fn holds(&self, run: &StormRun, incident: &Value) -> Result<()> {
        let reported = |pointer: &str| {
            incident
                .pointer(pointer)
                .and_then(Value::as_str)
                .unwrap_or("null")
        };
        let expect = |pointer: &str, wanted: &str| {
            let value = reported(pointer);
            ensure!(value == wanted, "{pointer} is {value}, not {wanted}");
            Ok(())
        };
        if self.poison == Poison::Dram {
            dram_check::holds(run, incident)?;
        }
        if self.page == Page::Table {
            return page_walks(run, incident);
        }
        // A VMM that dies at once does not live until its guest's memory is read.
        let bytes = match self.watch {
            Watch::GuestCode if self.mode != Mode::Die => {
                run.result.decode_assists || tells_memslots(&run.result.kernel)
            }
            // Not by a hook: from the VMCB, where the kernel has BTF of its modules.
            Watch::Tracepoints => run.result.decode_assists && tells_memslots(&run.result.kernel),
            _ => run.result.decode_assists,
        };
        expect(
            "/latency_ns/gup_basis",
            if self.watch == Watch::Tracepoints {
                "bound"
            } else {
                "exact"
            },
        )?;
        match self.watch {
            Watch::Tracepoints => ensure!(
                incident["missing"]
                    .to_string()
                    .contains(&format!("kprobe{ATTACH_TYPE_DISABLED}")),
                "missing[] does not name the disabled attach types"
            ),
            Watch::ShadowPaging => never_a_gpa(run, incident)?,
            Watch::Plain | Watch::GuestCode => {}
        }
        if self.plan(BOUNCES).sregs2 && tells_memslots(&run.result.kernel) {
            ensure!(
                run.counters.sregs2 == run.counters.exits,
                "KVM_GET_SREGS2 was answered {} times of {}",
                run.counters.sregs2,
                run.counters.exits
            );
        }
        let walks = !matches!(self.mode, Mode::Swallow | Mode::Die);
        if walks {
            expect("/storm/kind", "line_walk")?;
            ensure!(
                run.counters.line_bitmap == u64::MAX && run.counters.exits >= LINES,
                "the VMM counted {} exits, not a walk of the page",
                run.counters.exits
            );
        } else if self.mode == Mode::Swallow {
            expect("/storm/kind", "same_line_spin")?;
            expect("/storm/spin", "bounced")?;
        } else {
            expect("/storm/kind", "null")?;
        }
        let flushes = !matches!(self.instruction, Instruction::Load | Instruction::Store);
        let afterwards = matches!(self.mode, Mode::WalkThenRead | Mode::WalkThenWrite);
        let verdict = match (flushes, bytes) {
            _ if self.instruction == Instruction::Store => "no_flush",
            (true, _) if afterwards => "flush_then_access",
            (true, true) => "flush_only",
            (false, true) => "no_flush",
            // Loads of this stride look like flushes: never more than possible.
            (_, false) if walks => "flush_only",
            (_, false) => "undetermined",
        };
        expect("/flush/verdict", verdict)?;
        if bytes {
            expect("/flush/basis", "instruction_bytes")?;
            expect("/flush/confidence", "certain")?;
            return self.named(reported("/flush/instruction"));
        }
        match verdict {
            "flush_only" | "flush_then_access" => {
                expect("/flush/basis", "line_walk")?;
                expect("/flush/confidence", "possible")
            }
            _ => expect("/flush/instruction", "null"),
        }
    }

    fn named(&self, instruction: &str) -> Result<()> {
        let wanted = match self.instruction {
            Instruction::Load => "mov rax,",
            Instruction::Store => "mov [",
            Instruction::Clflush => "clflush [",
            Instruction::Clflushopt => "clflushopt [",
            Instruction::Clwb => "clwb [",
        };
        if !instruction.starts_with(wanted) {
            bail!("the instruction is named {instruction:?}");
        }
        Ok(())
    }
}

/// Whether memslots are found in this kernel: the guest's code is in another than the poisoned page.
fn tells_memslots(release: &str) -> bool {
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|number| number.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(5), Some(17))
}

/// KVM shadowed the guest's page tables, and the addresses that it gave then are not called physical.
fn never_a_gpa(run: &StormRun, incident: &Value) -> Result<()> {
    ensure!(!run.result.nested_paging, "the host has nested paging");
    let text = incident.to_string();
    let seen = format!("{GUEST_VIRTUAL_ADDRESS} {GUEST_VIRTUAL:#x}");
    ensure!(text.contains(&seen), "the timeline lacks {seen}");
    let wrong = format!("GPA {GUEST_VIRTUAL:#x}");
    ensure!(!text.contains(&wrong), "the report has {wrong}");
    Ok(())
}

/// The processor's page walk accessed the page, and no instruction: none is called a write, and none a flush.
///
/// # Errors
/// The answer has other counts than the VMM, or more than it can know.
pub fn page_walks(run: &StormRun, incident: &Value) -> Result<()> {
    let by_access = &incident["exits"]["by_access"];
    ensure!(
        by_access["page_walk"] == run.counters.exits
            && ["read", "write", "fetch"]
                .iter()
                .all(|kind| by_access[*kind] == 0),
        "the VMM counted {} exits, and poisontrace has {by_access}",
        run.counters.exits
    );
    let flush = &incident["flush"];
    ensure!(
        flush["verdict"] == "undetermined" && flush["instruction"].is_null(),
        "the flush is {flush}"
    );
    Ok(())
}

/// A storm by the VMM alone, and the same under poisontrace: what the probes add is the difference. The first is cut
/// short: what one exit takes shows in few of them.
pub fn with_and_without(plan: StormPlan, watch: Watch, ftrace: bool) -> [Storm; 2] {
    let alone = Storm {
        name: "alone".to_owned(),
        daemon: None,
        check: false,
        ftrace,
        perf: false,
        kills: 0,
        kills_while: Vec::new(),
        until_detached: false,
        look_at_exits: false,
        bystander: false,
        kvm: watch.kvm(),
        plan: StormPlan {
            exits: plan.exits.min(BOUNCES),
            until_signal: false,
            ..plan
        },
    };
    let watched = Storm {
        name: String::new(),
        daemon: Some(watch.options()),
        check: false,
        ftrace,
        perf: false,
        kills: 0,
        kills_while: Vec::new(),
        until_detached: false,
        look_at_exits: false,
        bystander: false,
        kvm: watch.kvm(),
        plan,
    };
    [alone, watched]
}

/// The outcomes of these two.
pub fn both(runs: Vec<Result<StormRun>>) -> Result<(StormRun, StormRun)> {
    let mut runs = runs.into_iter();
    match (runs.next(), runs.next()) {
        (Some(alone), Some(watched)) => Ok((alone?, watched?)),
        _ => bail!("a storm is missing"),
    }
}

impl Watch {
    /// Of `poisontrace run`.
    pub fn options(self) -> Vec<String> {
        match self {
            Self::Plain | Self::ShadowPaging => Vec::new(),
            Self::GuestCode => vec![READ_GUEST_CODE.to_owned()],
            Self::Tracepoints => vec![without(ALL_BUT_TRACEPOINTS)],
        }
    }

    /// Parameters of the processor's KVM module.
    fn kvm(self) -> String {
        match self {
            Self::ShadowPaging => SHADOW_PAGING.to_owned(),
            _ => String::new(),
        }
    }

    /// Rows of the agreement that need not be known.
    pub fn hidden(self) -> &'static [&'static str] {
        match self {
            Self::Plain | Self::GuestCode => &[],
            // signal_generate has no address: only a signal that came before any exit joins the page that
            // memory_failure_event names to the guest's (action optional, up to Linux 6.9).
            Self::Tracepoints => &["host address", "page frame"],
            // Faults have guest-virtual addresses.
            Self::ShadowPaging => &["guest address"],
        }
    }
}
