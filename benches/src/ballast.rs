//! Idle connections, held by a process of their own so that RLIMIT_NOFILE is theirs alone.
//!
//! Driven by lines on standard input, each answered by one line: `hold N` opens N more (`held`),
//! `vanish` makes all held ones disappear without a packet (`vanished`). The end of input ends it.

use std::io::{self, BufRead, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};

use anyhow::{Context, Result, bail};

use crate::generator::Framing;
use crate::sys::{connect_from, vanish};

/// Most connections one process holds, below the smallest RLIMIT_NOFILE met (20,000).
pub const CONNECTIONS_MAX: usize = 18_000;

/// Serves commands until standard input ends. Source addresses are `127.1.FAMILY.*`, a new one for
/// each command, so that no port of a vanished connection is used again.
pub fn run(targets: &[SocketAddrV4], framing: Framing, family: u8) -> Result<()> {
    let mut held: Vec<TcpStream> = Vec::new();
    let mut opened = 0;
    let mut source = 0;
    for line in io::stdin().lock().lines() {
        let line = line?;
        let answer = match line.split_once(' ').unwrap_or((&line, "")) {
            ("hold", count) => {
                source += 1;
                let source = Ipv4Addr::new(127, 1, family, source);
                for _ in 0..count.parse::<usize>().context("hold takes a number")? {
                    let target = targets[opened % targets.len()];
                    let mut stream = connect_from(source, target)
                        .with_context(|| format!("idle connection {opened} to {target}"))?;
                    // Idle users are numbered after any active one.
                    framing.login(&mut stream, 100_000 * (1 + usize::from(family)) + opened)?;
                    held.push(stream);
                    opened += 1;
                }
                "held"
            }
            ("vanish", _) => {
                held.drain(..).try_for_each(vanish).context("vanishing needs CAP_NET_ADMIN")?;
                "vanished"
            }
            (other, _) => bail!("ballast command {other:?}: expected `hold N` or `vanish`"),
        };
        let mut output = io::stdout().lock();
        writeln!(output, "{answer}")?;
        output.flush()?;
    }
    Ok(())
}
