//! An echo shard with its clients, by driver; and several shards behind an acceptor.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use roost_gateway::io::acceptor::{AcceptPause, Acceptor, AcceptorConfig};
use roost_gateway::io::address_table::AddressTable;
use roost_gateway::io::epoll::EpollIo;
use roost_gateway::io::intake::Intake;
use roost_gateway::io::simulated::{Faults, PeerId, PeerRead, SimulatedIo, SimulatedNetwork};
use roost_gateway::io::socket::{ListenerConfig, listen};
use roost_gateway::io::uring::UringIo;
use roost_gateway::io::{ConnectionKey, Io, IoConfig, IoCounters, Waker};

use super::echo::{EchoShard, Mode};

/// A condition that is not met by then fails the test.
const DEADLINE: Duration = Duration::from_secs(60);

/// What a client's read gave.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Read {
    Bytes(Vec<u8>),
    WouldBlock,
    /// End of stream or reset.
    Ended,
}

/// An echo shard and its clients. Clients are numbered.
pub(crate) trait Rig {
    fn pump(&mut self);
    fn connect_without_waiting(&mut self) -> usize;
    fn write(&mut self, client: usize, bytes: &[u8]) -> usize;
    fn read(&mut self, client: usize) -> Read;
    fn half_close(&mut self, client: usize);
    fn close(&mut self, client: usize);
    fn reset(&mut self, client: usize);
    fn shard(&mut self) -> &mut dyn AnyShard;
    /// Connections the driver, the acceptor and the address table still count.
    fn leaked(&self) -> u64;

    fn until(&mut self, what: &str, mut reached: impl FnMut(&mut Self) -> bool)
    where
        Self: Sized,
    {
        let deadline = Instant::now() + DEADLINE;
        while !reached(self) {
            self.pump();
            assert!(Instant::now() < deadline, "not in {DEADLINE:?}: {what}");
        }
    }

    /// Connects and waits until the shard has the connection.
    fn connect(&mut self) -> usize
    where
        Self: Sized,
    {
        let accepted = self.shard().accepted();
        let client = self.connect_without_waiting();
        self.until("the client is accepted", |rig| rig.shard().accepted() > accepted);
        client
    }

    /// Closes the clients and sees that nothing is left behind.
    fn finish(mut self, clients: Vec<usize>)
    where
        Self: Sized,
    {
        for client in clients {
            self.close(client);
        }
        self.until("everything is released", |rig| rig.connections() == 0 && rig.leaked() == 0);
    }

    fn connections(&mut self) -> usize {
        self.shard().connections()
    }
    fn keys(&mut self) -> Vec<ConnectionKey> {
        self.shard().keys()
    }
    fn set_mode(&mut self, mode: Mode) {
        self.shard().set_mode(mode);
    }
    fn pause_all(&mut self) {
        self.shard().pause_all();
    }
    fn resume_all(&mut self) {
        self.shard().resume_all();
    }
    fn shutdown_all(&mut self) {
        self.shard().shutdown_all();
    }
    fn poke(&mut self, key: ConnectionKey) {
        self.shard().poke(key);
    }
    fn counters(&mut self) -> IoCounters {
        self.shard().counters()
    }
}

/// `EchoShard` without its driver's type.
pub(crate) trait AnyShard {
    fn accepted(&self) -> usize;
    fn connections(&self) -> usize;
    fn keys(&self) -> Vec<ConnectionKey>;
    fn set_mode(&mut self, mode: Mode);
    fn pause_all(&mut self);
    fn resume_all(&mut self);
    fn shutdown_all(&mut self);
    fn poke(&mut self, key: ConnectionKey);
    fn counters(&self) -> IoCounters;
}

impl<I: Io> AnyShard for EchoShard<I> {
    fn accepted(&self) -> usize {
        self.accepted
    }
    fn connections(&self) -> usize {
        self.connections()
    }
    fn keys(&self) -> Vec<ConnectionKey> {
        self.keys()
    }
    fn set_mode(&mut self, mode: Mode) {
        self.set_mode(mode);
    }
    fn pause_all(&mut self) {
        self.pause_all();
    }
    fn resume_all(&mut self) {
        self.resume_all();
    }
    fn shutdown_all(&mut self) {
        self.shutdown_all();
    }
    fn poke(&mut self, key: ConnectionKey) {
        self.poke(key);
    }
    fn counters(&self) -> IoCounters {
        self.counters()
    }
}

/// One shard on a real driver, with TCP clients.
pub(crate) struct Real<I> {
    shards: Shards<I>,
    clients: Vec<Option<TcpStream>>,
}

pub(crate) fn io_uring(config: IoConfig) -> Real<UringIo> {
    let shards = start(1, &config, u32::MAX, |config, waker, addresses| {
        let io = UringIo::new(config, waker, addresses).unwrap();
        let intake = io.intake();
        (io, intake)
    });
    Real { shards, clients: Vec::new() }
}

pub(crate) fn epoll(config: IoConfig) -> Real<EpollIo> {
    let shards = start(1, &config, u32::MAX, |config, waker, addresses| {
        let io = EpollIo::new(config, waker, addresses).unwrap();
        let intake = io.intake();
        (io, intake)
    });
    Real { shards, clients: Vec::new() }
}

impl<I> Real<I> {
    fn client(&mut self, client: usize) -> &mut TcpStream {
        self.clients[client].as_mut().expect("the client was closed")
    }
}

impl<I: Io> Rig for Real<I> {
    fn pump(&mut self) {
        self.shards.pump();
    }

    fn connect_without_waiting(&mut self) -> usize {
        self.clients.push(Some(self.shards.connect()));
        self.clients.len() - 1
    }

    fn write(&mut self, client: usize, bytes: &[u8]) -> usize {
        match self.client(client).write(bytes) {
            Ok(written) => written,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => panic!("client cannot write: {error}"),
        }
    }

    fn read(&mut self, client: usize) -> Read {
        let mut buffer = vec![0; 64 * 1024];
        match self.client(client).read(&mut buffer) {
            Ok(0) => Read::Ended,
            Ok(bytes) => {
                buffer.truncate(bytes);
                Read::Bytes(buffer)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Read::WouldBlock,
            Err(_) => Read::Ended,
        }
    }

    fn half_close(&mut self, client: usize) {
        self.client(client).shutdown(std::net::Shutdown::Write).unwrap();
    }

    fn close(&mut self, client: usize) {
        self.clients[client] = None;
    }

    fn reset(&mut self, client: usize) {
        let stream = self.clients[client].take().expect("the client was closed");
        let linger = libc::linger { l_onoff: 1, l_linger: 0 };
        set_linger(&stream, &linger);
    }

    fn shard(&mut self) -> &mut dyn AnyShard {
        &mut self.shards.shards[0]
    }

    fn leaked(&self) -> u64 {
        let taken: u32 = self.shards.intakes.iter().map(|intake| intake.taken()).sum();
        u64::from(taken) + self.shards.addresses.connections()
    }
}

/// Makes the close of `stream` a reset. Tests may use unsafe where the standard library has no call.
#[allow(unsafe_code)]
fn set_linger(stream: &TcpStream, linger: &libc::linger) {
    // SAFETY: pointer and size describe a live `linger`.
    let result = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const *linger).cast(),
            size_of::<libc::linger>() as libc::socklen_t,
        )
    };
    assert_eq!(result, 0);
}

/// One shard on the simulated driver.
pub(crate) struct Simulated {
    network: SimulatedNetwork,
    shard: EchoShard<SimulatedIo>,
    clients: Vec<PeerId>,
}

pub(crate) fn simulated(config: IoConfig) -> Simulated {
    let seed = std::env::var("ROOST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("ROOST_SEED={seed}");
    let network = SimulatedNetwork::new(seed, Faults { receive_bytes_max: 997, ..Faults::HARSH });
    let shard = EchoShard::new(SimulatedIo::new(&network, &config));
    Simulated { network, shard, clients: Vec::new() }
}

impl Rig for Simulated {
    fn pump(&mut self) {
        self.shard.pump(Duration::from_millis(1));
    }

    fn connect_without_waiting(&mut self) -> usize {
        self.clients.push(self.network.connect(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        self.clients.len() - 1
    }

    fn write(&mut self, client: usize, bytes: &[u8]) -> usize {
        self.network.send(self.clients[client], bytes)
    }

    fn read(&mut self, client: usize) -> Read {
        match self.network.receive(self.clients[client]) {
            PeerRead::Bytes(bytes) => Read::Bytes(bytes),
            PeerRead::WouldBlock => Read::WouldBlock,
            PeerRead::EndOfStream => Read::Ended,
        }
    }

    fn half_close(&mut self, client: usize) {
        self.network.half_close(self.clients[client]);
    }

    fn close(&mut self, client: usize) {
        self.network.close(self.clients[client]);
    }

    fn reset(&mut self, client: usize) {
        self.network.reset(self.clients[client]);
    }

    fn shard(&mut self) -> &mut dyn AnyShard {
        &mut self.shard
    }

    fn leaked(&self) -> u64 {
        self.clients.iter().filter(|&&client| !self.network.is_released(client)).count() as u64
    }
}

/// Echo shards behind one acceptor, all on the calling thread.
pub(crate) struct Shards<I> {
    // Before the shards: it hands sockets to them.
    acceptor: Acceptor,
    shards: Vec<EchoShard<I>>,
    intakes: Vec<Arc<Intake>>,
    addresses: Arc<AddressTable>,
    address: SocketAddr,
}

pub(crate) fn uring_shards(count: usize, places: u32, per_address: u32) -> Shards<UringIo> {
    let config = IoConfig { connections_max: places, ..IoConfig::default() };
    start(count, &config, per_address, |config, waker, addresses| {
        let io = UringIo::new(config, waker, addresses).unwrap();
        let intake = io.intake();
        (io, intake)
    })
}

pub(crate) fn epoll_shards(count: usize, places: u32, per_address: u32) -> Shards<EpollIo> {
    let config = IoConfig { connections_max: places, ..IoConfig::default() };
    start(count, &config, per_address, |config, waker, addresses| {
        let io = EpollIo::new(config, waker, addresses).unwrap();
        let intake = io.intake();
        (io, intake)
    })
}

type MakeDriver<I> = fn(&IoConfig, Arc<Waker>, Arc<AddressTable>) -> (I, Arc<Intake>);

fn start<I: Io>(
    count: usize,
    config: &IoConfig,
    connections_per_address_max: u32,
    make: MakeDriver<I>,
) -> Shards<I> {
    let config = &IoConfig { connections_max: config.connections_max.min(1_000), ..config.clone() };
    let addresses = Arc::new(AddressTable::default());
    let (shards, intakes): (Vec<_>, Vec<_>) = (0..count)
        .map(|_| {
            let waker = Arc::new(Waker::new().unwrap());
            // Nobody tells these shards to sleep: hand-overs must always signal.
            waker.prepare_sleep();
            let (io, intake) = make(config, waker, Arc::clone(&addresses));
            (EchoShard::new(io), intake)
        })
        .unzip();
    let listener = listen(&ListenerConfig::new(SocketAddr::from(([127, 0, 0, 1], 0)))).unwrap();
    let address = listener.local_addr().unwrap();
    let refusal = Bytes::from_static(b"refused");
    let acceptor = Acceptor::start(
        vec![listener],
        intakes.clone(),
        Arc::clone(&addresses),
        AcceptorConfig { connections_per_address_max, refusal },
    )
    .unwrap();
    Shards { acceptor, shards, intakes, addresses, address }
}

impl<I: Io> Shards<I> {
    pub(crate) fn pump(&mut self) {
        // With one shard a wait spares the machine; with several none may hold up the others.
        let wait = Duration::from_millis(u64::from(self.shards.len() == 1));
        for shard in &mut self.shards {
            shard.pump(wait);
        }
    }

    pub(crate) fn until(&mut self, what: &str, mut reached: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !reached(self) {
            self.pump();
            assert!(Instant::now() < deadline, "not in {DEADLINE:?}: {what}");
        }
    }

    pub(crate) fn connect(&mut self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_nonblocking(true).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    pub(crate) fn counts(&self) -> Vec<usize> {
        self.shards.iter().map(|shard| shard.connections()).collect()
    }

    pub(crate) fn accepted(&self) -> usize {
        self.shards.iter().map(|shard| shard.accepted).sum()
    }

    pub(crate) fn refused(&self) -> u64 {
        self.acceptor.statistics().refused_address_limit()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.acceptor.statistics().pause() == AcceptPause::ShardsFull
    }

    pub(crate) fn addresses(&self) -> &AddressTable {
        &self.addresses
    }
}

/// Appends what a client was sent; whether its connection has ended.
pub(crate) fn read_to_end(client: &mut TcpStream, bytes: &mut Vec<u8>) -> bool {
    match client.read_to_end(bytes) {
        Ok(_) => true,
        Err(error) if error.kind() == ErrorKind::WouldBlock => false,
        Err(error) => panic!("{error}"),
    }
}
