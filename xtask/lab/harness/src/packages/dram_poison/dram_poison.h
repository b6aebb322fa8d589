// The lab's own addition to Bochs: 64-byte lines of DRAM that are poisoned, and the machine-check banks that report them.
// See dram_poison.cc.

#ifndef LAB_DRAM_POISON_H
#define LAB_DRAM_POISON_H

// Ports, 32 bits each: the low and the high half of a line's address, a command, and (read only) how often poison was consumed.
const Bit32u DRAM_POISON_ADDRESS_LOW = 0x8910;
const Bit32u DRAM_POISON_ADDRESS_HIGH = 0x8914;
const Bit32u DRAM_POISON_COMMAND = 0x8918;
const Bit32u DRAM_POISON_CONSUMED = 0x891c;

void dram_poison_write(Bit32u port, Bit32u value);
Bit32u dram_poison_read(Bit32u port);

// Whether one of the page's lines is poisoned: such a page is never accessed past the checks.
bool dram_poison_in_page(bx_phy_address paddr);

// The registers of machine checks; false: another register.
bool dram_poison_rdmsr(Bit32u index, Bit64u *value, bool amd);
bool dram_poison_wrmsr(Bit32u index, Bit64u value, bool amd);

#endif
