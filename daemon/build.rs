//! Names the commit that the binary is built from, which `cargo xtask build` gives.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=POISONTRACE_REVISION");
    let revision = env::var("POISONTRACE_REVISION").unwrap_or_else(|_| "unknown revision".to_owned());
    println!("cargo:rustc-env=POISONTRACE_BUILT_FROM={revision}");
}
