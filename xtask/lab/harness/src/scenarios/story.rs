//! The scenarios, and the verdict that each must get.

use clap::ValueEnum;
use lab_protocol::daemon_cli::{PAGE_TOTALS, without};
use lab_protocol::vmm_fate::VmmFate;
use lab_protocol::{Before, Fate, GuestPlan, Scenario, words};

pub const GUEST_NAME: &str = "demo-guest";
pub const GUEST_UUID: &str = "5e1f1e55-0000-4000-8000-00000000feed";
const CONTROL_UUID: &str = "5e1f1e55-0000-4000-8000-00000000c0de";

/// AMD's MCA recovery, as the emulated host has it and QEMU from 10.0 on gives it to its guest.
const RECOVERS: &str = "host";

/// `cargo xtask test` boots `panic` and `survive`, `--full` all others too, in one boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Story {
    /// The guest's processor lacks succor and overflow recovery: the second notification of the same page is an
    /// overflow, and the guest panics.
    Panic,
    /// As panic, but the host's own processor reports the page: a deferred error, as a scrubber finds it
    MachineCheck,
    /// The guest's processor has both: its application is killed, the guest lives on.
    Survive,
    /// The guest's kernel reads the page from its page cache, in read()
    KernelAccess,
    /// The guest's kernel reads the application's page in write(), and can recover
    CopyFromUser,
    /// The page of the guest kernel's own #MC handler is lost too: it meets an error while it handles one
    Nested,
    /// The guest's kernel has machine checks turned off (mce=off): it returns from them with MCIP set, and the VMM lets
    /// all that follow pass
    MceOff,
    /// An Intel guest of two vCPUs: both get the machine check at once, and neither can recover
    Broadcast,
    /// A guest that lives on, and panics some seconds later
    LateDeath,
    /// The guest's memory is huge pages of the host. The application is not killed, but the guest's kernel meets the next
    /// 4 KiB of the poisoned page by itself
    HugePage,
    /// Another QEMU has mapped the guest's memory file
    SharedMemory,
    /// The page is taken offline softly, and the guest panics by itself: no poison
    LookAlike,
    /// Tiny VMMs, each with another end
    Vmms,
}

/// The verdict of `poisontrace explain`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    pub outcome: &'static str,
    pub cause: &'static str,
}

const fn verdict(outcome: &'static str, cause: &'static str) -> Option<Verdict> {
    Some(Verdict { outcome, cause })
}

impl Story {
    pub fn name(self) -> &'static str {
        match self {
            Self::Panic => "panic",
            Self::MachineCheck => "machine-check",
            Self::Survive => "survive",
            Self::KernelAccess => "kernel-access",
            Self::CopyFromUser => "copy-from-user",
            Self::Nested => "nested",
            Self::MceOff => "mce-off",
            Self::Broadcast => "broadcast",
            Self::LateDeath => "late-death",
            Self::HugePage => "huge-page",
            Self::SharedMemory => "shared-memory",
            Self::LookAlike => "look-alike",
            Self::Vmms => "vmms",
        }
    }

    /// None: there must be no incident. The VMMs have their own ([`of_fate`]).
    pub fn verdict(self) -> Option<Verdict> {
        match self {
            Self::Panic | Self::MachineCheck => verdict("guest_panicked", "mce_overflow"),
            Self::Survive | Self::CopyFromUser | Self::SharedMemory => verdict("survived", "contained"),
            Self::KernelAccess | Self::HugePage => verdict("guest_panicked", "kernel_access"),
            // QEMU resets a guest with Intel's machine checks; one with AMD's hangs, until the lab kills its VMM.
            Self::Nested | Self::MceOff => verdict("vmm_killed", "mce_nested"),
            Self::Broadcast => verdict("guest_panicked", "fatal_notification"),
            Self::LateDeath => verdict("guest_panicked", "unknown"),
            Self::LookAlike | Self::Vmms => None,
        }
    }

    /// The answer of `poisontrace forecast` that the story bears out: all of them lose a page that the host finds before it is used.
    pub fn foretold(self) -> Foretold {
        match self {
            Self::KernelAccess => Foretold::Page("guest_kernel"),
            Self::Nested => Foretold::Unknowable("a second error, in the handler of the first"),
            Self::LateDeath => Foretold::Unknowable("it dies later, of a panic of its own"),
            Self::LookAlike => Foretold::Unknowable("no error: the page is taken offline softly"),
            _ => Foretold::Page("guest_process"),
        }
    }

    /// The same, and verdicts that are accepted instead.
    pub fn accepted_verdicts(self) -> Vec<Verdict> {
        self.verdict().into_iter().chain(self.also_accepted()).collect()
    }

    /// A vCPU that is stuck in its handler shuts down by itself now and then, under emulation.
    fn also_accepted(self) -> Option<Verdict> {
        match self {
            Self::Nested | Self::MceOff => verdict("guest_reset", "mce_nested"),
            _ => None,
        }
    }

    pub fn outcome(self) -> &'static str {
        self.verdict().map_or("none", |verdict| verdict.outcome)
    }

    pub fn cause(self) -> &'static str {
        self.verdict().map_or("none", |verdict| verdict.cause)
    }

    fn guest(self) -> GuestPlan {
        let plan = GuestPlan {
            name: GUEST_NAME.to_owned(),
            uuid: GUEST_UUID.to_owned(),
            cpu: RECOVERS.to_owned(),
            pvpanic: true,
            fate: Fate::Poison,
            ..GuestPlan::default()
        };
        let touches = |how: &str| vec![format!("{}{how}", words::TOUCH)];
        match self {
            Self::Panic => GuestPlan {
                cpu: "host,-succor,-overflow-recov".to_owned(),
                ..plan
            },
            Self::MachineCheck => GuestPlan {
                cpu: "host,-succor,-overflow-recov".to_owned(),
                fate: Fate::MachineCheck,
                ..plan
            },
            Self::KernelAccess => GuestPlan {
                words: touches(words::READ_CALL),
                ..plan
            },
            Self::CopyFromUser => GuestPlan {
                words: touches(words::WRITE_CALL),
                ..plan
            },
            Self::Nested => GuestPlan {
                words: vec!["nokaslr".to_owned()],
                reboots: true,
                fate: Fate::PoisonHandlerToo,
                ..plan
            },
            Self::MceOff => GuestPlan {
                words: vec!["mce=off".to_owned()],
                reboots: true,
                ..plan
            },
            Self::Broadcast => GuestPlan {
                cpu: "Broadwell,vendor=GenuineIntel".to_owned(),
                vcpus: 2,
                ..plan
            },
            Self::LateDeath => GuestPlan {
                words: vec![words::THEN_PANIC.to_owned()],
                ..plan
            },
            Self::HugePage => GuestPlan {
                words: touches(words::HUGE),
                huge_pages: true,
                ..plan
            },
            Self::SharedMemory => GuestPlan {
                memory_file: Some("/run/guest-memory".to_owned()),
                fate: Fate::PoisonShared,
                ..plan
            },
            Self::LookAlike => GuestPlan {
                words: vec![words::THEN_PANIC.to_owned()],
                fate: Fate::SoftOffline,
                ..plan
            },
            Self::Survive | Self::Vmms => plan,
        }
    }

    pub fn scenario(self) -> Scenario {
        let vmms = self == Self::Vmms;
        Scenario {
            hostname: "lab-host".to_owned(),
            daemon: true,
            guests: if vmms { Vec::new() } else { vec![self.guest()] },
            fates: if vmms {
                // What only claims poison is tried by `test --only tenants`: here the host has poisoned memory before.
                VmmFate::ALL.to_vec()
            } else {
                Vec::new()
            },
            ftrace: false,
        }
    }

    /// The scenario between two more guests: before it one whose VMM is killed without any poison (no incident
    /// may come of that), after it one whose page is poisoned while no daemon runs.
    pub fn scenario_among_others(self) -> Scenario {
        let mut scenario = self.scenario();
        let other = |prefix: &str, name: &str, uuid: &str, fate| GuestPlan {
            file_prefix: prefix.to_owned(),
            name: name.to_owned(),
            uuid: uuid.to_owned(),
            fate,
            ..self.guest()
        };
        let control = other(CONTROL_PREFIX, "control-guest", CONTROL_UUID, Fate::KillVmm);
        let late = other(LATE_PREFIX, LATE_NAME, LATE_UUID, Fate::PoisonBeforeDaemon);
        scenario.guests.insert(0, control);
        scenario.guests.push(late);
        scenario
    }

    /// The scenario after KVM was unloaded and loaded again under the running daemon, then once more with a daemon that
    /// was started before KVM was there, and that does without kprobes and fentry.
    pub fn scenario_with_reloads(self) -> Scenario {
        let mut scenario = self.scenario();
        let daemon = Before::DaemonBeforeKvm {
            options: vec![without("kprobe,fentry,raw_tracepoint")],
            parameters: String::new(),
        };
        scenario.guests = vec![
            self.after("", Before::ReloadKvm),
            self.after(TRACEPOINTS_PREFIX, daemon),
        ];
        scenario
    }

    /// Panic and survive on one host.
    pub fn both() -> Scenario {
        let mut scenario = Self::Panic.scenario();
        scenario.guests.push(GuestPlan {
            file_prefix: SURVIVE_PREFIX.to_owned(),
            ..Self::Survive.guest()
        });
        scenario
    }

    /// Many stories on one host, one after the other, each with a daemon and a recording of its own.
    pub fn in_turn(stories: &[Self]) -> Scenario {
        let mut scenario = Self::Vmms.scenario();
        scenario.fates.retain(|_| stories.contains(&Self::Vmms));
        let with_guest = stories.iter().filter(|story| **story != Self::Vmms);
        scenario.guests = with_guest
            .map(|story| {
                let options = story.options();
                story.after(&story.prefix(), Before::AnotherDaemon { options })
            })
            .collect();
        scenario
    }

    /// The daemon's: the guest on huge pages touches more of them than the kernel's totals have room for.
    fn options(self) -> Vec<String> {
        match self {
            Self::HugePage => vec![format!("{PAGE_TOTALS}=1")],
            _ => Vec::new(),
        }
    }

    /// Of its files, where it is one of many.
    pub fn prefix(self) -> String {
        format!("{}-", self.name())
    }

    /// The scenario on a host whose guests run on shadow paging.
    pub fn scenario_on_shadow_paging(self) -> Scenario {
        let mut scenario = self.scenario();
        scenario.guests = vec![self.after(
            "",
            Before::DaemonBeforeKvm {
                options: Vec::new(),
                parameters: "npt=0".to_owned(),
            },
        )];
        scenario
    }

    /// The scenario's guest after something has happened to the host.
    fn after(self, prefix: &str, before: Before) -> GuestPlan {
        GuestPlan {
            before: Some(before),
            file_prefix: prefix.to_owned(),
            ..self.guest()
        }
    }
}

/// File name of a tiny VMM's recording.
pub fn recording(fate: VmmFate) -> String {
    format!("{fate}.ptrace")
}

/// The answer of `poisontrace forecast` that a story bears out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Foretold {
    /// For this page, action optional.
    Page(&'static str),
    /// None, and why.
    Unknowable(&'static str),
}

/// The same for a tiny VMM.
pub fn foretold_of_fate(fate: VmmFate) -> Foretold {
    match fate {
        VmmFate::SecondSigbus | VmmFate::Nested => Foretold::Unknowable("two errors at once"),
        VmmFate::OwnMemory => Foretold::Unknowable("memory of the VMM's own"),
        VmmFate::Truncated => Foretold::Unknowable("no error: the memory's file is cut"),
        VmmFate::Forged | VmmFate::ForgedWithoutVm | VmmFate::Marked | VmmFate::MarkedOwn => {
            Foretold::Unknowable("no error: a claim of the process's own")
        }
        VmmFate::Shared => Foretold::Page("untouched"),
        _ => Foretold::Page("guest_process"),
    }
}

/// The verdict on a tiny VMM's end; none: no incident.
pub fn of_fate(fate: VmmFate) -> Option<Verdict> {
    match fate {
        VmmFate::NoHandler => verdict("vmm_killed", "sigbus_unhandled"),
        VmmFate::Exit149 => verdict("vmm_exited", "sigbus_unhandled"),
        VmmFate::SecondSigbus => verdict("vmm_killed", "second_sigbus"),
        VmmFate::OwnMemory => verdict("vmm_killed", "vmm_own_memory"),
        VmmFate::Swallow => verdict("vmm_exited", "sigbus_spin"),
        VmmFate::Blocked => verdict("vmm_killed", "sigbus_spin"),
        VmmFate::Nested => verdict("guest_reset", "mce_nested"),
        VmmFate::MachineChecksOff => verdict("guest_reset", "mce_disabled"),
        VmmFate::Dropped => verdict("vmm_exited", "mce_dropped"),
        VmmFate::Shared => verdict("unaffected", "not_touched"),
        VmmFate::TwoVms => verdict("vmm_exited", "sigbus_spin"),
        // Who only claims poison: `verdict_check::claims`.
        VmmFate::Marked => verdict("vmm_killed", "sigbus_unhandled"),
        VmmFate::Truncated | VmmFate::Forged | VmmFate::ForgedWithoutVm | VmmFate::MarkedOwn => None,
    }
}

pub const SURVIVE_PREFIX: &str = "survive-";
pub const TRACEPOINTS_PREFIX: &str = "tracepoints-";

pub const LATE_PREFIX: &str = "late-";
pub const LATE_NAME: &str = "late-guest";
const LATE_UUID: &str = "5e1f1e55-0000-4000-8000-00000000a7e0";
pub const CONTROL_PREFIX: &str = "control-";
