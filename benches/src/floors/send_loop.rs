//! Question: how long does a plain loop of `send` take to hand one message to every one of N
//! sockets? A broadcast through the gateway is measured against it.
//!
//! Expected: 6 us a socket on loopback, where a send also runs the receiver's half of TCP and,
//! for want of an answer, the acknowledgement.
//!
//! Protocol: accepts until `connections` are there, then for every line on standard input sends
//! one message to all and prints `sent NANOSECONDS`.

use std::io::{self, BufRead, Write};
use std::net::TcpStream;
use std::time::Instant;

use super::announce;
use crate::sys::listen;

/// Serves `connections` peers with rounds of `payload_bytes` each, until standard input ends.
pub fn run(connections: usize, payload_bytes: usize) -> io::Result<()> {
    let listener = listen()?;
    announce(std::slice::from_ref(&listener))?;
    let mut held: Vec<TcpStream> = Vec::with_capacity(connections);
    while held.len() < connections {
        held.push(listener.accept()?.0);
    }
    let payload = vec![0; payload_bytes];
    for line in io::stdin().lock().lines() {
        line?;
        let start = Instant::now();
        for stream in &mut held {
            stream.write_all(&payload)?;
        }
        let elapsed = start.elapsed();
        let mut output = io::stdout().lock();
        writeln!(output, "sent {}", elapsed.as_nanos())?;
        output.flush()?;
    }
    Ok(())
}
