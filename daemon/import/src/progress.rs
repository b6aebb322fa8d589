//! How far the reading is: bytes of all inputs together, as they lie on disk.

use std::{cell::Cell, io::Read, rc::Rc};

/// See the module.
#[derive(Clone, Default)]
pub struct Meter(Rc<Counts>);

#[derive(Default)]
struct Counts {
    done: Cell<u64>,
    total: Cell<u64>,
    /// An input's size is not known: a pipe's.
    open_end: Cell<bool>,
}

/// How far the reading is, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Bytes read so far.
    pub done: u64,
    /// `None` where an input is a pipe.
    pub total: Option<u64>,
}

impl Meter {
    /// `input`, counted.
    pub fn of<R: Read>(&self, input: R, size: Option<u64>) -> Metered<R> {
        match size {
            Some(size) => self.0.total.set(self.0.total.get().saturating_add(size)),
            None => self.0.open_end.set(true),
        }
        Metered {
            input,
            counts: Rc::clone(&self.0),
        }
    }

    pub fn reading(&self) -> Reading {
        Reading {
            done: self.0.done.get(),
            total: (!self.0.open_end.get()).then(|| self.0.total.get()),
        }
    }
}

/// An input whose bytes are counted.
pub struct Metered<R> {
    input: R,
    counts: Rc<Counts>,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.input.read(buffer)?;
        self.counts
            .done
            .set(self.counts.done.get().saturating_add(read as u64));
        Ok(read)
    }
}
