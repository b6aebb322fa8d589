//! The document of `forecast --format json` (`forecast.schema.json` beside this crate), its text and its page: from the model's answer, so
//! that English is written once.

mod html;
mod text;
mod words;

pub use html::html;
pub use text::text;

use serde::Serialize;

use poisontrace_model::{
    event::McVendor,
    forecast::{
        Branch, Counts, Expected, Forecast, VmForecast,
        facts::{Backing, HostFacts, Known, VcpuFacts, VmFacts},
        terms::{Notice, Page, Reason, Sigbus, VmmKind},
    },
    hex::Hex,
    host::Host,
    incident::terms::{Cause, Outcome},
};

use crate::next_steps;

/// Version of the JSON that is written.
pub const SCHEMA_VERSION: u32 = 1;

/// A word of the model with its sentence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Worded {
    /// The stable word.
    pub kind: String,
    /// In English.
    pub message: String,
}

/// A fact that is not known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Absent {
    /// The fact's field.
    pub fact: String,
    /// Why.
    pub reason: String,
    /// In English.
    pub message: String,
}

/// All VMs of a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Document {
    /// Version of the schema.
    pub schema_version: u32,
    /// The host.
    pub host: Host,
    /// How many VMs would be lost, in a sentence.
    pub summary: String,
    /// Facts of the host.
    pub host_facts: HostDocument,
    /// What limits the answer, in sentences.
    pub limits: Vec<String>,
    /// One for each VM.
    pub vms: Vec<VmDocument>,
}

/// Facts of the host; null: not known, see `unknown`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HostDocument {
    /// vm.memory_failure_early_kill.
    pub early_kill: Option<bool>,
    /// vm.memory_failure_recovery.
    pub recovery: Option<bool>,
    /// vm.panic_on_unrecoverable_memory_failure.
    pub panic_on_unrecoverable: Option<bool>,
    /// Memory controllers with an EDAC driver.
    pub edac_controllers: Option<u32>,
    /// ACPI HEST marks machine checks FIRMWARE_FIRST.
    pub firmware_first: Option<bool>,
    /// The processor's vendor.
    pub processor_vendor: Option<McVendor>,
    /// MCG_SER_P or SUCCOR.
    pub processor_recovers: Option<bool>,
    /// HardwareCorrupted, bytes.
    pub hardware_corrupted_bytes: Option<u64>,
    /// Why facts are not known.
    pub unknown: Vec<Absent>,
}

/// A VM: its facts and the answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VmDocument {
    /// The VMM's process.
    pub pid: u32,
    /// Name of the VM.
    pub name: Option<String>,
    /// Its UUID.
    pub uuid: Option<String>,
    /// The VMM's program.
    pub vmm: Option<String>,
    /// What is known of the program.
    pub vmm_kind: VmmKind,
    /// `10.0`.
    pub qemu_version: Option<String>,
    /// SIGBUS in the VMM.
    pub sigbus: Option<Sigbus>,
    /// What is behind its memory.
    pub backing: Option<BackingDocument>,
    /// Number of its vCPUs.
    pub vcpu_count: Option<u32>,
    /// Its vCPUs.
    pub vcpus: Option<Vec<VcpuDocument>>,
    /// Why facts are not known.
    pub unknown: Vec<Absent>,
    /// One outcome and cause for the VM.
    pub headline: HeadlineDocument,
    /// The answers.
    pub forecasts: Vec<Entry>,
}

/// See `VmForecast::headline`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HeadlineDocument {
    /// The outcome's word.
    pub outcome: String,
    /// The cause's word.
    pub cause: String,
    /// The guest would be gone, or stuck for good.
    pub lost: bool,
    /// A setting would change it.
    pub setting_mends: bool,
}

/// Bytes present by kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BackingDocument {
    /// In 4 KiB pages and transparent huge pages.
    pub small_bytes: u64,
    /// Of these in transparent huge pages; null: not looked at.
    pub transparent_bytes: Option<u64>,
    /// In hugetlbfs.
    pub hugetlb_bytes: u64,
    /// Size of most of its pages.
    pub hugetlb_page_bytes: Option<u64>,
    /// In a DAX device.
    pub dax: bool,
    /// It has guest_memfd.
    pub guest_memfd: bool,
    /// VFIO has pinned it.
    pub vfio: bool,
    /// VMMs that have mapped the same file.
    pub shared_with_pids: Vec<u32>,
}

/// A vCPU; null: the kernel's layout does not show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VcpuDocument {
    /// Its number.
    pub id: u32,
    /// MCG_CAP.
    pub mcg_cap: Option<Hex>,
    /// MCG_STATUS.
    pub mcg_status: Option<Hex>,
    /// CR4.MCE.
    pub machine_checks_on: Option<bool>,
    /// CPUID's vendor.
    pub vendor: Option<McVendor>,
    /// CPUID 0x80000007 EBX bit 1.
    pub succor: Option<bool>,
    /// CPUID 0x80000007 EBX bit 0.
    pub overflow_recovery: Option<bool>,
    /// Banks that hold an error.
    pub held_banks: Vec<BankDocument>,
}

/// A bank that holds an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BankDocument {
    /// Its number.
    pub bank: u8,
    /// Its STATUS.
    pub status: Hex,
}

/// The answer for a kind of page and notice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// The page that is lost.
    pub page: Page,
    /// How the host learns of it.
    pub notice: Notice,
    /// The likely outcome; null: see `cases` and `unknowable`.
    pub outcome: Option<Outcome>,
    /// Its cause.
    pub cause: Option<Cause>,
    /// The answer in one sentence.
    pub summary: String,
    /// The facts that it rests on.
    pub basis: Vec<Worded>,
    /// What to change.
    pub next_steps: Vec<String>,
    /// Exceptions, or the cases between which an unknown fact decides.
    pub cases: Vec<CaseDocument>,
    /// Why it cannot be known.
    pub unknowable: Vec<Worded>,
    /// An untouched page is not consumed.
    pub possible: bool,
}

/// One case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CaseDocument {
    /// All of it holds.
    pub when: Vec<Worded>,
    /// The outcome then.
    pub outcome: Outcome,
    /// Its cause.
    pub cause: Cause,
    /// The facts that it rests on.
    pub basis: Vec<Worded>,
    /// What to change.
    pub next_steps: Vec<String>,
}

/// The model's answer with its text. `hidden`: processes that could not be looked at.
pub fn document(
    host: Host,
    facts: &HostFacts,
    vms: &[(VmFacts, VmForecast)],
    limits: Vec<String>,
    hidden: u64,
) -> Document {
    let counts = Counts {
        hidden,
        ..Counts::of(vms.iter().map(|(_, forecast)| forecast))
    };
    Document {
        schema_version: SCHEMA_VERSION,
        host,
        summary: counted(&counts),
        host_facts: host_document(facts),
        limits,
        vms: vms.iter().map(|(facts, forecast)| vm(facts, forecast)).collect(),
    }
}

/// How many guests would be lost, in a sentence.
pub fn counted(counts: &Counts) -> String {
    let guests = |n: u64| poisontrace_model::text::counted(n, "guest", "guests");
    let hidden = match counts.hidden {
        0 => String::new(),
        n => format!("{n} processes could not be looked at, and VMs may be among them"),
    };
    match (counts.vms, counts.hidden) {
        (0, 0) => return "No guest runs on this host.".to_owned(),
        (0, _) => return format!("No guest can be seen: {hidden}."),
        _ => {}
    }
    let mut text = format!(
        "{} of {} would not survive a memory error in a process of theirs",
        counts.lost,
        guests(counts.vms)
    );
    if counts.setting_mends > 0 {
        text.push_str(&format!(
            ", {} of them for a reason that a setting mends",
            counts.setting_mends
        ));
    }
    if counts.unknown > 0 {
        text.push_str(&format!("; for {} it cannot be known", counts.unknown));
    }
    if counts.hidden > 0 {
        text.push_str(&format!("; {hidden}"));
    }
    text + "."
}

/// The value, or a note that it is absent.
fn known<T: Clone>(known: &Known<T>, fact: &str, unknown: &mut Vec<Absent>) -> Option<T> {
    match known {
        Known::Is(value) => Some(value.clone()),
        Known::Not(reason) => {
            unknown.push(Absent {
                fact: fact.to_owned(),
                reason: reason.word().to_owned(),
                message: words::reason(*reason).to_owned(),
            });
            None
        }
    }
}

fn host_document(facts: &HostFacts) -> HostDocument {
    let mut unknown = Vec::new();
    let u = &mut unknown;
    HostDocument {
        early_kill: known(&facts.early_kill, "early_kill", u),
        recovery: known(&facts.recovery, "recovery", u),
        panic_on_unrecoverable: known(&facts.panic_on_unrecoverable, "panic_on_unrecoverable", u),
        edac_controllers: known(&facts.edac_controllers, "edac_controllers", u),
        firmware_first: known(&facts.firmware_first, "firmware_first", u),
        processor_vendor: known(&facts.vendor, "processor_vendor", u),
        processor_recovers: known(&facts.recovers, "processor_recovers", u),
        hardware_corrupted_bytes: known(&facts.hardware_corrupted, "hardware_corrupted_bytes", u),
        unknown,
    }
}

fn vm(facts: &VmFacts, forecast: &VmForecast) -> VmDocument {
    let mut unknown = Vec::new();
    let u = &mut unknown;
    let headline = forecast.headline();
    let qemu_version = match facts.kind {
        VmmKind::Qemu => {
            known(&facts.qemu, "qemu_version", u).map(|(major, minor)| format!("{major}.{minor}"))
        }
        _ => None,
    };
    VmDocument {
        pid: facts.pid,
        name: facts.name.clone(),
        uuid: facts.uuid.clone(),
        vmm: facts.vmm.clone(),
        vmm_kind: facts.kind,
        qemu_version,
        sigbus: known(&facts.sigbus, "sigbus", u),
        backing: known(&facts.backing, "backing", u).as_ref().map(backing),
        vcpu_count: known(&facts.vcpu_count, "vcpu_count", u),
        vcpus: known(&facts.vcpus, "vcpus", u).map(|vcpus| vcpus.iter().map(vcpu).collect()),
        unknown,
        headline: HeadlineDocument {
            outcome: headline.outcome.to_owned(),
            cause: headline.cause.to_owned(),
            lost: headline.lost,
            setting_mends: headline.setting_mends,
        },
        forecasts: forecast
            .entries
            .iter()
            .map(|(page, notice, f)| entry(*page, *notice, f))
            .collect(),
    }
}

fn backing(backing: &Backing) -> BackingDocument {
    BackingDocument {
        small_bytes: backing.small,
        transparent_bytes: backing.transparent,
        hugetlb_bytes: backing.hugetlb,
        hugetlb_page_bytes: backing.hugetlb_page,
        dax: backing.dax,
        guest_memfd: backing.guest_memfd,
        vfio: backing.vfio,
        shared_with_pids: backing.shared_with.clone(),
    }
}

fn vcpu(vcpu: &VcpuFacts) -> VcpuDocument {
    let bit = |n: u32| vcpu.ras.map(|ras| ras >> n & 1 != 0);
    VcpuDocument {
        id: vcpu.id,
        mcg_cap: vcpu.mcg_cap.map(Hex),
        mcg_status: vcpu.mcg_status.map(Hex),
        machine_checks_on: vcpu.cr4.map(|cr4| cr4 & 1 << 6 != 0),
        vendor: vcpu.vendor,
        succor: bit(1),
        overflow_recovery: bit(0),
        held_banks: vcpu
            .held
            .iter()
            .map(|(bank, status)| BankDocument {
                bank: *bank,
                status: Hex(*status),
            })
            .collect(),
    }
}

fn basis(expected: &Expected) -> Vec<Worded> {
    let worded = expected.basis.iter().map(|b| Worded {
        kind: b.word().to_owned(),
        message: words::basis(*b).to_owned(),
    });
    worded.collect()
}

fn steps(expected: &Expected) -> Vec<String> {
    expected
        .next_steps
        .iter()
        .map(|step| next_steps::message(step).into_owned())
        .collect()
}

fn case(branch: &Branch) -> CaseDocument {
    let conditions = branch.when.iter().map(|c| Worded {
        kind: c.word().to_owned(),
        message: words::condition(*c).to_owned(),
    });
    CaseDocument {
        when: conditions.collect(),
        outcome: branch.expected.outcome,
        cause: branch.expected.cause,
        basis: basis(&branch.expected),
        next_steps: steps(&branch.expected),
    }
}

fn reasons(reasons: &[Reason]) -> Vec<Worded> {
    let worded = reasons.iter().map(|r| Worded {
        kind: r.word().to_owned(),
        message: words::reason(*r).to_owned(),
    });
    worded.collect()
}

fn entry(page: Page, notice: Notice, forecast: &Forecast) -> Entry {
    let mut entry = Entry {
        page,
        notice,
        outcome: None,
        cause: None,
        summary: sentence(page, notice, forecast),
        basis: Vec::new(),
        next_steps: Vec::new(),
        cases: Vec::new(),
        unknowable: Vec::new(),
        possible: true,
    };
    match forecast {
        Forecast::Outcome { expected, unless } => {
            entry.outcome = Some(expected.outcome);
            entry.cause = Some(expected.cause);
            entry.basis = basis(expected);
            entry.next_steps = steps(expected);
            entry.cases = unless.iter().map(case).collect();
        }
        Forecast::Cases(cases) => entry.cases = cases.iter().map(case).collect(),
        Forecast::Unknowable(why) => entry.unknowable = reasons(why),
        Forecast::NotPossible => entry.possible = false,
    }
    entry
}

fn sentence(page: Page, notice: Notice, forecast: &Forecast) -> String {
    let of = format!("An error in {}, {}:", words::page(page), words::notice(notice));
    match forecast {
        Forecast::Outcome { expected, .. } => {
            let because = words::because(expected);
            match because.is_empty() {
                true => format!("{of} {}.", words::verdict(expected)),
                false => format!("{of} {}: {because}.", words::verdict(expected)),
            }
        }
        Forecast::Cases(cases) => {
            let each = cases
                .iter()
                .map(|case| format!("{}: {}", words::when(case), words::verdict(&case.expected)));
            format!("{of} {}.", each.collect::<Vec<_>>().join("; "))
        }
        Forecast::Unknowable(why) => {
            let why: Vec<&str> = why.iter().map(|r| words::reason(*r)).collect();
            format!("{of} it cannot be known: {}.", why.join("; "))
        }
        Forecast::NotPossible => format!("{of} not possible."),
    }
}

/// What limits an answer as a whole, in a sentence each.
pub mod limits {
    /// The vCPUs' facts are missing.
    pub fn no_vcpus(reason: super::Reason) -> String {
        format!(
            "The vCPUs' machine checks are not known ({}): each case is given.",
            super::words::reason(reason)
        )
    }

    /// Other users' processes cannot be looked at.
    pub fn denied(processes: u64) -> String {
        format!(
            "{processes} processes could not be looked at, as that needs root: VMs among them are missing here."
        )
    }

    /// Bounds were reached.
    pub fn left_out(processes: u64) -> String {
        format!("{processes} processes or descriptors were left out, as there was no time or room for them.")
    }

    /// What the rules take as given.
    pub fn assumptions() -> String {
        "Taken as given: the guest's kernel is Linux, and one error comes at a time.".to_owned()
    }

    /// KVM is loaded, and nothing can run on it.
    pub fn kvm_idle() -> String {
        "KVM is loaded without the module of the processor: no guest can run.".to_owned()
    }
}
