//! Question: what does an echo cost with one system call per step, the classic way?
//!
//! Expected: about the same as the io_uring floor at 100 connections (each wake-up finds little to
//! batch), 10 % behind at 1,000, and no private memory per connection.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;

use super::{BUFFER_BYTES, announce};
use crate::sys::{Epoll, listen};

const LISTENER: u64 = u64::MAX;
const EVENTS: usize = 1024;

/// Echoes until the process is killed.
pub fn run() -> io::Result<()> {
    let listener = listen()?;
    listener.set_nonblocking(true)?;
    let mut epoll = Epoll::new(EVENTS)?;
    epoll.add(&listener, LISTENER)?;
    announce(std::slice::from_ref(&listener))?;

    let mut connections: Vec<Option<TcpStream>> = Vec::with_capacity(20_000);
    let mut ready = Vec::with_capacity(EVENTS);
    loop {
        ready.clear();
        epoll.wait(|token| {
            ready.push(token);
            Ok(())
        })?;
        for &token in &ready {
            if token == LISTENER {
                accept_all(&listener, &epoll, &mut connections)?;
            } else if !echo(&mut connections[token as usize])? {
                connections[token as usize] = None;
            }
        }
    }
}

fn accept_all(
    listener: &std::net::TcpListener,
    epoll: &Epoll,
    connections: &mut Vec<Option<TcpStream>>,
) -> io::Result<()> {
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(true)?;
                epoll.add(&stream, connections.len() as u64)?;
                connections.push(Some(stream));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// One read and one write; false when the peer is gone.
fn echo(connection: &mut Option<TcpStream>) -> io::Result<bool> {
    let Some(stream) = connection else { return Ok(false) };
    let mut buffer = [0; BUFFER_BYTES];
    match stream.read(&mut buffer) {
        Ok(0) => Ok(false),
        Ok(length) => Ok(stream.write_all(&buffer[..length]).is_ok()),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(true),
        Err(_) => Ok(false),
    }
}
