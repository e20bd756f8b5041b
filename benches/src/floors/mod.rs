//! The least a kernel charges for what a gateway does, one small file per floor, each a question
//! with the answer expected. A floor parses nothing, checks nothing and is never a product.
//!
//! Each runs as a process of its own: it prints `listening PORT[,PORT...]` on standard output once
//! it accepts connections, and ends when its standard input does.

pub mod accept_hold;
pub mod epoll_echo;
pub mod monoio_echo;
pub mod send_loop;
pub mod uring_echo;

use std::io::{self, Write};
use std::net::TcpListener;

/// Receive buffers of the echo floors: larger than any message of the generator's.
const BUFFER_BYTES: usize = 256;

/// Says on standard output where to connect.
pub(crate) fn announce(listeners: &[TcpListener]) -> io::Result<()> {
    let ports: Vec<String> = listeners
        .iter()
        .map(|listener| listener.local_addr().map(|address| address.port().to_string()))
        .collect::<io::Result<_>>()?;
    let mut output = io::stdout().lock();
    writeln!(output, "listening {}", ports.join(","))?;
    output.flush()
}
