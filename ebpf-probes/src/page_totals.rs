//! The totals of one guest page, kept in the kernel: exact, however many exits there are and however few of
//! them are sent as records.

/// RIPs with counts of their own on one page. A flush walks with one; a guest that goes on to touch the page adds
/// one or two.
pub const RIPS: usize = 6;

/// Exits of a page that are all sent as records; past them only every power of two is, and each new RIP's
/// first.
pub const EVENTS_PER_PAGE: u64 = 256;

/// 63 exits below so many nanoseconds: the claim that is measured against.
pub const CLAIM_NS: u64 = 50_000;

/// Buckets of a log2 histogram: bucket n counts durations of 2^n to 2^(n+1) - 1 ns; the last one all above.
pub const BUCKETS: usize = 32;

shared! {
    /// A 4 KiB page of a VM as one vCPU thread touched it: key of the totals. By thread, so that no two programs
    /// ever add to the same totals at once, and the sums are exact without atomics.
    pub struct PageKey {
        /// VMM's tgid.
        pub pid: u32,
        /// The vCPU's thread.
        pub tid: u32,
        /// Guest frame number, GPA >> 12.
        pub gfn: u64,
    }

    /// Exact count, sum and extremes of a duration, ns, and its log2 histogram.
    pub struct Duration {
        pub count: u64,
        pub sum: u64,
        pub min: u64,
        pub max: u64,
        pub buckets: [u32; BUCKETS],
        /// How many were of at most [`CLAIM_NS`], which lies within a bucket.
        pub within_claim: u64,
    }

    /// What one RIP did on the page.
    pub struct ByRip {
        pub rip: u64,
        pub exits: u64,
        /// Bit n: line n was touched.
        pub lines: u64,
        pub writes: u64,
        pub fetches: u64,
        /// Exits whose line was the one after this RIP's line before.
        pub ascending: u64,
        pub first_ns: u64,
        pub last_ns: u64,
        pub first_line: u32,
        pub last_line: u32,
    }

    /// Totals of the poison exits on one page.
    pub struct PageTotals {
        pub exits: u64,
        /// SIGBUS BUS_MCEERR_AR that KVM sent for them.
        pub signals: u64,
        pub reads: u64,
        pub writes: u64,
        pub fetches: u64,
        /// Accesses by the walk of the guest's page tables.
        pub page_walks: u64,
        /// Writes, or accesses by such a walk: the kernel does not hand out the bit that shows which.
        pub writes_or_walks: u64,
        /// Bit n: line n was touched.
        pub lines: u64,
        /// Exits on the line of the exit before.
        pub same_line: u64,
        /// Exits that entered the guest again without a return to user space.
        pub in_kernel: u64,
        /// gup returned -EHWPOISON.
        pub gup_poison: u64,
        /// Exits by RIPs beyond the first [`RIPS`].
        pub other_rips: u64,
        pub first_ns: u64,
        pub last_ns: u64,
        /// Last entry into the guest after an exit on this page.
        pub last_entry_ns: u64,
        pub exit_to_entry: Duration,
        pub in_kernel_time: Duration,
        pub gup: Duration,
        pub vmm: Duration,
        pub rips: [ByRip; RIPS],
        /// Line of the last exit, and how many of `rips` are used.
        pub last_line: u32,
        pub rips_used: u32,
    }
}

const _: () = assert!(size_of::<PageKey>() == 16);
const _: () = assert!(size_of::<Duration>() == 168);
const _: () = assert!(size_of::<ByRip>() == 72);
const _: () = assert!(size_of::<PageTotals>() == 15 * 8 + 4 * 168 + RIPS * 72 + 8);

/// Kinds of access that a fault's code shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultAccess {
    Read,
    Write,
    Fetch,
    /// The walk of the guest's page tables met the page: the instruction did not address it.
    PageWalk,
    /// The bit that shows which was not handed out.
    WriteOrPageWalk,
}

/// Kind of access from `kvm_page_fault.error_code` on VMX, the raw exit qualification: bit 1 write, bit 2 fetch; with bit 7
/// (a linear address is valid) bit 8 is clear where a paging structure was accessed, which counts as a write where EPT
/// has accessed and dirty flags (Intel SDM, "Exit Qualification for EPT Violations").
#[inline(always)]
pub const fn vmx_access(qualification: u64) -> FaultAccess {
    if qualification & (1 << 7 | 1 << 8) == 1 << 7 {
        FaultAccess::PageWalk
    } else if qualification & 4 != 0 {
        FaultAccess::Fetch
    } else if qualification & 2 != 0 {
        FaultAccess::Write
    } else {
        FaultAccess::Read
    }
}

/// The same on SVM, the NPF error code: bit 1 write, bit 4 fetch; bit 32 final translation, bit 33 page-table walk, which
/// counts as a write (AMD APM volume 2, "Nested Page Faults"). The processor sets one of these two; kernels before 6.1
/// hand out 32 bits.
#[inline(always)]
pub const fn svm_access(code: u64) -> FaultAccess {
    if code >> 33 & 1 != 0 {
        FaultAccess::PageWalk
    } else if code & 0x10 != 0 {
        FaultAccess::Fetch
    } else if code & 2 == 0 {
        FaultAccess::Read
    } else if code >> 32 & 1 != 0 {
        FaultAccess::Write
    } else {
        FaultAccess::WriteOrPageWalk
    }
}
