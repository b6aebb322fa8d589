//! Where the error came from, in words.

use poisontrace_model::incident::model::{ByAccess, Origin, OriginKind};

use crate::{count, hex};

/// One line; empty where nothing is known.
pub fn origin(origin: &Origin) -> String {
    let how = match origin.how {
        OriginKind::ConsumedByGuest => "consumed by the guest: its own access met the error",
        OriginKind::ConsumedByHost => "consumed by the host: a process or the kernel met the error",
        OriginKind::FoundByScrubbing => "found by scrubbing, or deferred, before anything consumed it",
        OriginKind::Firmware => "reported by the firmware",
        OriginKind::SoftwareInjection => "injected by software: no memory module is at fault",
        OriginKind::Claimed | OriginKind::Unknown => "",
    };
    let bank = origin.machine_check.as_ref().map(|mce| {
        format!(
            "CPU {} bank {} STATUS {} ADDR {}",
            count(mce.cpu.map(u64::from)),
            count(mce.bank.map(u64::from)),
            hex(mce.status),
            hex(mce.addr)
        )
    });
    let dimm = origin
        .dimm
        .as_ref()
        .map(|dimm| format!("memory module {}", dimm.label));
    let parts = [Some(how.to_owned()).filter(|how| !how.is_empty()), bank, dimm];
    parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

/// Accesses by the walk of the guest's page tables, which most pages never have.
pub fn page_walks(by: &ByAccess) -> String {
    match by.page_walk {
        Some(0) => String::new(),
        // Of all exits, or in an answer of an earlier version.
        None if by.read.is_none() || by.write.is_some() => String::new(),
        Some(1) => ", 1 page-table walk".to_owned(),
        Some(n) => format!(", {n} page-table walks"),
        None => ", writes and page-table walks not distinguished".to_owned(),
    }
}
