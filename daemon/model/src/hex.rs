//! Addresses, page frame numbers and register values: lower-case hex strings with `0x` in every format
//! that leaves the process, so that they can be compared with a console by eye.

use alloc::format;
use core::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A 64-bit value that is written as `0x…`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hex(pub u64);

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl From<u64> for Hex {
    fn from(value: u64) -> Self {
        Self(value)
    }
}

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = alloc::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let digits = text
            .strip_prefix("0x")
            .ok_or_else(|| D::Error::custom(format!("expected a hex string such as 0x1f, found {text:?}")))?;
        // from_str_radix would take a sign.
        if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(D::Error::custom(format!("not a hex string: {text:?}")));
        }
        u64::from_str_radix(digits, 16)
            .map(Self)
            .map_err(|err| D::Error::custom(format!("not a 64-bit hex string: {text:?}: {err}")))
    }
}

#[cfg(test)]
mod tests {
    use super::Hex;

    #[test]
    fn hex_survives_a_round_trip_and_refuses_what_is_not_hex() {
        let text = serde_json::to_string(&Hex(0x2beb000)).unwrap();
        assert_eq!(text, "\"0x2beb000\"");
        assert_eq!(serde_json::from_str::<Hex>(&text).unwrap(), Hex(0x2beb000));
        for bad in [
            "\"2beb000\"",
            "\"0x\"",
            "\"0x+1\"",
            "\"0x10000000000000000\"",
            "17",
        ] {
            assert!(serde_json::from_str::<Hex>(bad).is_err(), "{bad}");
        }
    }
}
