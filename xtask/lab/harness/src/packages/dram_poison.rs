//! Poison in the DRAM of Bochs: lines that the emulated machine marks through a port, the machine checks that a load, an
//! instruction fetch or a page walk of one raises, in a guest too, and the banks that report them. CLFLUSH raises none, as it
//! reads nothing. The C++ is in `dram_poison/`; here is how Bochs is led to it.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::bochs_changes::{Change, make};

/// Names a set-up with these changes.
pub const LABEL: &str = "poison in DRAM of our own, 1";

const FILES: [(&str, &str); 2] = [
    ("cpu/dram_poison.h", include_str!("dram_poison/dram_poison.h")),
    ("cpu/dram_poison.cc", include_str!("dram_poison/dram_poison.cc")),
];

const CHANGES: [Change; 12] = [
    Change {
        file: "cpu/cpu.h",
        from: "  BX_SMF bx_hostpageaddr_t getHostMemAddr(bx_phy_address addr, unsigned rw);\n",
        to: "  BX_SMF bx_hostpageaddr_t getHostMemAddr(bx_phy_address addr, unsigned rw);\n  \
             BX_SMF void consume_poison(bx_phy_address addr, unsigned len, bool fetch);\n",
    },
    Change {
        file: "cpu/paging.cc",
        from: "#include \"bx_debug/debug.h\"\n",
        to: "#include \"bx_debug/debug.h\"\n#include \"dram_poison.h\"\n",
    },
    // Data of a page with poison is never accessed by its pointer.
    Change {
        file: "cpu/paging.cc",
        from: "  return (bx_hostpageaddr_t) BX_MEM(0)->getHostMemAddr(BX_CPU_THIS, paddr, rw);\n}\n",
        to: "  if (rw != BX_EXECUTE && dram_poison_in_page(paddr)) return 0;\n\n  \
             return (bx_hostpageaddr_t) BX_MEM(0)->getHostMemAddr(BX_CPU_THIS, paddr, rw);\n}\n\n\
             #include \"dram_poison.cc\"\n",
    },
    Change {
        file: "cpu/paging.cc",
        from: "  BX_MEM(0)->readPhysicalPage(BX_CPU_THIS, paddr, len, data);\n",
        to: "  consume_poison(paddr, len, false);\n  \
             BX_MEM(0)->readPhysicalPage(BX_CPU_THIS, paddr, len, data);\n",
    },
    Change {
        file: "cpu/cpu.cc",
        from: "  if (fetchPtr) {\n    BX_CPU_THIS_PTR eipFetchPtr = fetchPtr;\n",
        to: "  consume_poison(BX_CPU_THIS_PTR pAddrFetchPage + pageOffset, 1, true);\n\n  \
             if (fetchPtr) {\n    BX_CPU_THIS_PTR eipFetchPtr = fetchPtr;\n",
    },
    // The only #MC that is raised is precise.
    Change {
        file: "cpu/exception.cc",
        from: "  /* MC */ { BX_ET_BENIGN,       BX_EXCEPTION_CLASS_ABORT, 0 },\n",
        to: "  /* MC */ { BX_ET_BENIGN,       BX_EXCEPTION_CLASS_FAULT, 0 },\n",
    },
    Change {
        file: "cpu/msr.cc",
        from: "#include \"msr.h\"\n",
        to: "#include \"msr.h\"\n#include \"dram_poison.h\"\n",
    },
    Change {
        file: "cpu/msr.cc",
        from: "  // Try to check cpuid_t first (can implement some MSRs)\n  \
               int result = BX_CPU_THIS_PTR cpuid->rdmsr(index, &val_64);\n",
        to: "  if (dram_poison_rdmsr(index, msr, is_cpu_extension_supported(BX_ISA_SVM))) return true;\n\n  \
             // Try to check cpuid_t first (can implement some MSRs)\n  \
             int result = BX_CPU_THIS_PTR cpuid->rdmsr(index, &val_64);\n",
    },
    Change {
        file: "cpu/msr.cc",
        from: "  // Try to check cpuid_t first (can implement some MSRs)\n  \
               int result = BX_CPU_THIS_PTR cpuid->wrmsr(index, val_64);\n",
        to: "  if (dram_poison_wrmsr(index, val_64, is_cpu_extension_supported(BX_ISA_SVM))) return true;\n\n  \
             // Try to check cpuid_t first (can implement some MSRs)\n  \
             int result = BX_CPU_THIS_PTR cpuid->wrmsr(index, val_64);\n",
    },
    Change {
        file: "iodev/unmapped.cc",
        from: "#include \"bx_debug/debug.h\"\n",
        to: "#include \"bx_debug/debug.h\"\n#include \"cpu/dram_poison.h\"\n",
    },
    Change {
        file: "iodev/unmapped.cc",
        from: "    case 0x03df:\n",
        to: "    case 0x891c:\n      \
             retval = dram_poison_read(address);\n      \
             break;\n    \
             case 0x03df:\n",
    },
    Change {
        file: "iodev/unmapped.cc",
        from: "    case 0x8900: // Shutdown port",
        to: "    case 0x8910:\n    \
             case 0x8914:\n    \
             case 0x8918:\n      \
             dram_poison_write(address, value);\n      \
             break;\n    \
             case 0x8900: // Shutdown port",
    },
];

pub fn complete(source: &Path) -> Result<()> {
    for (name, text) in FILES {
        let path = source.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    make(source, &CHANGES, "dram_poison.rs")
}
