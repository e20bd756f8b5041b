//! A run for people and programs: a table in the terminal, JSON, and one self-contained HTML page.
//!
//! All three show the same figures, taken from [`crate::run::Run`]; none of them judges.

mod format;
mod html;
mod json;
mod plot;
mod terminal;

pub use html::page;
pub use json::document;
pub use terminal::table;
