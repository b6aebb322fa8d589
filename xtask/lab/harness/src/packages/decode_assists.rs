//! Bochs' AMD processor has no decode assists: for the bytes of an instruction that faults, its source has a "TODO"
//! where AMD's manual (volume 2, "Nested and intercepted #PF") has hypervisors find them. This completes it, so that
//! what poisontrace makes of the bytes can be tried.

use std::path::Path;

use anyhow::Result;

use super::bochs_changes::{Change, make};

const CHANGES: [Change; 2] = [
    Change {
        file: "cpu/cpudb/amd/ryzen.cc",
        from: "//       BX_CPUID_SVM_DECODE_ASSIST |",
        to: "         BX_CPUID_SVM_DECODE_ASSIST |",
    },
    Change {
        file: "cpu/svm.cc",
        from: "      // TODO\n    }\n    else {\n      vmcb_write8(SVM_CONTROL64_GUEST_INSTR_BYTES, 0);",
        to: "      // RIP is that of the instruction again, and its page is the one that is being fetched from.\n      \
             bx_address biased = RIP + BX_CPU_THIS_PTR eipPageBias;\n      \
             unsigned fetched = 0;\n      \
             if (BX_CPU_THIS_PTR eipFetchPtr && biased < BX_CPU_THIS_PTR eipPageWindowSize) {\n        \
             for (; fetched < 15 && biased + fetched < BX_CPU_THIS_PTR eipPageWindowSize; fetched++)\n          \
             vmcb_write8(SVM_CONTROL64_GUEST_INSTR_BYTES + 1 + fetched, BX_CPU_THIS_PTR eipFetchPtr[biased + \
             fetched]);\n      \
             }\n      \
             vmcb_write8(SVM_CONTROL64_GUEST_INSTR_BYTES, fetched);\n    \
             }\n    \
             else {\n      \
             vmcb_write8(SVM_CONTROL64_GUEST_INSTR_BYTES, 0);",
    },
];

/// Names a set-up with these changes.
pub const LABEL: &str = "decode assists of our own";

pub fn complete(source: &Path) -> Result<()> {
    make(source, &CHANGES, "decode_assists.rs")
}
