//! The machine code that the kernel made of a program.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context, Result, ensure};
use aya::programs::Program;
use aya_obj::generated::{bpf_attr, bpf_prog_info};
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind};
use serde::Serialize;

/// `enum bpf_cmd`, uapi `linux/bpf.h`.
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;

/// Sizes of a program that is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Size {
    /// Bytes of machine code, of its functions too.
    pub bytes: usize,
    /// Instructions of it.
    pub instructions: usize,
    /// Instructions of the shortest way to its return: before there is poison it takes that one.
    pub shortest: usize,
}

/// Decodes the machine code of a loaded program.
pub fn size(program: &Program) -> Result<Size> {
    let image = image(program)?;
    ensure!(
        !image.is_empty(),
        "the kernel does not compile BPF programs, or hides what it made (kernel.kptr_restrict)"
    );
    counted(&image).context("the program's machine code has no return")
}

fn image(program: &Program) -> Result<Vec<u8>> {
    let mut image = vec![0; info(program, &mut [])? as usize];
    let length = info(program, &mut image)? as usize;
    image.truncate(length);
    Ok(image)
}

/// Fills `image`; returns how long it is.
fn info(program: &Program, image: &mut [u8]) -> Result<u32> {
    // SAFETY: all-zero is valid for both: plain numbers, and unions of them.
    let (mut info, mut attr): (bpf_prog_info, bpf_attr) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    info.jited_prog_insns = image.as_mut_ptr() as u64;
    info.jited_prog_len = u32::try_from(image.len())?;
    attr.info.bpf_fd = u32::try_from(program.fd()?.as_fd().as_raw_fd())?;
    attr.info.info_len = size_of::<bpf_prog_info>() as u32;
    attr.info.info = (&raw mut info) as u64;
    // SAFETY: the kernel writes `info_len` bytes at `info` and `jited_prog_len` at `image`, which both live until it returns.
    let done = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_OBJ_GET_INFO_BY_FD,
            &raw mut attr,
            size_of::<bpf_attr>(),
        )
    };
    if done != 0 {
        return Err(io::Error::last_os_error()).context("BPF_OBJ_GET_INFO_BY_FD");
    }
    Ok(info.jited_prog_len)
}

/// Breadth first from the program's first instruction to a return; a call is one instruction. Returns may be jumps out of
/// the image (`__x86_return_thunk`).
fn counted(image: &[u8]) -> Option<Size> {
    let mut decoder = Decoder::with_ip(64, image, 0, DecoderOptions::NONE);
    let code: BTreeMap<u64, Instruction> = decoder.iter().map(|one| (one.ip(), one)).collect();
    let mut seen = BTreeMap::from([(0, 1)]);
    let mut next = VecDeque::from([0]);
    while let Some(at) = next.pop_front() {
        let one = code.get(&at)?;
        let steps = seen.get(&at).copied()?;
        let target = one.near_branch_target();
        let branches = one.op0_kind() == OpKind::NearBranch64;
        let ways: &[u64] = match one.mnemonic() {
            Mnemonic::Jmp if code.contains_key(&target) => &[target],
            Mnemonic::Ret | Mnemonic::Jmp => {
                return Some(Size {
                    bytes: image.len(),
                    instructions: code.len(),
                    shortest: steps,
                });
            }
            Mnemonic::Call => &[one.next_ip()],
            _ if branches => &[one.next_ip(), target],
            _ => &[one.next_ip()],
        };
        for way in ways {
            if !seen.contains_key(way) {
                seen.insert(*way, steps + 1);
                next.push_back(*way);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_way_is_the_one_past_the_branch() {
        // cmp edi, 0; je +3; inc eax; nop; call 0; ret
        let image = [
            0x83, 0xff, 0x00, 0x74, 0x08, 0xff, 0xc0, 0x90, 0xe8, 0xf3, 0xff, 0xff, 0xff, 0xc3,
        ];
        let size = counted(&image).unwrap();
        assert_eq!((size.bytes, size.instructions, size.shortest), (14, 6, 3));
    }

    #[test]
    fn a_jump_out_of_the_program_is_its_return() {
        // xor eax, eax; jmp far ahead
        let size = counted(&[0x31, 0xc0, 0xe9, 0x00, 0x10, 0x00, 0x00]).unwrap();
        assert_eq!(size.shortest, 2);
    }

    #[test]
    fn a_program_without_a_return_is_none() {
        // jmp self
        assert_eq!(counted(&[0xeb, 0xfe]), None);
    }
}
