//! Bochs' AMD processor has no decode assists: for the bytes of an instruction that faults, its source has a "TODO"
//! where AMD's manual (volume 2, "Nested and intercepted #PF") has hypervisors find them. This completes it, so that
//! what poisontrace makes of the bytes can be tried.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

struct Change {
    file: &'static str,
    from: &'static str,
    to: &'static str,
}

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
    for change in &CHANGES {
        let path = source.join(change.file);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        ensure!(
            text.matches(change.from).count() == 1,
            "{} is not the one that our change was made for: adapt packages/decode_assists.rs of the harness",
            change.file
        );
        fs::write(&path, text.replace(change.from, change.to))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
