//! Puts the BPF object into the binary. `cargo xtask build` makes it and names it in
//! POISONTRACE_BPF_OBJECT; a plain `cargo build` has none, and the daemon then states it when it is asked to
//! attach (everything that needs no kernel works).

use std::{env, fs, path::PathBuf};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=POISONTRACE_BPF_OBJECT");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("probes.o");
    let object = env::var_os("POISONTRACE_BPF_OBJECT").filter(|path| !path.is_empty());
    let bytes = match &object {
        Some(path) => {
            println!("cargo:rerun-if-changed={}", path.to_string_lossy());
            match fs::read(path) {
                Ok(bytes) => bytes,
                Err(err) => {
                    println!(
                        "cargo:error=POISONTRACE_BPF_OBJECT: cannot read {}: {err}; run `cargo xtask build`",
                        path.to_string_lossy()
                    );
                    return;
                }
            }
        }
        None => Vec::new(),
    };
    if let Err(err) = fs::write(&out, bytes) {
        println!("cargo:error=cannot write {}: {err}", out.display());
    }
}
