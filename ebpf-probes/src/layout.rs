//! Every tracepoint field and structure member that the programs read, declared once for both sides: the program
//! reads it as the type that stands here, and the daemon gives it an offset only where the running kernel has a
//! field of this size and sign.

/// How a field is laid out, apart from its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Unsigned(u32),
    Signed(u32),
    Pointer,
    /// An array of single bytes.
    Bytes(u32),
    /// A structure that is read whole.
    Struct(u32),
    /// An array of so many of anything else.
    Array(u32),
    /// `__data_loc char[]` of a tracepoint.
    DynamicText,
    /// Anything: only its place is of interest.
    Any,
}

/// A type that a field can be read as.
pub trait Readable: Copy {
    const SHAPE: Shape;
}

macro_rules! readable {
    ($($ty:ty => $shape:expr),+ $(,)?) => { $(impl Readable for $ty { const SHAPE: Shape = $shape; })+ };
}

/// A kernel address.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Address(pub u64);

/// Something that lies within what is read, whatever its size.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Place(u8);

/// `struct hlist_head`: its first node.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct List(pub u64);

/// `unsigned long regs[NR_VCPU_REGS]` as far as RIP is its last (`enum kvm_reg`).
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Registers(pub [u64; 17]);

/// `atomic_t`.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Atomic(pub i32);

/// `struct rb_root`: its `rb_node`.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Tree(pub u64);

/// `__data_loc`: where in the event a text of any length lies (low 16 bits), and its length.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct DynamicText(pub u32);

/// A pointer for each address space of a VM; the first is that outside SMM. Without CONFIG_KVM_SMM there is one.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Spaces<const N: usize>(pub [u64; N]);

/// `struct rb_node` for each of the two sets of memslots: parent and colour, right, left.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Nodes(pub [[u64; 3]; 2]);

readable! {
    u8 => Shape::Unsigned(1),
    u32 => Shape::Unsigned(4),
    u64 => Shape::Unsigned(8),
    i32 => Shape::Signed(4),
    i64 => Shape::Signed(8),
    [u8; 16] => Shape::Bytes(16),
    [u8; 15] => Shape::Bytes(15),
    Address => Shape::Pointer,
    Atomic => Shape::Struct(4),
    Place => Shape::Any,
    List => Shape::Struct(8),
    Registers => Shape::Array(17),
    DynamicText => Shape::DynamicText,
    Tree => Shape::Struct(8),
    Spaces<2> => Shape::Array(2),
    Spaces<1> => Shape::Array(1),
    Nodes => Shape::Array(2),
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// The global that holds its offset.
    pub global: &'static str,
    /// The tracepoint (`group/name`) or structure.
    pub of: &'static str,
    pub name: &'static str,
    pub shape: Shape,
}

/// Hands the table to the macro `$with`, as `GLOBAL: type = "tracepoint or structure" "field";`.
#[macro_export]
macro_rules! with_fields {
    ($with:ident) => {
        $with! {
            EXIT_REASON: u32 = "kvm/kvm_exit" "exit_reason";
            EXIT_RIP: u64 = "kvm/kvm_exit" "guest_rip";
            EXIT_ISA: u32 = "kvm/kvm_exit" "isa";
            EXIT_VCPU: u32 = "kvm/kvm_exit" "vcpu_id";
            EXIT_INTR_INFO: u32 = "kvm/kvm_exit" "intr_info";
            FAULT_ADDRESS: u64 = "kvm/kvm_page_fault" "fault_address";
            FAULT_CODE_U64: u64 = "kvm/kvm_page_fault" "error_code";
            FAULT_CODE_U32: u32 = "kvm/kvm_page_fault" "error_code";
            FAULT_RIP: u64 = "kvm/kvm_page_fault" "guest_rip";
            FAULT_VCPU: u32 = "kvm/kvm_page_fault" "vcpu_id";
            USER_REASON: u32 = "kvm/kvm_userspace_exit" "reason";
            USER_ERRNO: i32 = "kvm/kvm_userspace_exit" "errno";
            ENTRY_VCPU: u32 = "kvm/kvm_entry" "vcpu_id";
            ENTRY_RIP: u64 = "kvm/kvm_entry" "rip";
            INJ_VECTOR: u8 = "kvm/kvm_inj_exception" "exception";
            INJ_REINJECTED: u8 = "kvm/kvm_inj_exception" "reinjected";
            MSR_WRITE: u32 = "kvm/kvm_msr" "write";
            MSR_INDEX: u32 = "kvm/kvm_msr" "ecx";
            MSR_DATA: u64 = "kvm/kvm_msr" "data";
            PIO_WRITE: u32 = "kvm/kvm_pio" "rw";
            PIO_PORT: u32 = "kvm/kvm_pio" "port";
            PIO_SIZE: u32 = "kvm/kvm_pio" "size";
            PIO_VALUE: u32 = "kvm/kvm_pio" "val";
            MFE_PFN: u64 = "ras/memory_failure_event" "pfn";
            MFE_TYPE: i32 = "ras/memory_failure_event" "type";
            MFE_RESULT: i32 = "ras/memory_failure_event" "result";
            MCE_MCG_STATUS: u64 = "mce/mce_record" "mcgstatus";
            MCE_STATUS: u64 = "mce/mce_record" "status";
            MCE_ADDR: u64 = "mce/mce_record" "addr";
            MCE_MISC: u64 = "mce/mce_record" "misc";
            MCE_IP: u64 = "mce/mce_record" "ip";
            MCE_CPU: u32 = "mce/mce_record" "cpu";
            MCE_BANK: u8 = "mce/mce_record" "bank";
            MCE_CS: u8 = "mce/mce_record" "cs";
            MCE_VENDOR: u8 = "mce/mce_record" "cpuvendor";
            EDAC_TYPE: u32 = "ras/mc_event" "error_type";
            EDAC_ADDRESS: i64 = "ras/mc_event" "address";
            EDAC_LABEL: DynamicText = "ras/mc_event" "label";
            EXTLOG_ADDRESS: u64 = "ras/extlog_mem_event" "pa";
            EXTLOG_SEVERITY: u8 = "ras/extlog_mem_event" "sev";
            SIGNAL_NUMBER: i32 = "signal/signal_generate" "sig";
            SIGNAL_CODE: i32 = "signal/signal_generate" "code";
            SIGNAL_TID: i32 = "signal/signal_generate" "pid";
            SIGNAL_COMM: [u8; 16] = "signal/signal_generate" "comm";
            IOCTL_CMD: u64 = "syscalls/sys_enter_ioctl" "cmd";
            IOCTL_ARG: u64 = "syscalls/sys_enter_ioctl" "arg";
            IOCTL_RET: i64 = "syscalls/sys_exit_ioctl" "ret";
            TASK_PID: i32 = "task_struct" "pid";
            TASK_TGID: i32 = "task_struct" "tgid";
            TASK_COMM: [u8; 16] = "task_struct" "comm";
            TASK_EXIT_CODE: i32 = "task_struct" "exit_code";
            TASK_SIGNAL: Address = "task_struct" "signal";
            TASK_NOTIFIERS: List = "task_struct" "preempt_notifiers";
            SIGNAL_LIVE: Atomic = "signal_struct" "live";
            SIGNAL_GROUP_EXIT_CODE: i32 = "signal_struct" "group_exit_code";
            FILE_PRIVATE: Address = "file" "private_data";
            VCPU_KVM: Address = "kvm_vcpu" "kvm";
            VCPU_NOTIFIER: Place = "kvm_vcpu" "preempt_notifier";
            VCPU_ARCH: Place = "kvm_vcpu" "arch";
            ARCH_REGS: Registers = "kvm_vcpu_arch" "regs";
            ARCH_REGS_AVAILABLE: u32 = "kvm_vcpu_arch" "regs_avail";
            ARCH_EXIT_TSC: u64 = "kvm_vcpu_arch" "last_guest_tsc";
            ARCH_TSC_OFFSET: u64 = "kvm_vcpu_arch" "l1_tsc_offset";
            ARCH_TSC_RATIO: u64 = "kvm_vcpu_arch" "l1_tsc_scaling_ratio";
            KVM_MEMSLOTS: Spaces<2> = "kvm" "memslots";
            KVM_MEMSLOTS_ONE: Spaces<1> = "kvm" "memslots";
            SLOTS_TREE: Tree = "kvm_memslots" "gfn_tree";
            SLOTS_SET: i32 = "kvm_memslots" "node_idx";
            SLOT_NODES: Nodes = "kvm_memory_slot" "gfn_node";
            SLOT_GFN: u64 = "kvm_memory_slot" "base_gfn";
            SLOT_PAGES: u64 = "kvm_memory_slot" "npages";
            SLOT_HVA: u64 = "kvm_memory_slot" "userspace_addr";
            FILE_OPERATIONS: Address = "file" "f_op";
            OPERATIONS_IOCTL: Address = "file_operations" "unlocked_ioctl";
            FILE_INODE: Address = "file" "f_inode";
            FILE_PATH: Place = "file" "f_path";
            INODE_SUPER: Address = "inode" "i_sb";
            SUPER_MAGIC: u64 = "super_block" "s_magic";
            PATH_DENTRY: Address = "path" "dentry";
            DENTRY_NAME: Place = "dentry" "d_name";
            NAME_TEXT: Address = "qstr" "name";
            VCPU_NUMBER: i32 = "kvm_vcpu" "vcpu_id";
            ARCH_CR4: u64 = "kvm_vcpu_arch" "cr4";
            ARCH_MCG_CAP: u64 = "kvm_vcpu_arch" "mcg_cap";
            ARCH_MCG_STATUS: u64 = "kvm_vcpu_arch" "mcg_status";
            ARCH_MCG_CTL: u64 = "kvm_vcpu_arch" "mcg_ctl";
            ARCH_BANKS: Address = "kvm_vcpu_arch" "mce_banks";
            ARCH_CPUID_COUNT: i32 = "kvm_vcpu_arch" "cpuid_nent";
            ARCH_CPUID: Address = "kvm_vcpu_arch" "cpuid_entries";
            SVM_VCPU: Place = "vcpu_svm" "vcpu";
            SVM_VMCB: Address = "vcpu_svm" "vmcb";
            VMCB_CONTROL: Place = "vmcb" "control";
            CONTROL_INSN_LEN: u8 = "vmcb_control_area" "insn_len";
            CONTROL_INSN: [u8; 15] = "vmcb_control_area" "insn_bytes";
        }
    };
}

macro_rules! table {
    ($($global:ident: $ty:ty = $of:literal $name:literal;)+) => {
        /// See the module.
        pub static FIELDS: &[Field] = &[
            $(Field { global: stringify!($global), of: $of, name: $name, shape: <$ty as Readable>::SHAPE },)+
        ];
    };
}
with_fields!(table);
