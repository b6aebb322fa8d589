//! Just what is needed of BTF: the functions that the kernel and its modules describe, and where members of named
//! structs lie (Documentation/bpf/btf.rst). The file is the kernel's own, but read as if it were not: every index and
//! length is checked. Only where each type begins is kept, as a kernel has 150,000 of them.

use std::collections::BTreeMap;

use poisontrace_probes::layout::Shape;
use serde::{Deserialize, Serialize};

/// Where a member lies, bytes from the beginning of the struct, and what it is: see [`shape_name`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub offset: u32,
    pub is: String,
}

/// What a function takes and returns, each as [`shape_name`] writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prototype {
    /// The module whose BTF describes it; `None`: the kernel proper.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
    /// Its number in the kernel's BTF; not kept with stored facts.
    #[serde(skip)]
    pub id: u32,
    pub takes: Vec<String>,
    pub returns: String,
}

/// `u32`, `i64`, `pointer`, `bytes 16`, `struct 4`: what stored facts and the plan compare.
pub fn shape_name(shape: Shape) -> String {
    match shape {
        Shape::Unsigned(size) => format!("u{}", size.saturating_mul(8)),
        Shape::Signed(size) => format!("i{}", size.saturating_mul(8)),
        Shape::Pointer => "pointer".to_owned(),
        Shape::Bytes(size) => format!("bytes {size}"),
        Shape::Struct(size) => format!("struct {size}"),
        Shape::Array(length) => format!("array of {length}"),
        Shape::DynamicText => "text".to_owned(),
        Shape::Any => "anything".to_owned(),
    }
}

/// Why BTF cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BtfError {
    #[error("not BTF: {0}")]
    Header(&'static str),
    #[error("BTF type {id}: {problem}")]
    Type { id: u32, problem: &'static str },
}

const MAGIC: u16 = 0xeb9f;
const KIND_INT: u32 = 1;
const KIND_PTR: u32 = 2;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_TYPEDEF: u32 = 8;
const KIND_VOLATILE: u32 = 9;
const KIND_CONST: u32 = 10;
const KIND_RESTRICT: u32 = 11;
const KIND_FUNC: u32 = 12;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;
const KIND_DECL_TAG: u32 = 17;
const KIND_TYPE_TAG: u32 = 18;
const KIND_ENUM64: u32 = 19;
/// Bit of an int's word after its header: it is signed.
const INT_SIGNED: u32 = 1 << 24;
/// Deepest chain of typedefs, qualifiers, arrays and anonymous members that is followed.
const MAX_DEPTH: u32 = 32;
/// Members looked at for one name: structs that hold one another could be walked for ever.
const MAX_VISITS: u32 = 100_000;

/// BTF of the kernel proper, or of a module on top of it.
pub struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Where each type begins in `types`.
    begins: Vec<u32>,
    base: Option<&'a Self>,
}

#[derive(Clone, Copy)]
struct Type<'a> {
    name: u32,
    kind: u32,
    /// Bit 31 of info: a struct's member offsets hold bit field sizes.
    flag: bool,
    vlen: u32,
    /// `size` or `type`, by kind.
    size_or_type: u32,
    tail: &'a [u8],
}

impl<'a> Btf<'a> {
    /// Parses `/sys/kernel/btf/vmlinux`.
    ///
    /// # Errors
    /// Bytes that are no BTF of this machine's byte order, or a type that does not fit.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BtfError> {
        Self::parse_on(bytes, None)
    }

    /// Parses the BTF of a module, whose numbers and strings go on where those of the kernel end.
    ///
    /// # Errors
    /// As [`Btf::parse`].
    pub fn parse_module(bytes: &'a [u8], kernel: &'a Self) -> Result<Self, BtfError> {
        Self::parse_on(bytes, Some(kernel))
    }

    fn parse_on(bytes: &'a [u8], base: Option<&'a Self>) -> Result<Self, BtfError> {
        let word = |at: usize| read_u32(bytes, at).ok_or(BtfError::Header("shorter than its header"));
        let magic = bytes.get(..2).map(|b| u16::from_le_bytes([b[0], b[1]]));
        if magic != Some(MAGIC) {
            return Err(BtfError::Header("wrong magic"));
        }
        let header = word(4)? as usize;
        let section = |offset: u32, len: u32| {
            let start = header.checked_add(offset as usize)?;
            bytes.get(start..start.checked_add(len as usize)?)
        };
        let types = section(word(8)?, word(12)?).ok_or(BtfError::Header("types lie outside the file"))?;
        let strings =
            section(word(16)?, word(20)?).ok_or(BtfError::Header("strings lie outside the file"))?;
        Ok(Self {
            types,
            strings,
            begins: split(types)?,
            base,
        })
    }

    /// Numbers and bytes of strings that the base takes.
    fn taken(&self) -> (u32, u32) {
        self.base.map_or((0, 0), |base| {
            (count(base.begins.len()), count(base.strings.len()))
        })
    }

    fn name(&self, offset: u32) -> Option<&'a [u8]> {
        let (_, taken) = self.taken();
        let Some(offset) = offset.checked_sub(taken) else {
            return self.base?.name(offset);
        };
        let rest = self.strings.get(offset as usize..)?;
        Some(&rest[..memchr::memchr(0, rest)?])
    }

    fn get(&self, id: u32) -> Option<Type<'a>> {
        let (taken, _) = self.taken();
        if id <= taken && self.base.is_some() {
            return self.base?.get(id);
        }
        let n = id.checked_sub(taken)?.checked_sub(1)?;
        let at = *self.begins.get(n as usize)?;
        Some(type_at(self.types, at as usize).ok()?.0)
    }

    /// The types of this file, with their numbers.
    fn own(&self) -> impl Iterator<Item = (u32, Type<'a>)> + '_ {
        let (taken, _) = self.taken();
        self.begins.iter().zip(taken + 1..).filter_map(|(at, id)| {
            let (t, _) = type_at(self.types, *at as usize).ok()?;
            Some((id, t))
        })
    }

    /// Those of `wanted` that are functions.
    pub fn functions(&self, wanted: &[&str]) -> BTreeMap<String, Prototype> {
        self.own()
            .filter(|(_, t)| t.kind == KIND_FUNC)
            .filter_map(|(id, t)| {
                let name = wanted_name(self.name(t.name)?, wanted)?;
                Some((name.to_owned(), self.prototype(id, t.size_or_type)?))
            })
            .collect()
    }

    /// Those of `wanted` that are tracepoints, as a raw tracepoint program gets them: behind the typedef
    /// `btf_trace_NAME` stands a function whose first parameter is not the event's.
    pub fn raw_tracepoints(&self, wanted: &[&str]) -> BTreeMap<String, Prototype> {
        self.own()
            .filter(|(_, t)| t.kind == KIND_TYPEDEF)
            .filter_map(|(id, t)| {
                let name = wanted_name(self.name(t.name)?.strip_prefix(b"btf_trace_")?, wanted)?;
                let pointer = self.get(t.size_or_type).filter(|t| t.kind == KIND_PTR)?;
                let mut prototype = self.prototype(id, pointer.size_or_type)?;
                if !prototype.takes.is_empty() {
                    prototype.takes.remove(0);
                }
                Some((name.to_owned(), prototype))
            })
            .collect()
    }

    fn prototype(&self, id: u32, of: u32) -> Option<Prototype> {
        let t = self.get(of).filter(|t| t.kind == KIND_FUNC_PROTO)?;
        let takes = (0..t.vlen as usize)
            .map(|n| read_u32(t.tail, n * 8 + 4).map(|id| self.shape(id)))
            .collect::<Option<_>>()?;
        Some(Prototype {
            module: None,
            id,
            takes,
            returns: self.shape(t.size_or_type),
        })
    }

    /// Where the members `wanted` (struct, member) lie, as `struct.member`.
    pub fn members(&self, wanted: &[(&str, &str)]) -> BTreeMap<String, Member> {
        let mut found = BTreeMap::new();
        for (_, t) in self.own().filter(|(_, t)| t.kind == KIND_STRUCT) {
            let Some(name) = self.name(t.name).filter(|name| !name.is_empty()) else {
                continue;
            };
            for (of, member) in wanted.iter().filter(|(of, _)| of.as_bytes() == name) {
                // The first definition counts: a later one of the same name is another unit's.
                let path = format!("{of}.{member}");
                let mut visits = MAX_VISITS;
                if !found.contains_key(&path)
                    && let Some(member) = self.member(&t, member.as_bytes(), 0, &mut visits)
                {
                    found.insert(path, member);
                }
            }
        }
        found
    }

    fn member(&self, t: &Type<'a>, wanted: &[u8], depth: u32, visits: &mut u32) -> Option<Member> {
        if depth > MAX_DEPTH {
            return None;
        }
        for n in 0..t.vlen as usize {
            *visits = visits.checked_sub(1)?;
            let name = read_u32(t.tail, n * 12)?;
            let type_id = read_u32(t.tail, n * 12 + 4)?;
            let place = read_u32(t.tail, n * 12 + 8)?;
            let (bits, bit_field) = if t.flag {
                (place & 0xff_ffff, place >> 24)
            } else {
                (place, 0)
            };
            let name = self.name(name)?;
            if name == wanted {
                // A bit field has no byte to read.
                return (bit_field == 0 && bits % 8 == 0).then(|| Member {
                    offset: bits / 8,
                    is: self.shape(type_id),
                });
            }
            if name.is_empty() {
                let inner = self.resolve(type_id, 0)?;
                if matches!(inner.kind, KIND_STRUCT | KIND_UNION)
                    && let Some(member) = self.member(&inner, wanted, depth + 1, visits)
                {
                    return Some(Member {
                        offset: member.offset.checked_add(bits / 8)?,
                        ..member
                    });
                }
            }
        }
        None
    }

    /// Through typedefs and qualifiers.
    fn resolve(&self, id: u32, depth: u32) -> Option<Type<'a>> {
        let t = self.get(id)?;
        match t.kind {
            KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST | KIND_RESTRICT | KIND_TYPE_TAG
                if depth < MAX_DEPTH =>
            {
                self.resolve(t.size_or_type, depth + 1)
            }
            _ => Some(t),
        }
    }

    /// See [`shape_name`]; what has no such shape keeps a name that no program asks for.
    fn shape(&self, id: u32) -> String {
        if id == 0 {
            return "nothing".to_owned();
        }
        let Some(t) = self.resolve(id, 0) else {
            return "damaged".to_owned();
        };
        let size = t.size_or_type;
        match t.kind {
            KIND_INT if read_u32(t.tail, 0).is_some_and(|word| word & INT_SIGNED != 0) => {
                shape_name(Shape::Signed(size))
            }
            KIND_INT => shape_name(Shape::Unsigned(size)),
            KIND_PTR => shape_name(Shape::Pointer),
            KIND_STRUCT | KIND_UNION => shape_name(Shape::Struct(size)),
            KIND_ENUM | KIND_ENUM64 => format!("enum {size}"),
            KIND_ARRAY => {
                let element = read_u32(t.tail, 0).and_then(|id| self.resolve(id, 0));
                let length = read_u32(t.tail, 8).unwrap_or(0);
                match element {
                    Some(e) if e.kind == KIND_INT && e.size_or_type == 1 => shape_name(Shape::Bytes(length)),
                    _ => shape_name(Shape::Array(length)),
                }
            }
            kind => format!("kind {kind}"),
        }
    }
}

fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

fn wanted_name<'w>(name: &[u8], wanted: &[&'w str]) -> Option<&'w str> {
    wanted.iter().copied().find(|wanted| wanted.as_bytes() == name)
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

/// The type at a place, and where the next begins.
fn type_at(types: &[u8], at: usize) -> Result<(Type<'_>, usize), &'static str> {
    const TORN: &str = "does not fit into the file";
    let bytes = types.get(at..).ok_or(TORN)?;
    let (Some(name), Some(info), Some(size_or_type)) =
        (read_u32(bytes, 0), read_u32(bytes, 4), read_u32(bytes, 8))
    else {
        return Err(TORN);
    };
    let (kind, vlen) = ((info >> 24) & 0x1f, info & 0xffff);
    let each: usize = match kind {
        KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => 12,
        KIND_ENUM | KIND_FUNC_PROTO => 8,
        _ => 0,
    };
    let tail = match kind {
        KIND_INT | KIND_VAR | KIND_DECL_TAG => 4,
        KIND_ARRAY => 12,
        1..=KIND_ENUM64 => each * vlen as usize,
        _ => return Err("is of a kind that this version does not know"),
    };
    let tail = bytes.get(12..12 + tail).ok_or(TORN)?;
    let t = Type {
        name,
        kind,
        flag: info >> 31 != 0,
        vlen,
        size_or_type,
        tail,
    };
    Ok((t, at + 12 + tail.len()))
}

/// Where each type begins.
fn split(types: &[u8]) -> Result<Vec<u32>, BtfError> {
    let mut begins = Vec::with_capacity(types.len() / 24);
    let mut at = 0;
    while at < types.len() {
        let (_, next) = type_at(types, at).map_err(|problem| BtfError::Type {
            id: count(begins.len()).saturating_add(1),
            problem,
        })?;
        begins.push(count(at));
        at = next;
    }
    Ok(begins)
}

#[cfg(test)]
mod tests;
