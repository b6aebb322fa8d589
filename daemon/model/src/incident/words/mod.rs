//! The sentence, the advice, and what is missing: for people, and for a ticket.

mod advice;
mod missing;
mod sentence;

pub use advice::advice;
pub use missing::missing;
pub use sentence::sentence;
