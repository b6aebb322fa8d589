//! Text in UTF-16, as Windows' tools save it, read as UTF-8.

use std::io::{self, BufRead, Read};

/// How the two bytes of a unit stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Little endian.
    Little,
    /// Big endian.
    Big,
}

/// The order of a file that begins with these bytes, if it is UTF-16: by its mark, or by the zeros of ASCII.
pub fn order(head: &[u8]) -> Option<Order> {
    match head {
        [0xff, 0xfe, ..] => return Some(Order::Little),
        [0xfe, 0xff, ..] => return Some(Order::Big),
        _ => {}
    }
    /// ASCII enough to show.
    const UNITS: usize = 16;
    let units = head.get(..2 * UNITS)?.chunks_exact(2);
    let ascii: fn(u8) -> bool = |b| matches!(b, b'\t' | b'\n' | b'\r' | 0x20..=0x7e);
    let zero: fn(u8) -> bool = |b| b == 0;
    let all = |first: fn(u8) -> bool, second: fn(u8) -> bool| {
        let mut units = units.clone();
        units.all(|unit| first(unit[0]) && second(unit[1]))
    };
    if all(ascii, zero) {
        Some(Order::Little)
    } else if all(zero, ascii) {
        Some(Order::Big)
    } else {
        None
    }
}

/// Reads UTF-16 and gives UTF-8; what is no text becomes U+FFFD.
pub struct Utf8<R> {
    input: R,
    order: Order,
    /// The first half of a pair.
    high: Option<u16>,
    /// Bytes that found no room, and how many of them are given.
    rest: [u8; 8],
    rest_from: usize,
    rest_to: usize,
}

impl<R: BufRead> Utf8<R> {
    /// Reads `input`, in this order of bytes.
    pub fn new(input: R, order: Order) -> Self {
        Self {
            input,
            order,
            high: None,
            rest: [0; 8],
            rest_from: 0,
            rest_to: 0,
        }
    }

    fn unit(&mut self) -> io::Result<Option<u16>> {
        let mut bytes = [0; 2];
        let mut filled = 0;
        while filled < 2 {
            let buffer = match self.input.fill_buf() {
                Ok(buffer) => buffer,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
                Err(err) => return Err(err),
            };
            let Some(byte) = buffer.first() else {
                return Ok(None);
            };
            bytes[filled] = *byte;
            filled += 1;
            self.input.consume(1);
        }
        Ok(Some(match self.order {
            Order::Little => u16::from_le_bytes(bytes),
            Order::Big => u16::from_be_bytes(bytes),
        }))
    }

    fn put(&mut self, c: char) {
        if c == '\u{feff}' {
            return;
        }
        let length = c.encode_utf8(&mut self.rest[self.rest_to..]).len();
        self.rest_to += length;
    }

    /// Decodes the next character into `rest`; `false` at the end.
    fn decode(&mut self) -> io::Result<bool> {
        (self.rest_from, self.rest_to) = (0, 0);
        let Some(unit) = self.unit()? else {
            let lone = self.high.take().is_some();
            if lone {
                self.put(char::REPLACEMENT_CHARACTER);
            }
            return Ok(lone);
        };
        if let Some(high) = self.high.take() {
            match char::decode_utf16([high, unit]).next() {
                Some(Ok(c)) => {
                    self.put(c);
                    return Ok(true);
                }
                _ => self.put(char::REPLACEMENT_CHARACTER),
            }
        }
        match unit {
            0xd800..=0xdbff => self.high = Some(unit),
            unit => self.put(char::from_u32(u32::from(unit)).unwrap_or(char::REPLACEMENT_CHARACTER)),
        }
        Ok(true)
    }
}

impl<R: BufRead> Read for Utf8<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut given = 0;
        while given < out.len() {
            if self.rest_from == self.rest_to && !self.decode()? {
                break;
            }
            let n = (self.rest_to - self.rest_from).min(out.len() - given);
            out[given..given + n].copy_from_slice(&self.rest[self.rest_from..self.rest_from + n]);
            self.rest_from += n;
            given += n;
        }
        Ok(given)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "[ 1.0] Memory failure: 0x1: ä \u{1f600}\r\nnext\n";

    fn bytes(order: Order) -> Vec<u8> {
        let units = TEXT.encode_utf16();
        units
            .flat_map(|unit| match order {
                Order::Little => unit.to_le_bytes(),
                Order::Big => unit.to_be_bytes(),
            })
            .collect()
    }

    #[test]
    fn both_orders_with_and_without_a_mark() {
        for (wanted, mark) in [(Order::Little, [0xff, 0xfe]), (Order::Big, [0xfe, 0xff])] {
            let plain = bytes(wanted);
            let marked = [&mark[..], &plain].concat();
            for bytes in [plain, marked] {
                assert_eq!(order(&bytes), Some(wanted));
                let mut text = String::new();
                Utf8::new(bytes.as_slice(), wanted)
                    .read_to_string(&mut text)
                    .unwrap();
                assert_eq!(text, TEXT);
            }
        }
        assert_eq!(order(TEXT.as_bytes()), None);
        assert_eq!(
            order(b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
            None
        );
    }

    #[test]
    fn halves_of_pairs_are_replaced() {
        let units: [u16; 4] = [0xd83d, 0x61, 0xdc00, 0xd83d];
        let bytes: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        let mut text = String::new();
        Utf8::new(&bytes[..], Order::Little)
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "\u{fffd}a\u{fffd}\u{fffd}");
    }
}
