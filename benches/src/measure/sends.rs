//! How long does a plain loop of `send` take to serve very many sockets with one message?
//!
//! Expected: 6 us a socket, so 60 ms for 10,000: on loopback a send also runs the receiver's half
//! of TCP and the acknowledgement. A broadcast through the gateway may take 1.25 times as long.
//!
//! The receivers do not read: 64 bytes a round stay in their queues, as they do for the gateway.

use anyhow::{Context, Result};
use serde::Serialize;

use super::Settings;
use super::spread::Spread;
use crate::subject::{Ballast, Server, Subject, start_floor};

const MEMBERS: [usize; 2] = [1_000, 10_000];
/// Rounds not counted: the first touches every socket's cold state.
const WARMUP_ROUNDS: usize = 2;

/// One number of members.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    members: usize,
    payload_bytes: usize,
    /// First send to last send done.
    milliseconds: Spread,
    nanoseconds_per_member: f64,
}

/// The send loop at each number of members.
pub(super) fn measure(settings: &Settings) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    println!("\nsends: one message of 64 B to each of N sockets, a plain loop");
    println!("{:>9} {:>26} {:>14}", "N", "ms (min..max)", "ns per socket");
    for members in MEMBERS {
        let row = broadcast(settings, members)?;
        let milliseconds = format!("{:.2}", row.milliseconds);
        println!("{members:>9} {milliseconds:>26} {:>14.0}", row.nanoseconds_per_member);
        rows.push(row);
    }
    Ok(rows)
}

fn broadcast(settings: &Settings, members: usize) -> Result<Row> {
    const PAYLOAD_BYTES: usize = 64;
    let arguments = format!("floor send-loop --connections {members} --payload {PAYLOAD_BYTES}");
    let (process, targets) = start_floor(&arguments, settings.placement)?;
    let mut server = Server { subject: Subject::AcceptHold, process, targets };
    let mut ballast = Ballast::start(&server, members, settings.placement)?;
    ballast.hold(members)?;
    let mut times = Vec::new();
    for _ in 0..WARMUP_ROUNDS + settings.rounds {
        let line = server.process.ask("send")?;
        let nanoseconds: f64 = line
            .strip_prefix("sent ")
            .and_then(|text| text.parse().ok())
            .with_context(|| format!("the send loop said {line:?}"))?;
        times.push(nanoseconds / 1e6);
    }
    let milliseconds = Spread::of(times.into_iter().skip(WARMUP_ROUNDS));
    Ok(Row {
        members,
        payload_bytes: PAYLOAD_BYTES,
        milliseconds,
        nanoseconds_per_member: milliseconds.median * 1e6 / members as f64,
    })
}
