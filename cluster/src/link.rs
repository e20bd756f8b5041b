//! Links: what stands between clients and gateways, and between processes of Roost and the broker, so that each can be made slow. On its way from
//! clients to a gateway and back a link can also repeat frames.
//!
//! * A link carries bytes one after the other, as TCP does: it delays and repeats, and never drops or reorders what is first sent.
//! * All links live on one thread of their own; they end with the value.

mod repeat;

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::plan::{Shape, Ways};
use repeat::{Direction, Repeater};

const READ_BYTES: usize = 16 * 1024;

/// Which link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    /// From clients to the gateway at this position.
    Clients(usize),
    /// From the gateway at this position to the broker.
    GatewayBroker(usize),
    /// From the logic process at this position to the broker.
    LogicBroker(usize),
}

/// How slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slowness {
    /// Of each piece that is read, before the next one.
    pub(crate) delay: Duration,
    pub(crate) bytes_per_second: u64,
}

/// Of one port, shared with the tasks that carry its bytes.
#[derive(Debug, Default)]
struct Control {
    delay_us: AtomicU64,
    /// 0: no limit.
    bytes_per_second: AtomicU64,
    repeats: AtomicBool,
    slowed_bytes: AtomicU64,
    repeated_frames: AtomicU64,
}

impl Control {
    async fn wait_for(&self, bytes: usize) {
        let bytes_per_second = self.bytes_per_second.load(Relaxed);
        if bytes_per_second > 0 {
            let delay = Duration::from_micros(self.delay_us.load(Relaxed));
            tokio::time::sleep(delay + slot(bytes, bytes_per_second)).await;
            self.slowed_bytes.fetch_add(bytes as u64, Relaxed);
        }
    }
}

/// What so many bytes take of a link.
fn slot(bytes: usize, bytes_per_second: u64) -> Duration {
    Duration::from_secs_f64(bytes as f64 / bytes_per_second as f64)
}

/// A listener, and where it leads.
#[derive(Debug)]
struct Door {
    port: u16,
    control: Arc<Control>,
}

/// All links of a cluster.
#[derive(Debug)]
pub(crate) struct Links {
    clients: Vec<Door>,
    gateway_broker: Vec<Door>,
    logic_broker: Vec<Door>,
    /// Its end is the end of the thread.
    _alive: watch::Sender<()>,
}

impl Links {
    /// Before each gateway of this shape, and to the broker from each process.
    pub(crate) fn open(options: &Shape, broker: u16) -> Result<Self> {
        let mut listeners = Vec::new();
        let mut door = |target: u16, repeats_frames: bool| -> io::Result<Door> {
            let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            listener.set_nonblocking(true)?;
            let (port, control) = (listener.local_addr()?.port(), Arc::<Control>::default());
            listeners.push((listener, target, Arc::clone(&control), repeats_frames));
            Ok(Door { port, control })
        };
        let clients = (0..options.gateways).map(|index| door(options.frames(index), true));
        let clients = clients.collect::<io::Result<Vec<_>>>()?;
        let gateway_broker = (0..options.gateways).map(|_| door(broker, false));
        let gateway_broker = gateway_broker.collect::<io::Result<Vec<_>>>()?;
        let logic_broker = (0..options.logic).map(|_| door(broker, false));
        let logic_broker = logic_broker.collect::<io::Result<Vec<_>>>()?;
        let (alive, mut ended) = watch::channel(());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("links".to_owned()).spawn(move || {
            runtime.block_on(async {
                for (listener, target, control, repeats_frames) in listeners {
                    tokio::spawn(serve(listener, target, control, repeats_frames));
                }
                // An error: the links have gone.
                _ = ended.changed().await;
            });
        })?;
        Ok(Self { clients, gateway_broker, logic_broker, _alive: alive })
    }

    /// The ports to use.
    pub(crate) fn ways(&self) -> Ways {
        let ports = |doors: &[Door]| doors.iter().map(|door| door.port).collect();
        Ways {
            gateway_to_broker: ports(&self.gateway_broker),
            logic_to_broker: ports(&self.logic_broker),
            clients: ports(&self.clients),
        }
    }

    fn door(&self, link: Link) -> &Door {
        match link {
            Link::Clients(index) => &self.clients[index],
            Link::GatewayBroker(index) => &self.gateway_broker[index],
            Link::LogicBroker(index) => &self.logic_broker[index],
        }
    }

    /// The port of those who connect.
    pub(crate) fn port(&self, link: Link) -> u16 {
        self.door(link).port
    }

    /// Until [`Links::hurry`].
    pub(crate) fn slow_down(&self, link: Link, slowness: Slowness) {
        let control = &self.door(link).control;
        let delay_us = u64::try_from(slowness.delay.as_micros()).unwrap_or(u64::MAX);
        control.delay_us.store(delay_us, Relaxed);
        control.slowed_bytes.store(0, Relaxed);
        control.bytes_per_second.store(slowness.bytes_per_second.max(1), Relaxed);
    }

    /// As fast as it can again; how many bytes it carried slowly.
    pub(crate) fn hurry(&self, link: Link) -> u64 {
        let control = &self.door(link).control;
        control.bytes_per_second.store(0, Relaxed);
        control.slowed_bytes.load(Relaxed)
    }

    /// Frames between clients and the gateway `index` come twice until [`Links::repeat_no_more`].
    pub(crate) fn repeat(&self, index: usize) {
        let control = &self.door(Link::Clients(index)).control;
        control.repeated_frames.store(0, Relaxed);
        control.repeats.store(true, Relaxed);
    }

    /// How many frames came twice.
    pub(crate) fn repeat_no_more(&self, index: usize) -> u64 {
        let control = &self.door(Link::Clients(index)).control;
        control.repeats.store(false, Relaxed);
        control.repeated_frames.load(Relaxed)
    }
}

async fn serve(
    listener: std::net::TcpListener,
    target: u16,
    control: Arc<Control>,
    repeats_frames: bool,
) -> Result<()> {
    let listener = TcpListener::from_std(listener).context("a listener of a link")?;
    loop {
        // One that has gone already, or no descriptor left: the next one may do better.
        let Ok((from, _)) = listener.accept().await else { continue };
        tokio::spawn(join(from, target, Arc::clone(&control), repeats_frames));
    }
}

/// Who is behind it may be away: then the connection ends, as that of a proxy does.
async fn join(from: TcpStream, target: u16, control: Arc<Control>, repeats_frames: bool) {
    let Ok(to) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)).await else { return };
    // A failure only costs time.
    _ = from.set_nodelay(true);
    _ = to.set_nodelay(true);
    let ((from_reader, from_writer), (to_reader, to_writer)) = (from.into_split(), to.into_split());
    let repeater = |direction| repeats_frames.then(|| Repeater::new(direction));
    tokio::join!(
        carry(from_reader, to_writer, &control, repeater(Direction::ToGateway)),
        carry(to_reader, from_writer, &control, repeater(Direction::ToClient)),
    );
}

/// One direction, until its end, which is passed on.
async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    control: &Control,
    mut repeater: Option<Repeater>,
) {
    let (mut read, mut written) = (vec![0; READ_BYTES], Vec::new());
    while let Ok(size @ 1..) = from.read(&mut read).await {
        control.wait_for(size).await;
        let bytes = match &mut repeater {
            None => &read[..size],
            Some(repeater) => {
                written.clear();
                let repeated =
                    repeater.pass(&read[..size], control.repeats.load(Relaxed), &mut written);
                control.repeated_frames.fetch_add(repeated, Relaxed);
                &written[..]
            }
        };
        if to.write_all(bytes).await.is_err() {
            break;
        }
    }
    // The other side may have gone first.
    _ = to.shutdown().await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::io::{Read as _, Write as _};
    use std::time::Instant;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Shape,
    }

    /// A broker that says everything back, and a way to it.
    fn echo() -> (std::net::TcpListener, Links) {
        let broker = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = broker.local_addr().unwrap().port();
        let links = Links::open(&Line::parse_from(["up"]).options, port).unwrap();
        (broker, links)
    }

    #[test]
    fn a_slow_link_takes_its_time_and_loses_nothing() {
        const BYTES: usize = 40_000;
        let (broker, links) = echo();
        let link = Link::LogicBroker(0);
        let slowness = Slowness { delay: Duration::from_millis(1), bytes_per_second: 200_000 };
        links.slow_down(link, slowness);
        let mut near = std::net::TcpStream::connect(("127.0.0.1", links.port(link))).unwrap();
        let (mut far, _) = broker.accept().unwrap();
        let sent: Vec<u8> = (0..BYTES).map(|n| n as u8).collect();
        let begin = Instant::now();
        near.write_all(&sent).unwrap();
        near.shutdown(std::net::Shutdown::Write).unwrap();
        let mut received = Vec::new();
        far.read_to_end(&mut received).unwrap();
        assert!(received == sent && begin.elapsed() >= Duration::from_millis(200));
        assert_eq!(links.hurry(link), BYTES as u64);
    }

    #[test]
    fn the_end_of_either_side_reaches_the_other() {
        let (broker, links) = echo();
        let port = links.port(Link::GatewayBroker(1));
        for near_ends in [true, false] {
            let mut near = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
            let (mut far, _) = broker.accept().unwrap();
            let mut rest = Vec::new();
            if near_ends {
                drop(near);
                assert_eq!(far.read_to_end(&mut rest).unwrap(), 0);
            } else {
                drop(far);
                assert_eq!(near.read_to_end(&mut rest).unwrap(), 0);
            }
        }
    }
}
