//! What the host's hardware reports of memory errors: the processor's banks, EDAC, the firmware. They come before
//! `memory_failure()` or after it, so they do not wait for the arming; corrected errors, which may be many, are left out.

use aya_ebpf::{EbpfContext, helpers::bpf_probe_read_kernel_str_bytes, programs::TracePointContext};
use poisontrace_probes::record::{EdacEvent, FirmwareError, HostMce};

use super::fields::{
    EDAC_ADDRESS, EDAC_LABEL, EDAC_TYPE, EXTLOG_ADDRESS, EXTLOG_SEVERITY, MCE_ADDR, MCE_BANK, MCE_CPU,
    MCE_CS, MCE_IP, MCE_MCG_STATUS, MCE_MISC, MCE_STATUS, MCE_VENDOR, read,
};
use crate::emit::{emit, header};

/// MCi_STATUS: uncorrected; on AMD deferred (`arch/x86/include/asm/mce.h`).
const UC: u64 = 1 << 61;
const DEFERRED: u64 = 1 << 44;
/// X86_VENDOR_INTEL (arch/x86/include/asm/processor.h).
const INTEL: u8 = 0;
/// HW_EVENT_ERR_CORRECTED (include/linux/edac.h).
const EDAC_CORRECTED: u32 = 0;
/// CPER_SEV_CORRECTED and CPER_SEV_INFORMATIONAL (include/linux/cper.h).
const CPER_CORRECTED: u8 = 2;

/// `mce:mce_record`; its layout is that of `format`: the raw argument changed at 6.13.
#[inline(always)]
fn at_mce_record(ctx: TracePointContext) {
    let status = read(&ctx, &MCE_STATUS).unwrap_or(0);
    let vendor = read(&ctx, &MCE_VENDOR).unwrap_or(u8::MAX);
    // Bits 52 to 38 count corrected errors on Intel.
    let deferred = vendor != INTEL && status & DEFERRED != 0;
    if status & UC == 0 && !deferred {
        return;
    }
    emit(HostMce {
        h: header::<HostMce>(),
        mcg_status: read(&ctx, &MCE_MCG_STATUS).unwrap_or(0),
        status,
        addr: read(&ctx, &MCE_ADDR).unwrap_or(0),
        misc: read(&ctx, &MCE_MISC).unwrap_or(0),
        ip: read(&ctx, &MCE_IP).unwrap_or(0),
        cpu: read(&ctx, &MCE_CPU).unwrap_or(u32::MAX),
        // mce/apei.c reports the firmware's errors with bank -1.
        bank: u32::from(read(&ctx, &MCE_BANK).unwrap_or(u8::MAX)),
        cs: u32::from(read(&ctx, &MCE_CS).unwrap_or(0)),
        vendor: u32::from(vendor),
    });
}

tracepoint!(mce_record, at_mce_record);

/// `ras:mc_event`.
#[inline(always)]
fn at_mc_event(ctx: TracePointContext) {
    let error_type = read(&ctx, &EDAC_TYPE).unwrap_or(EDAC_CORRECTED);
    if error_type == EDAC_CORRECTED {
        return;
    }
    let mut label = [0; 64];
    if let Some(text) = read(&ctx, &EDAC_LABEL) {
        let at = ctx.as_ptr() as u64 + u64::from(text.0 & 0xffff);
        // SAFETY: fault-safe read of the event. What is not readable leaves the label empty.
        let _ = unsafe { bpf_probe_read_kernel_str_bytes(at as *const u8, &mut label) };
    }
    emit(EdacEvent {
        h: header::<EdacEvent>(),
        address: read(&ctx, &EDAC_ADDRESS).unwrap_or(0).cast_unsigned(),
        error_type,
        pad: 0,
        label,
    });
}

tracepoint!(mc_event, at_mc_event);

/// `ras:extlog_mem_event`.
#[inline(always)]
fn at_extlog_mem_event(ctx: TracePointContext) {
    let severity = read(&ctx, &EXTLOG_SEVERITY).unwrap_or(CPER_CORRECTED);
    if severity >= CPER_CORRECTED {
        return;
    }
    emit(FirmwareError {
        h: header::<FirmwareError>(),
        address: read(&ctx, &EXTLOG_ADDRESS).unwrap_or(0),
        severity: u32::from(severity),
        pad: 0,
    });
}

tracepoint!(extlog_mem_event, at_extlog_mem_event);
