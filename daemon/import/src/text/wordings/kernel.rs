//! Linux: `mm/memory-failure.c` and its neighbours, of about ten years. Host and guest print the same lines.

use super::{Fields, Wording};
use poisontrace_model::{
    event::log_statement::{Ended, LogStatement, MceReport, Role},
    hex::Hex,
};

const fn kernel(
    program: &'static str,
    versions: &'static str,
    shape: &'static str,
    read: fn(&Fields<'_>) -> Option<LogStatement>,
    line: &'static str,
) -> Wording {
    Wording {
        program,
        versions,
        role: Role::Kernel,
        shape,
        read,
        line,
    }
}

const FAILURE: &str = "Linux, mm/memory-failure.c";
const INJECT: &str = "Linux, arch/x86/kernel/cpu/mce/inject.c (mce-inject)";
const OOM: &str = "Linux, mm/oom_kill.c";

pub const WORDINGS: &[Wording] = &[
    kernel(
        FAILURE,
        "5.3 to 7.3",
        "Memory failure: {pfn:hex}: Sending SIGBUS to {comm}:{pid:dec} due to hardware memory corruption",
        signal,
        "Memory failure: 0xf7eb: Sending SIGBUS to qemu-system-x86:221 due to hardware memory corruption",
    ),
    kernel(
        FAILURE,
        "4.7 to 5.2, early kill",
        "Memory failure: {pfn:hex}: Killing {comm}:{pid:dec} early due to hardware memory corruption",
        signal,
        "Memory failure: 0xf7eb: Killing qemu-kvm:221 early due to hardware memory corruption",
    ),
    kernel(
        FAILURE,
        "4.7 to 5.2",
        "Memory failure: {pfn:hex}: Killing {comm}:{pid:dec} due to hardware memory corruption",
        signal,
        "Memory failure: 0xf7eb: Killing CPU 0/KVM:221 due to hardware memory corruption",
    ),
    kernel(
        FAILURE,
        "up to 4.6, early kill",
        "MCE {pfn:hex}: Killing {comm}:{pid:dec} early due to hardware memory corruption",
        signal,
        "MCE 0xf7eb: Killing CPU 0/KVM:249 early due to hardware memory corruption",
    ),
    kernel(
        FAILURE,
        "up to 4.6",
        "MCE {pfn:hex}: Killing {comm}:{pid:dec} due to hardware memory corruption",
        signal,
        "MCE 0xf7eb: Killing qemu-system-x86:221 due to hardware memory corruption",
    ),
    kernel(
        FAILURE,
        "all: the page could not be unmapped",
        "Memory failure: {pfn:hex}: forcibly killing {comm}:{pid:dec} because of failure to unmap corrupted page",
        kill,
        "Memory failure: 0xf7eb: forcibly killing qemu-system-x86:221 because of failure to unmap corrupted page",
    ),
    kernel(
        FAILURE,
        "4.7 to 7.3",
        "Memory failure: {pfn:hex}: recovery action for {type}: {result:word}",
        action,
        "Memory failure: 0xf7eb: recovery action for dirty LRU page: Recovered",
    ),
    kernel(
        FAILURE,
        "4.1 to 4.6",
        "MCE {pfn:hex}: recovery action for {type}: {result:word}",
        action,
        "MCE 0xf7eb: recovery action for dirty LRU page: Recovered",
    ),
    kernel(
        FAILURE,
        "up to 4.0",
        "MCE {pfn:hex}: {type} recovery: {result:word}",
        action,
        "MCE 0xf7eb: dirty LRU page recovery: Recovered",
    ),
    kernel(
        FAILURE,
        "all",
        "Memory failure: {pfn:hex}: already hardware poisoned",
        other,
        "Memory failure: 0xcef2747: already hardware poisoned",
    ),
    kernel(
        FAILURE,
        "5.18 to 7.3",
        "Memory failure: {pfn:hex}: unhandlable page.",
        other,
        "Memory failure: 0xcef2747: unhandlable page.",
    ),
    kernel(
        "Linux, mm/madvise.c madvise_inject_error()",
        "4.14 to 7.3",
        "Injecting memory failure for pfn {pfn:hex} at process virtual address {hva:hex}",
        by_software,
        "Injecting memory failure for pfn 0x208900 at process virtual address 0x7f3908d00000",
    ),
    kernel(
        "Linux, mm/madvise.c madvise_hwpoison()",
        "2.6.32 to 4.13",
        "Injecting memory failure for page {pfn:hex} at {hva:hex}",
        by_software,
        "Injecting memory failure for page 0x19d0 at 0xb7786000",
    ),
    kernel(
        "Linux, mm/hwpoison-inject.c",
        "3.x to 7.3",
        "Injecting memory failure at pfn {pfn:hex}",
        by_software,
        "Injecting memory failure at pfn 0xf7eb",
    ),
    kernel(
        INJECT,
        "2.6.31 to 7.3",
        "Machine check injector initialized",
        other,
        "Machine check injector initialized",
    ),
    kernel(
        INJECT,
        "2.6.31 to 7.3",
        "Triggering MCE exception on CPU {cpu:dec}",
        injects,
        "Triggering MCE exception on CPU 0",
    ),
    kernel(
        INJECT,
        "2.6.31 to 7.3",
        "MCE exception done on CPU {cpu:dec}",
        other,
        "MCE exception done on CPU 0",
    ),
    kernel(
        INJECT,
        "2.6.31 to 7.3",
        "Starting machine check poll CPU {cpu:dec}",
        injects,
        "Starting machine check poll CPU 1",
    ),
    kernel(
        INJECT,
        "2.6.31 to 7.3",
        "Machine check poll done on CPU {cpu:dec}",
        other,
        "Machine check poll done on CPU 1",
    ),
    kernel(
        OOM,
        "5.1 to 7.3",
        "Out of memory: Killed process {pid:dec} ({comm}) total-vm:{sizes}",
        out_of_memory,
        "Out of memory: Killed process 801 (qemu-kvm) total-vm:23870700kB, anon-rss:16736460kB, file-rss:0kB, shmem-rss:0kB, UID:107 pgtables:33000kB oom_score_adj:0",
    ),
    kernel(
        OOM,
        "5.1 to 7.3, vm.oom_kill_allocating_task",
        "Out of memory (oom_kill_allocating_task): Killed process {pid:dec} ({comm}) total-vm:{sizes}",
        out_of_memory,
        "Out of memory (oom_kill_allocating_task): Killed process 801 (qemu-kvm) total-vm:23870700kB, anon-rss:16736460kB, file-rss:0kB, shmem-rss:0kB",
    ),
    kernel(
        OOM,
        "5.1 to 7.3",
        "Memory cgroup out of memory: Killed process {pid:dec} ({comm}) total-vm:{sizes}",
        out_of_memory,
        "Memory cgroup out of memory: Killed process 801 (qemu-kvm) total-vm:2623712kB, anon-rss:506500kB, file-rss:1268kB, shmem-rss:0kB",
    ),
    kernel(
        OOM,
        "up to 5.0",
        "Killed process {pid:dec} ({comm}) total-vm:{sizes}",
        out_of_memory,
        "Killed process 801 (qemu-kvm) total-vm:23870700kB, anon-rss:16736460kB, file-rss:0kB, shmem-rss:0kB",
    ),
    kernel(
        OOM,
        "up to 5.0: which process dies the next line states",
        "Out of memory: Kill process {pid:dec} ({comm}) score {score:dec} or sacrifice child",
        other,
        "Out of memory: Kill process 801 (qemu-kvm) score 900 or sacrifice child",
    ),
    kernel(
        OOM,
        "up to 5.0: which process dies the next line states",
        "Memory cgroup out of memory: Kill process {pid:dec} ({comm}) score {score:dec} or sacrifice child",
        other,
        "Memory cgroup out of memory: Kill process 801 (qemu-kvm) score 900 or sacrifice child",
    ),
    kernel(
        OOM,
        "5.0 to 7.3",
        "oom-kill:constraint={constraint:word},task={comm},pid={pid:dec},uid={uid:dec}",
        out_of_memory,
        "oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=emulator,mems_allowed=0,global_oom,task_memcg=/machine.slice,task=qemu-kvm,pid=801,uid=107",
    ),
    kernel(
        OOM,
        "4.6 to 7.3",
        "oom_reaper: reaped process {pid:dec} ({comm}), now {sizes}",
        other,
        "oom_reaper: reaped process 801 (qemu-kvm), now anon-rss:0kB, file-rss:0kB, shmem-rss:0kB",
    ),
    kernel(
        "Linux, arch/x86/kernel/cpu/mce/core.c",
        "5.13 to 7.3",
        "CPUs not responding to MCE broadcast (may include false positives): {cpus}",
        other,
        "CPUs not responding to MCE broadcast (may include false positives): 0-3,48-51",
    ),
    kernel(
        "Linux, arch/x86/mm/fault.c do_sigbus()",
        "2.6.32 to 7.3",
        "MCE: Killing {comm}:{pid:dec} due to hardware memory corruption fault at {hva:hex}",
        own_access,
        "MCE: Killing qemu:12 due to hardware memory corruption fault at 7f0000000040",
    ),
    kernel(
        "Linux, arch/x86/kernel/cpu/mce/core.c kill_me_maybe()",
        "4.x to 7.3",
        "Uncorrected hardware memory error in user-access at {addr:hex}",
        user_access,
        "Uncorrected hardware memory error in user-access at 218cb9000",
    ),
    kernel(
        "Linux, kernel/panic.c",
        "all",
        "Kernel panic - not syncing: {text}",
        panic,
        "Kernel panic - not syncing: Fatal local machine check",
    ),
    kernel(
        "Linux, arch/x86/kernel/cpu/mce/core.c",
        "all",
        "[Hardware Error]: Machine check events logged",
        other,
        "[Hardware Error]: Machine check events logged",
    ),
];

pub fn other(_: &Fields<'_>) -> Option<LogStatement> {
    Some(LogStatement::Other)
}

fn signal(f: &Fields<'_>) -> Option<LogStatement> {
    Some(LogStatement::HostSignal {
        pfn: f.hex("pfn")?,
        comm: f.text("comm", 64)?,
        pid: f.u32("pid")?,
    })
}

fn kill(f: &Fields<'_>) -> Option<LogStatement> {
    Some(LogStatement::HostKilled {
        pfn: f.hex("pfn")?,
        comm: f.text("comm", 64)?,
        pid: f.u32("pid")?,
    })
}

fn action(f: &Fields<'_>) -> Option<LogStatement> {
    Some(LogStatement::HostAction {
        pfn: f.hex("pfn")?,
        page_type: f.text("type", 64)?,
        result: f.text("result", 64)?,
    })
}

fn by_software(f: &Fields<'_>) -> Option<LogStatement> {
    Some(LogStatement::SoftwarePoison {
        pfn: f.hex("pfn")?,
        guest: false,
    })
}

fn own_access(f: &Fields<'_>) -> Option<LogStatement> {
    Some(LogStatement::OwnAccess {
        comm: f.text("comm", 64)?,
        pid: f.u32("pid")?,
        hva: Hex(f.hex("hva")?.0),
    })
}

fn user_access(f: &Fields<'_>) -> Option<LogStatement> {
    Some(LogStatement::GuestMce(MceReport {
        addr: Some(f.hex("addr")?),
        user_access: true,
        ..MceReport::default()
    }))
}

fn injects(f: &Fields<'_>) -> Option<LogStatement> {
    Some(LogStatement::SoftwareMachineCheck { cpu: f.u32("cpu")? })
}

fn out_of_memory(f: &Fields<'_>) -> Option<LogStatement> {
    Some(LogStatement::ProcessEnded {
        who: f.text("comm", 64)?,
        pid: Some(f.u32("pid")?),
        how: Ended::OutOfMemory,
        lone: false,
    })
}

fn panic(f: &Fields<'_>) -> Option<LogStatement> {
    // The line of another kernel, whose logger names it, ran into this one.
    let text = f.bytes("text")?;
    if memchr::memmem::find(text, b" kernel: ").is_some()
        || memchr::memmem::find(text, b"Memory failure: 0x").is_some()
    {
        return None;
    }
    Some(LogStatement::GuestPanic {
        text: f.text("text", 120)?,
    })
}
