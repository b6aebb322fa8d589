//! tracefs `format` files.

#![no_main]

use libfuzzer_sys::fuzz_target;
use poisontrace_kernel_facts::format::Format;
use poisontrace_probes::layout::Shape;

fuzz_target!(|text: &str| {
    let format = Format::parse(text);
    for name in ["pfn", "type", "result", "exit_reason", "vcpu_id"] {
        for shape in [
            Shape::Unsigned(4),
            Shape::Signed(8),
            Shape::Pointer,
            Shape::Bytes(16),
            Shape::Struct(8),
        ] {
            format.offset(name, shape);
        }
        format.symbols(name);
    }
});
