use super::*;

/// BTF with `int`, `struct task { int a; struct { int pid; }; }` and the function `int memory_failure(int a)`.
fn sample() -> Vec<u8> {
    let strings = b"\0int\0task\0a\0pid\0memory_failure\0";
    let at = |name: &str| {
        let wanted = format!("\0{name}\0");
        let found = strings.windows(wanted.len()).position(|w| w == wanted.as_bytes());
        found.map_or(0, |at| at as u32 + 1)
    };
    let mut types: Vec<u32> = vec![at("int"), KIND_INT << 24, 4, 32 | INT_SIGNED];
    types.extend([0, KIND_STRUCT << 24 | 1, 4, at("pid"), 1, 0]);
    types.extend([at("task"), KIND_STRUCT << 24 | 2, 8, at("a"), 1, 0, 0, 2, 32]);
    types.extend([at("memory_failure"), KIND_FUNC << 24, 5]);
    types.extend([0, KIND_FUNC_PROTO << 24 | 1, 1, at("a"), 1]);
    let mut out = vec![0x9f, 0xeb, 1, 0];
    let types: Vec<u8> = types.iter().flat_map(|w| w.to_le_bytes()).collect();
    for word in [
        24,
        0,
        types.len() as u32,
        types.len() as u32,
        strings.len() as u32,
    ] {
        out.extend(word.to_le_bytes());
    }
    out.extend(types);
    out.extend(strings);
    out
}

#[test]
fn members_of_anonymous_structs_are_found_at_their_place() {
    let bytes = sample();
    let btf = Btf::parse(&bytes).unwrap();
    let members = btf.members(&[("task", "a"), ("task", "pid"), ("task", "gone"), ("other", "pid")]);
    let int_at = |offset| Member {
        offset,
        is: "i32".into(),
    };
    assert_eq!(members.get("task.a"), Some(&int_at(0)));
    assert_eq!(members.get("task.pid"), Some(&int_at(4)));
    assert_eq!(members.len(), 2);
}

#[test]
fn a_function_is_known_by_what_it_takes() {
    let bytes = sample();
    let btf = Btf::parse(&bytes).unwrap();
    let found = btf.functions(&["memory_failure", "gone"]);
    assert_eq!(found.len(), 1);
    let function = &found["memory_failure"];
    assert_eq!(
        (function.id, function.takes.as_slice(), function.returns.as_str()),
        (4, &["i32".to_owned()][..], "i32")
    );
}

#[test]
fn a_module_goes_on_where_the_kernel_ends() {
    let kernel = sample();
    let kernel = Btf::parse(&kernel).unwrap();
    // One function, `tail`, of the kernel's prototype 5.
    let taken = kernel.strings.len() as u32;
    let mut module = vec![0x9f, 0xeb, 1, 0];
    let strings = b"\0tail\0";
    for word in [24, 0, 12, 12, strings.len() as u32, taken + 1, KIND_FUNC << 24, 5] {
        module.extend(word.to_le_bytes());
    }
    module.extend(strings);
    let module = Btf::parse_module(&module, &kernel).unwrap();
    let found = module.functions(&["tail", "memory_failure"]);
    assert_eq!(found.keys().collect::<Vec<_>>(), ["tail"]);
    assert_eq!((found["tail"].id, found["tail"].takes.len()), (6, 1));
}

#[test]
fn no_damage_makes_it_panic() {
    let whole = sample();
    for cut in 0..whole.len() {
        let _ = Btf::parse(&whole[..cut]).map(|btf| btf.members(&[("task", "pid")]));
    }
    for at in 0..whole.len() {
        for value in [0, 0x7f, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] = value;
            let _ = Btf::parse(&bytes).map(|btf| (btf.members(&[("task", "pid")]), btf.functions(&["x"])));
        }
    }
}
