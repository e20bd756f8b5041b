//! One task a file.

pub(crate) mod bench;
pub(crate) mod cluster;
pub(crate) mod fuzz;
pub(crate) mod generate;
pub(crate) mod lint;
pub(crate) mod test;
