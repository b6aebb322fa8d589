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

    pub fn kvm_module(self) -> &'static str {
        match self {
            Self::Intel => "kvm_intel",
            Self::Amd => "kvm_amd",
        }
    }
}
