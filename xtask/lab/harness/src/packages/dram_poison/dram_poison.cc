// The lab's own addition to Bochs, which knows neither uncorrected errors of memory nor the banks that report them. Included
// at the end of cpu/paging.cc, so that it is built with the processor.
//
// Intel: SDM volume 3B, "Machine-Check Architecture": SRAR errors "data load" (bank 1) and "instruction fetch" (bank 0), and
// UCNA of a memory scrubber (bank 1). AMD: APM volume 2, "Machine Check Architecture", with the registers of MCAX (SMCA): bank
// 0 is the load-store unit, bank 1 instruction fetch. Simplifications: one processor; a store leaves the line poisoned;
// instruction fetch looks at the line of RIP where a page is entered, not at each line of it.

#include "dram_poison.h"

static const unsigned DRAM_LINE = 64;
static const unsigned DRAM_LINES = 4096;

static const Bit32u COMMAND_POISON = 1;
static const Bit32u COMMAND_HEAL = 2;
static const Bit32u COMMAND_SCRUB = 3;

static const unsigned MCA_BANKS = 2;
static const Bit64u MCG_SER_P = BX_CONST64(1) << 24;
static const Bit64u MCG_CTL_P = BX_CONST64(1) << 8;
static const Bit64u MCG_RIPV = 1;
static const Bit64u MCG_EIPV = 2;
static const Bit64u MCG_MCIP = 4;

static const Bit64u MCI_VAL = BX_CONST64(1) << 63;
static const Bit64u MCI_OVER = BX_CONST64(1) << 62;
static const Bit64u MCI_UC = BX_CONST64(1) << 61;
static const Bit64u MCI_EN = BX_CONST64(1) << 60;
static const Bit64u MCI_MISCV = BX_CONST64(1) << 59;
static const Bit64u MCI_ADDRV = BX_CONST64(1) << 58;
static const Bit64u MCI_S = BX_CONST64(1) << 56;          // Intel
static const Bit64u MCI_AR = BX_CONST64(1) << 55;         // Intel
static const Bit64u MCI_DEFERRED = BX_CONST64(1) << 44;   // AMD
static const Bit64u MCI_POISON = BX_CONST64(1) << 43;     // AMD

// Error codes: Intel's compound codes, and AMD's memory hierarchy with the extended code of the load-store unit's "data error
// and poison consumption".
static const Bit64u INTEL_LOAD = 0x134;
static const Bit64u INTEL_FETCH = 0x150;
static const Bit64u INTEL_SCRUB = 0xc0;
static const Bit64u AMD_LOAD = (0xb << 16) | 0x135;
static const Bit64u AMD_FETCH = 0x151;
// MISC: the address is physical and has 6 insignificant bits.
static const Bit64u INTEL_LINE = (2 << 6) | 6;
// MCA_ADDR has the insignificant bits in 61:56.
static const Bit64u AMD_LINE = BX_CONST64(6) << 56;

static struct {
  Bit64u lines[DRAM_LINES];
  unsigned count;
  Bit64u address;
  Bit32u consumed;
  Bit64u mcg_ctl, mcg_status;
  Bit64u bank[MCA_BANKS][4];  // CTL, STATUS, ADDR, MISC
} dram;

static void dram_report(unsigned bank, Bit64u status, Bit64u addr, Bit64u misc)
{
  Bit64u *registers = dram.bank[bank];
  // An uncorrected error that nobody has looked at stays.
  if (registers[1] & MCI_VAL) {
    registers[1] |= MCI_OVER;
    return;
  }
  registers[1] = status;
  registers[2] = addr;
  registers[3] = misc;
}

bool dram_poison_in_page(bx_phy_address paddr)
{
  for (unsigned n = 0; n < dram.count; n++)
    if (PPFOf(dram.lines[n]) == PPFOf(paddr)) return true;
  return false;
}

void dram_poison_write(Bit32u port, Bit32u value)
{
  switch (port) {
    case DRAM_POISON_ADDRESS_LOW:
      dram.address = (dram.address & BX_CONST64(0xffffffff00000000)) | (value & ~(DRAM_LINE - 1));
      return;
    case DRAM_POISON_ADDRESS_HIGH:
      dram.address = (dram.address & 0xffffffff) | ((Bit64u) value << 32);
      return;
    case DRAM_POISON_COMMAND:
      break;
    default:
      return;
  }
  if (value == COMMAND_POISON && dram.count < DRAM_LINES) {
    dram.lines[dram.count++] = dram.address;
  } else if (value == COMMAND_HEAL) {
    unsigned kept = 0;
    for (unsigned n = 0; n < dram.count; n++)
      if (dram.lines[n] != dram.address) dram.lines[kept++] = dram.lines[n];
    dram.count = kept;
  } else if (value == COMMAND_SCRUB) {
    // Found and not consumed: no #MC, whoever polls the banks sees it.
    if (BX_CPU(0)->is_cpu_extension_supported(BX_ISA_SVM))
      dram_report(0, MCI_VAL | MCI_EN | MCI_ADDRV | MCI_DEFERRED | MCI_POISON | AMD_LOAD, dram.address | AMD_LINE, 0);
    else
      dram_report(1, MCI_VAL | MCI_UC | MCI_EN | MCI_MISCV | MCI_ADDRV | INTEL_SCRUB, dram.address, INTEL_LINE);
  }
  // No translation that was made before may lead past the checks.
  bx_pc_system.MemoryMappingChanged();
}

Bit32u dram_poison_read(Bit32u port)
{
  return port == DRAM_POISON_CONSUMED ? dram.consumed : 0;
}

void BX_CPU_C::consume_poison(bx_phy_address paddr, unsigned len, bool fetch)
{
  if (dram.count == 0) return;
  bx_phy_address first = paddr & ~((bx_phy_address) DRAM_LINE - 1);
  bx_phy_address line = 0;
  bool met = false;
  for (unsigned n = 0; n < dram.count && ! met; n++) {
    line = dram.lines[n];
    met = line >= first && line < paddr + len;
  }
  if (! met) return;

  dram.consumed++;
  if (is_cpu_extension_supported(BX_ISA_SVM)) {
    Bit64u status = MCI_VAL | MCI_UC | MCI_EN | MCI_ADDRV | MCI_POISON;
    dram_report(fetch ? 1 : 0, status | (fetch ? AMD_FETCH : AMD_LOAD), line | AMD_LINE, 0);
  } else {
    Bit64u status = MCI_VAL | MCI_UC | MCI_EN | MCI_MISCV | MCI_ADDRV | MCI_S | MCI_AR;
    dram_report(fetch ? 0 : 1, status | (fetch ? INTEL_FETCH : INTEL_LOAD), line, INTEL_LINE);
  }
  // Both manuals: the processor shuts down.
  if ((dram.mcg_status & MCG_MCIP) || ! BX_CPU_THIS_PTR cr4.get_MCE())
    BX_PANIC(("poison at 0x" FMT_PHY_ADDRX " is consumed while machine checks are off or one is in progress", line));
  dram.mcg_status = MCG_MCIP | MCG_RIPV | (fetch ? 0 : MCG_EIPV);
  exception(BX_MC_EXCEPTION, 0);
}

// The register of a bank that an MSR is; NULL: none.
static Bit64u *dram_bank_register(Bit32u index, bool amd)
{
  if (index >= 0x400 && index < 0x400 + 4 * MCA_BANKS)
    return &dram.bank[(index - 0x400) / 4][index % 4];
  if (amd && index >= 0xc0002000 && index < 0xc0002000 + 16 * MCA_BANKS && index % 16 < 4)
    return &dram.bank[(index - 0xc0002000) / 16][index % 16];
  return NULL;
}

bool dram_poison_rdmsr(Bit32u index, Bit64u *value, bool amd)
{
  Bit64u *bank = dram_bank_register(index, amd);
  if (bank) {
    *value = *bank;
    return true;
  }
  if (amd && index >= 0xc0002000 && index < 0xc0002000 + 16 * MCA_BANKS) {
    // MCA_CONFIG: MCAX. MCA_IPID: 0xb0 is a core, and the type of the bank its number. Others: nothing.
    Bit64u type = (index - 0xc0002000) / 16;
    *value = index % 16 == 4 ? 1 : index % 16 == 5 ? (type << 48) | (BX_CONST64(0xb0) << 32) : 0;
    return true;
  }
  switch (index) {
    case 0x179:
      *value = MCA_BANKS | (amd ? MCG_CTL_P : MCG_SER_P);
      return true;
    case 0x17a:
      *value = dram.mcg_status;
      return true;
    case 0x17b:
      *value = dram.mcg_ctl;
      return amd;
  }
  return false;
}

bool dram_poison_wrmsr(Bit32u index, Bit64u value, bool amd)
{
  Bit64u *bank = dram_bank_register(index, amd);
  if (bank) {
    *bank = value;
    return true;
  }
  switch (index) {
    case 0x17a:
      dram.mcg_status = value;
      return true;
    case 0x17b:
      dram.mcg_ctl = value;
      return amd;
  }
  // What else of MCAX can be written is read as it was.
  return amd && index >= 0xc0002000 && index < 0xc0002000 + 16 * MCA_BANKS;
}
