//! The fields that the programs read: where they lie on this kernel, and those that are missing.

use poisontrace_model::event::probe::MissingField;
use poisontrace_probes::layout::{FIELDS, Field, Shape};

use crate::{btf::shape_name, facts::Facts};

/// Where the field lies, if the kernel has it as the programs read it.
pub fn offset(facts: &Facts, field: &Field) -> Option<u32> {
    if field.of.contains('/') {
        return facts.event(field.of)?.1.offset(field.name, field.shape);
    }
    let member = facts.members.get(&format!("{}.{}", field.of, field.name))?;
    let fits = field.shape == Shape::Any || member.is == shape_name(field.shape);
    fits.then_some(member.offset)
}

/// Fields of which either one is enough: it is missing only if both are.
const ALTERNATIVES: [[&str; 2]; 2] = [
    ["FAULT_CODE_U64", "FAULT_CODE_U32"],
    ["KVM_MEMSLOTS", "KVM_MEMSLOTS_ONE"],
];

/// The fields of a tracepoint, or of a structure, that this kernel does not have as the programs read them.
pub fn missing(facts: &Facts, of: &str) -> Vec<MissingField> {
    let fields = FIELDS.iter().filter(|field| field.of == of);
    fields.filter_map(|field| missing_field(facts, field)).collect()
}

fn missing_field(facts: &Facts, field: &Field) -> Option<MissingField> {
    let alternatives = ALTERNATIVES.iter().find(|either| either.contains(&field.global));
    // One loss for both.
    if alternatives.is_some_and(|[first, _]| *first != field.global) {
        return None;
    }
    let is_one = |other: &&Field| match alternatives {
        Some(either) => either.contains(&other.global),
        None => other.global == field.global,
    };
    let all: Vec<&Field> = FIELDS.iter().filter(is_one).collect();
    if all.iter().any(|field| offset(facts, field).is_some()) {
        return None;
    }
    Some(MissingField {
        global: field.global.to_owned(),
        name: field.name.to_owned(),
        shapes: all.iter().map(|field| shape_name(field.shape)).collect(),
    })
}
