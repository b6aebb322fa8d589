//! One file per family of hooks.

mod exits;
mod failure;
mod fields;
mod gup;
mod injection;
mod memslots;
mod outcome;
mod registers;
mod signals;

pub use exits::EHWPOISON;
