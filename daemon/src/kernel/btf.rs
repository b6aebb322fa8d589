//! Just what is needed of BTF: which functions the kernel describes, and where members of named structs lie
//! (Documentation/bpf/btf.rst). The file is the kernel's own, but read as if it were not: every index and
//! length is checked.

use std::collections::{BTreeMap, BTreeSet};

/// Where a member lies: bytes from the beginning of the struct, and its size where the type tells one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Member {
    pub offset: u32,
    pub size: Option<u32>,
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
/// Deepest chain of typedefs, qualifiers, arrays and anonymous members that is followed.
const MAX_DEPTH: u32 = 32;
/// Members looked at for one name: structs that hold one another could be walked for ever.
const MAX_VISITS: u32 = 100_000;

/// Parsed BTF of the kernel proper.
pub struct Btf<'a> {
    strings: &'a [u8],
    /// Each type's record, by id - 1.
    types: Vec<Type<'a>>,
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
    /// Parses the types of `/sys/kernel/btf/vmlinux`.
    ///
    /// # Errors
    /// Bytes that are no BTF of this machine's byte order, or a type that does not fit.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BtfError> {
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
            strings,
            types: split(types)?,
        })
    }

    fn name(&self, offset: u32) -> Option<&'a str> {
        let rest = self.strings.get(offset as usize..)?;
        let end = rest.iter().position(|b| *b == 0)?;
        std::str::from_utf8(&rest[..end]).ok()
    }

    /// Which of `wanted` are functions of the kernel.
    pub fn functions(&self, wanted: &[&str]) -> BTreeSet<String> {
        self.types
            .iter()
            .filter(|t| t.kind == KIND_FUNC)
            .filter_map(|t| self.name(t.name))
            .filter(|name| wanted.contains(name))
            .map(str::to_owned)
            .collect()
    }

    /// Where the members `wanted` ("struct.member") lie.
    pub fn members(&self, wanted: &[&str]) -> BTreeMap<String, Member> {
        let mut found = BTreeMap::new();
        for t in self.types.iter().filter(|t| t.kind == KIND_STRUCT) {
            let Some(name) = self.name(t.name).filter(|name| !name.is_empty()) else {
                continue;
            };
            for path in wanted {
                let Some((of, member)) = path.split_once('.') else {
                    continue;
                };
                // The first definition counts: a later one of the same name is another unit's.
                let mut visits = MAX_VISITS;
                if of == name
                    && !found.contains_key(*path)
                    && let Some(member) = self.member(t, member, 0, &mut visits)
                {
                    found.insert((*path).to_owned(), member);
                }
            }
        }
        found
    }

    fn member(&self, t: &Type<'a>, wanted: &str, depth: u32, visits: &mut u32) -> Option<Member> {
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
                    size: self.size(type_id, 0),
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

    fn get(&self, id: u32) -> Option<Type<'a>> {
        self.types.get((id as usize).checked_sub(1)?).copied()
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

    fn size(&self, id: u32, depth: u32) -> Option<u32> {
        let t = self.resolve(id, 0)?;
        match t.kind {
            KIND_INT | KIND_STRUCT | KIND_UNION | KIND_ENUM | KIND_ENUM64 => Some(t.size_or_type),
            KIND_PTR => Some(8),
            KIND_ARRAY if depth < MAX_DEPTH => {
                let element = read_u32(t.tail, 0)?;
                self.size(element, depth + 1)?.checked_mul(read_u32(t.tail, 8)?)
            }
            _ => None,
        }
    }
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

fn split(mut bytes: &[u8]) -> Result<Vec<Type<'_>>, BtfError> {
    let mut types = Vec::new();
    while !bytes.is_empty() {
        let id = u32::try_from(types.len() + 1).unwrap_or(u32::MAX);
        let torn = BtfError::Type {
            id,
            problem: "does not fit into the file",
        };
        let (Some(name), Some(info), Some(size_or_type)) =
            (read_u32(bytes, 0), read_u32(bytes, 4), read_u32(bytes, 8))
        else {
            return Err(torn);
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
            _ => {
                return Err(BtfError::Type {
                    id,
                    problem: "is of a kind that this version does not know",
                });
            }
        };
        let Some(rest) = bytes.get(12..) else {
            return Err(torn);
        };
        let Some(tail) = rest.get(..tail) else {
            return Err(torn);
        };
        types.push(Type {
            name,
            kind,
            flag: info >> 31 != 0,
            vlen,
            size_or_type,
            tail,
        });
        bytes = &rest[tail.len()..];
    }
    Ok(types)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// BTF with `int`, `struct task { int a; struct { int pid; }; }` and the function `memory_failure`.
    fn sample() -> Vec<u8> {
        let strings = b"\0int\0task\0a\0pid\0memory_failure\0";
        let at = |name: &str| {
            let wanted = format!("\0{name}\0");
            let found = strings.windows(wanted.len()).position(|w| w == wanted.as_bytes());
            found.map_or(0, |at| at as u32 + 1)
        };
        let mut types: Vec<u32> = vec![at("int"), KIND_INT << 24, 4, 32];
        types.extend([0, KIND_STRUCT << 24 | 1, 4, at("pid"), 1, 0]);
        types.extend([at("task"), KIND_STRUCT << 24 | 2, 8, at("a"), 1, 0, 0, 2, 32]);
        types.extend([at("memory_failure"), KIND_FUNC << 24, 0]);
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
        let members = btf.members(&["task.a", "task.pid", "task.gone", "other.pid"]);
        assert_eq!(
            members.get("task.a"),
            Some(&Member {
                offset: 0,
                size: Some(4)
            })
        );
        assert_eq!(
            members.get("task.pid"),
            Some(&Member {
                offset: 4,
                size: Some(4)
            })
        );
        assert_eq!(members.len(), 2);
        assert_eq!(btf.functions(&["memory_failure", "gone"]).len(), 1);
    }

    #[test]
    fn no_damage_makes_it_panic() {
        let whole = sample();
        for cut in 0..whole.len() {
            let _ = Btf::parse(&whole[..cut]).map(|btf| btf.members(&["task.pid"]));
        }
        for at in 0..whole.len() {
            for value in [0, 0x7f, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                let _ = Btf::parse(&bytes).map(|btf| (btf.members(&["task.pid"]), btf.functions(&["x"])));
            }
        }
    }
}
