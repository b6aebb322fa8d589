//! The emulated processors.

use clap::ValueEnum;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Processor {
    /// VMX with EPT
    Intel,
    /// SVM with nested paging
    Amd,
}

impl Processor {
    pub fn name(self) -> &'static str {
        match self {
            Self::Intel => "intel",
            Self::Amd => "amd",
        }
    }

    /// Bochs' name of it.
    pub fn model(self) -> &'static str {
        match self {
            Self::Intel => "corei7_skylake_x",
            Self::Amd => "ryzen",
        }
    }

    /// Instructions in a second of the emulated clock. The Intel model tells the kernel a frequency of its own, 35 times
    /// this; the AMD model is measured, and at 100 million the timer would interrupt every second storm.
    pub fn instructions_a_second(self) -> u64 {
        match self {
            Self::Intel => 100_000_000,
            Self::Amd => 1_000_000_000,
        }
    }

    pub fn kvm_module(self) -> &'static str {
        match self {
            Self::Intel => "kvm_intel",
            Self::Amd => "kvm_amd",
        }
    }
}
