//! Echoes bytes on the gateway's drivers, without frames or sessions: what the seam to the kernel costs.
//!
//! `cargo run --release -p roost-gateway --example echo -- --driver io_uring --port 7401 --shards 1`
//! Prints `listening PORT`, then serves until it is killed. Compare with `roost-bench floor uring-echo`.

use std::net::SocketAddr;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use roost_gateway::io::acceptor::{Acceptor, AcceptorConfig};
use roost_gateway::io::address_table::AddressTable;
use roost_gateway::io::epoll::EpollIo;
use roost_gateway::io::intake::Intake;
use roost_gateway::io::probe::{Driver, DriverChoice};
use roost_gateway::io::socket::{ListenerConfig, listen};
use roost_gateway::io::uring::UringIo;
use roost_gateway::io::{
    Completion, ConnectionKey, Io, IoConfig, ReceivedBuffer, SendBuffer, Shutdown, Waker,
    descriptor_limit,
};

#[derive(Default)]
struct Connection {
    generation: u32,
    outbox: Vec<u8>,
    sending: bool,
    closing: bool,
}

struct Shard<I> {
    io: I,
    connections: Vec<Connection>,
    free: Vec<u32>,
    dirty: Vec<ConnectionKey>,
}

impl<I: Io> Shard<I> {
    fn run(mut self, waker: &Waker) -> ! {
        let mut completions = Vec::new();
        loop {
            waker.prepare_sleep();
            if let Err(error) = self.io.turn(Duration::from_millis(100), &mut completions) {
                eprintln!("the driver failed: {error}");
                std::process::abort();
            }
            waker.awake();
            for completion in completions.drain(..) {
                self.handle(completion);
            }
            for key in std::mem::take(&mut self.dirty) {
                self.flush(key);
            }
        }
    }

    fn handle(&mut self, completion: Completion) {
        match completion {
            Completion::Accepted { socket } => {
                let index = self.free.pop().unwrap_or(self.connections.len() as u32);
                if index as usize == self.connections.len() {
                    self.connections.push(Connection::default());
                }
                let connection = &mut self.connections[index as usize];
                let generation = connection.generation + 1;
                *connection = Connection { generation, ..Connection::default() };
                let key = ConnectionKey { index, generation };
                self.io.attach(socket, key);
                self.io.start_receive(key);
            }
            Completion::Received { key, buffer } => self.on_received(key, buffer),
            Completion::Sent { key, finished, .. } => {
                let connection = &mut self.connections[key.index as usize];
                connection.sending = !finished;
                if finished && !connection.outbox.is_empty() {
                    self.dirty.push(key);
                }
            }
            Completion::ReceiveEnded { key, .. } | Completion::SendFailed { key, .. } => {
                self.connections[key.index as usize].closing = true;
                self.io.shutdown(key, Shutdown::Both);
            }
            Completion::Released { key } => self.free.push(key.index),
            Completion::Woken => {}
        }
    }

    fn on_received(&mut self, key: ConnectionKey, buffer: ReceivedBuffer) {
        let connection = &mut self.connections[key.index as usize];
        if connection.outbox.is_empty() && !connection.sending {
            self.dirty.push(key);
        }
        connection.outbox.extend_from_slice(self.io.received(&buffer));
        self.io.release_buffer(buffer);
    }

    fn flush(&mut self, key: ConnectionKey) {
        let connection = &mut self.connections[key.index as usize];
        if !connection.closing && !connection.sending && !connection.outbox.is_empty() {
            connection.sending = true;
            let outbox = std::mem::take(&mut connection.outbox);
            self.io.submit_send(key, SendBuffer::Owned(outbox));
        }
    }
}

type MakeDriver<I> =
    fn(&IoConfig, Arc<Waker>, Arc<AddressTable>) -> std::io::Result<(I, Arc<Intake>)>;

fn serve<I: Io>(
    make: MakeDriver<I>,
    config: &IoConfig,
    addresses: Arc<AddressTable>,
    started: &mpsc::Sender<Arc<Intake>>,
) {
    let waker = Waker::new().map(Arc::new);
    let driver = waker.and_then(|waker| Ok((make(config, Arc::clone(&waker), addresses)?, waker)));
    match driver {
        Ok(((io, intake), waker)) => {
            _ = started.send(intake);
            let shard = Shard { io, connections: Vec::new(), free: Vec::new(), dirty: Vec::new() };
            shard.run(&waker)
        }
        Err(error) => eprintln!("cannot start a shard: {error}"),
    }
}

fn option(name: &str, default: &str) -> String {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    arguments.nth(1).unwrap_or_else(|| default.into())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let host: std::net::IpAddr = option("--host", "127.0.0.1").parse()?;
    let choice: DriverChoice = option("--driver", "auto").parse()?;
    let port: u16 = option("--port", "0").parse()?;
    let shards: usize = option("--shards", "1").parse()?;
    descriptor_limit::raise()?;
    let (driver, reason) = Driver::choose(choice)?;
    eprintln!("{reason}");
    let addresses = Arc::new(AddressTable::default());
    let (started, intakes) = mpsc::channel();
    for _ in 0..shards {
        let (started, addresses) = (started.clone(), Arc::clone(&addresses));
        let config = IoConfig::default();
        thread::spawn(move || match driver {
            Driver::IoUring => serve(
                |config, waker, addresses| {
                    UringIo::new(config, waker, addresses).map(|io| {
                        let intake = io.intake();
                        (io, intake)
                    })
                },
                &config,
                addresses,
                &started,
            ),
            Driver::Epoll => serve(
                |config, waker, addresses| {
                    EpollIo::new(config, waker, addresses).map(|io| {
                        let intake = io.intake();
                        (io, intake)
                    })
                },
                &config,
                addresses,
                &started,
            ),
        });
    }
    drop(started);
    let intakes: Vec<_> = intakes.iter().take(shards).collect();
    let listener = listen(&ListenerConfig::new(SocketAddr::new(host, port)))?;
    println!("listening {}", listener.local_addr()?.port());
    let config = AcceptorConfig { connections_per_address_max: u32::MAX, refusal: Bytes::new() };
    let _acceptor = Acceptor::start(vec![listener], intakes, addresses, config)?;
    loop {
        thread::park();
    }
}
