//! The kernel functions that the probes bind to, and what they must take: a program reads its arguments by their
//! place, so it is bound only to a function whose BTF, where there is one, agrees.

use poisontrace_model::event::probe::{ProbeReason, Signature};
use poisontrace_probes::layout::Shape;

use super::btf::{Prototype, shape_name};

/// A function, or a tracepoint as a raw tracepoint program sees it.
pub struct Function {
    pub name: &'static str,
    /// Parameters, in order, as far as the programs go by them.
    takes: &'static [Shape],
    /// What it returns, where a program reads that; its place depends on the number of parameters.
    returns: Option<Shape>,
}

const POINTER: Shape = Shape::Pointer;
const ULONG: Shape = Shape::Unsigned(8);
const INT: Shape = Shape::Signed(4);
const UINT: Shape = Shape::Unsigned(4);

macro_rules! functions {
    ($($(#[$doc:meta])* $name:ident $function:literal [$($takes:expr),*] $returns:expr;)+) => {
        $($(#[$doc])* pub const $name: Function = Function { name: $function, takes: &[$($takes),*], returns: $returns };)+
        /// All of them.
        pub const FUNCTIONS: &[&Function] = &[$(&$name),+];
    };
}

functions! {
    /// `(pfn, flags)`, 4.19 to 7.3.
    MEMORY_FAILURE "memory_failure" [ULONG, INT] Some(INT);
    /// `(code, addr, lsb, task)`, 4.19 to 7.3.
    SEND_SIG_MCEERR "send_sig_mceerr" [INT, POINTER, Shape::Signed(2), POINTER] None;
    /// `(code, addr, lsb)`; 4.19 has a task as well.
    FORCE_SIG_MCEERR "force_sig_mceerr" [INT, POINTER, Shape::Signed(2)] None;
    /// `(start, nr_pages, pages, gup_flags)`, 4.19 to 7.3.
    GUP "get_user_pages_unlocked" [ULONG, ULONG, POINTER, UINT] Some(Shape::Signed(8));
    /// `(filp, ioctl, arg)`, 4.19 to 7.3.
    VCPU_IOCTL "kvm_arch_vcpu_ioctl" [POINTER, UINT, ULONG] None;
    /// `(vcpu, sregs)`, 4.19 to 7.3.
    GET_SREGS "kvm_arch_vcpu_ioctl_get_sregs" [POINTER, POINTER] None;
    /// `(kvm)`.
    DESTROY_VM "kvm_arch_destroy_vm" [POINTER] None;
    /// `(vcpu, cr2_or_gpa, error_code, insn, insn_len)`, 4.19 to 7.3.
    MMU_PAGE_FAULT "kvm_mmu_page_fault" [POINTER, ULONG, ULONG, POINTER, INT] None;
    /// `(ma, size, percpu)`, from 6.1 on. Nothing binds to it: see [`super::facts::Facts::maps_may_allocate`].
    MEM_ALLOC "bpf_mem_alloc_init" [POINTER, INT, Shape::Unsigned(1)] None;
}

/// Tracepoint `signal_generate(sig, info, task, group, result)`.
pub const SIGNAL_GENERATE: Function = Function {
    name: "signal_generate",
    takes: &[INT, POINTER, POINTER, INT, INT],
    returns: None,
};

/// Tracepoint `kvm_userspace_exit(reason, errno)`, 4.19 to 7.3.
pub const USERSPACE_EXIT: Function = Function {
    name: "kvm_userspace_exit",
    takes: &[UINT, INT],
    returns: None,
};

/// Tracepoint `kvm_msr(write, ecx, data, exception)`, 4.19 to 7.3.
pub const MSR: Function = Function {
    name: "kvm_msr",
    takes: &[UINT, UINT, ULONG, Shape::Unsigned(1)],
    returns: None,
};

/// Tracepoint `signal_deliver(sig, info, ka)`, 4.19 to 7.3.
pub const SIGNAL_DELIVER: Function = Function {
    name: "signal_deliver",
    takes: &[INT, POINTER, POINTER],
    returns: None,
};

/// Tracepoints whose arguments raw tracepoint programs read.
pub const RAW_TRACEPOINTS: [&Function; 4] = [&SIGNAL_GENERATE, &SIGNAL_DELIVER, &USERSPACE_EXIT, &MSR];

impl Function {
    /// Why a program cannot read the arguments of a function that the kernel describes so; `None`: it can.
    pub fn mismatch(&self, known: &Prototype) -> Option<ProbeReason> {
        let takes: Vec<String> = self.takes.iter().map(|shape| shape_name(*shape)).collect();
        let returns = self.returns.map(shape_name);
        if takes == known.takes && returns.as_ref().is_none_or(|returns| *returns == known.returns) {
            return None;
        }
        Some(ProbeReason::Prototype {
            function: self.name.to_owned(),
            known: Signature {
                takes: known.takes.clone(),
                returns: Some(known.returns.clone()),
            },
            expected: Signature { takes, returns },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_number_or_kind_of_arguments_is_named() {
        let known = |takes: &[&str], returns: &str| Prototype {
            takes: takes.iter().map(|t| (*t).to_owned()).collect(),
            returns: returns.to_owned(),
            ..Prototype::default()
        };
        assert_eq!(MEMORY_FAILURE.mismatch(&known(&["u64", "i32"], "i32")), None);
        for other in [
            known(&["u64", "i32", "pointer"], "i32"),
            known(&["u64", "u64"], "i32"),
            known(&["u64", "i32"], "nothing"),
        ] {
            assert!(matches!(
                MEMORY_FAILURE.mismatch(&other),
                Some(ProbeReason::Prototype { known, .. }) if known.takes == other.takes
            ));
        }
        // What nothing reads may change.
        assert_eq!(DESTROY_VM.mismatch(&known(&["pointer"], "i32")), None);
    }
}
