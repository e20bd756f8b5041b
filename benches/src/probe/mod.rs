//! Reads what the kernel tells about processes and the machine under `/proc`.
//! Every reader says which file and which field it reads; none writes anything.

pub mod cpu;
pub mod environment;
pub mod memory;
