//! gzip as logs are rotated and joined in it: members one after the other.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::GzDecoder;

/// Members without any content, one after the other: each costs its header, and nothing shows for it.
const MAX_EMPTY: u32 = 1024;

/// Reads what the members of `R` hold.
pub struct Members<R: Read> {
    /// `None`: all of them have been read, or an error ended it.
    member: Option<GzDecoder<BufReader<R>>>,
    /// Whether the member under way has given anything.
    any: bool,
    empty: u32,
    /// The input ended within a member: each read reports it.
    torn: bool,
}

impl<R: Read> Members<R> {
    pub fn new(input: R) -> Self {
        Self {
            member: Some(GzDecoder::new(BufReader::new(input))),
            any: false,
            empty: 0,
            torn: false,
        }
    }

    /// Begins the next member, if there is one.
    fn next(&mut self) -> io::Result<()> {
        self.empty = if self.any { 0 } else { self.empty + 1 };
        self.any = false;
        if self.empty > MAX_EMPTY {
            self.member = None;
            return Err(io::Error::other(format!(
                "more than {MAX_EMPTY} gzip members without content, one after the other"
            )));
        }
        let Some(mut rest) = self.member.take().map(GzDecoder::into_inner) else {
            return Ok(());
        };
        if !rest.fill_buf()?.is_empty() {
            self.member = Some(GzDecoder::new(rest));
        }
        Ok(())
    }
}

impl<R: Read> Read for Members<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        while let Some(member) = self.member.as_mut().filter(|_| !self.torn) {
            match member.read(into) {
                Ok(0) => self.next()?,
                Ok(n) => {
                    self.any = true;
                    return Ok(n);
                }
                Err(err) => {
                    self.torn = err.kind() == io::ErrorKind::UnexpectedEof;
                    return Err(err);
                }
            }
        }
        if self.torn {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(0)
    }
}

/// Reads a file that is torn as one that ends there.
pub struct Torn<R>(pub R);

impl<R: BufRead> Read for Torn<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        end_of_torn(self.0.read(into)).map(Option::unwrap_or_default)
    }
}

impl<R: BufRead> BufRead for Torn<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        end_of_torn(self.0.fill_buf()).map(Option::unwrap_or_default)
    }

    fn consume(&mut self, amount: usize) {
        self.0.consume(amount);
    }
}

/// `None`: the end, too early.
fn end_of_torn<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        other => other.map(Some),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::{
        io::Write as _,
        time::{Duration, Instant},
    };

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    fn member(text: &str) -> Vec<u8> {
        let mut member = GzEncoder::new(Vec::new(), Compression::fast());
        member.write_all(text.as_bytes()).unwrap();
        member.finish().unwrap()
    }

    fn text(packed: &[u8]) -> io::Result<String> {
        let mut text = String::new();
        Members::new(packed).read_to_string(&mut text).map(|_| text)
    }

    #[test]
    fn members_are_read_one_after_the_other() {
        let packed = [member("one\n"), member(""), member("two\n")].concat();
        assert_eq!(text(&packed).unwrap(), "one\ntwo\n");
        assert_eq!(text(&member("")).unwrap(), "");
        let torn = &packed[..packed.len() - 12];
        assert_eq!(text(torn).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let mut rest = String::new();
        let mut torn = Torn(BufReader::new(Members::new(torn)));
        torn.read_to_string(&mut rest).unwrap();
        assert!(rest.starts_with("one\n"), "{rest:?}");
    }

    #[test]
    fn members_without_content_are_not_read_for_ever() {
        let packed = member("").repeat(500_000);
        let began = Instant::now();
        let err = text(&packed).unwrap_err().to_string();
        assert!(err.contains("without content"), "{err}");
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        assert!(text(&[member("").repeat(1000), member("x")].concat()).is_ok());
    }
}
