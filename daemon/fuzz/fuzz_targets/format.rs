//! tracefs `format` files.

#![no_main]

use libfuzzer_sys::fuzz_target;
use poisontrace::kernel::format::Format;

fuzz_target!(|text: &str| {
    let format = Format::parse(text);
    for name in ["pfn", "type", "result", "exit_reason", "vcpu_id"] {
        format.offset(name, 4);
        format.symbols(name);
    }
});
