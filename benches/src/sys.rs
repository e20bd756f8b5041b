//! The few C calls the floors and the generator need and the standard library does not offer.
//!
//! Every wrapper is safe to call with any argument; a failure is an `io::Error`, never a panic.
//! Deliberately without policy: who is pinned where is decided by the measurement.
#![allow(unsafe_code)]

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Connections a listener may hold before they are accepted; `net.core.somaxconn` caps it.
const BACKLOG: i32 = 4096;

/// Of every socket of a bench: the machine's default may be BBR, which paces small messages, and
/// reno is what a network namespace may always choose.
pub const CONGESTION_CONTROL: &str = "reno";

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn set_option(fd: RawFd, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    // SAFETY: pointer and length describe `value`, which outlives the call.
    let result = unsafe {
        libc::setsockopt(fd, level, name, value.as_ptr().cast(), value.len() as libc::socklen_t)
    };
    check(result).map(drop)
}

/// Pins the calling thread, and every thread it makes later, to one core.
pub fn pin_to_cpu(cpu: usize) -> io::Result<()> {
    // SAFETY: all-zero bytes are an empty cpu_set_t.
    let mut set: libc::cpu_set_t = unsafe { zeroed() };
    // SAFETY: `set` is a valid cpu_set_t; CPU_SET ignores an index beyond its size.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the size is that of `set`, which outlives the call.
    check(unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) }).map(drop)
}

/// Puts the calling process before everything of normal priority (`SCHED_FIFO`, lowest level).
/// The kernel still keeps 5 % of each core for the others.
pub fn become_realtime() -> io::Result<()> {
    let parameter = libc::sched_param { sched_priority: 1 };
    // SAFETY: `parameter` outlives the call; pid 0 is the caller.
    check(unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &parameter) }).map(drop)
}

/// Asks the kernel to kill this process when its parent ends, so that no subject outlives a bench.
pub fn die_with_parent() -> io::Result<()> {
    // SAFETY: PR_SET_PDEATHSIG takes one integer and touches no memory of ours.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) }).map(drop)
}

/// Asks for 2 MiB pages to stay out of this process: a slope of memory over connections must not
/// move in steps of 2 MiB.
pub fn no_huge_pages() -> io::Result<()> {
    // SAFETY: PR_SET_THP_DISABLE takes integers and touches no memory of ours.
    check(unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) }).map(drop)
}

/// Moves this process and all it starts later into a network of its own, with nothing but a
/// loopback: no other program's sockets, and settings that nobody else sees. Needs root.
pub fn enter_own_network() -> io::Result<()> {
    // SAFETY: unshare touches no memory of ours.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    // SAFETY: all-zero bytes are a valid ifreq.
    let mut request: libc::ifreq = unsafe { zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo\0") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads an ifreq, which `request` is.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) }).map(drop)
}

/// Listens on a free loopback port with what every subject of a comparison gets: no Nagle,
/// [`CONGESTION_CONTROL`], a long backlog.
pub fn listen() -> io::Result<TcpListener> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let fd = listener.as_raw_fd();
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, &1i32.to_ne_bytes())?;
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_CONGESTION, CONGESTION_CONTROL.as_bytes())?;
    // SAFETY: listen on a listening socket only changes its backlog.
    check(unsafe { libc::listen(fd, BACKLOG) })?;
    Ok(listener)
}

/// Connects from `source` (port chosen by the kernel at connect, so that one source address gives
/// its whole port range to each target), without Nagle and with [`CONGESTION_CONTROL`].
pub fn connect_from(source: Ipv4Addr, target: SocketAddrV4) -> io::Result<TcpStream> {
    // SAFETY: socket touches no memory of ours.
    let fd =
        check(unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: `fd` was returned just now and has no other owner.
    let stream = unsafe { TcpStream::from_raw_fd(fd) };
    set_option(fd, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, &1i32.to_ne_bytes())?;
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, &1i32.to_ne_bytes())?;
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_CONGESTION, CONGESTION_CONTROL.as_bytes())?;
    let from = socket_address(SocketAddrV4::new(source, 0));
    let length = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    // SAFETY: `from` is a sockaddr_in of `length` bytes and outlives the call.
    check(unsafe { libc::bind(fd, (&raw const from).cast(), length) })?;
    let to = socket_address(target);
    // SAFETY: `to` is a sockaddr_in of `length` bytes and outlives the call.
    check(unsafe { libc::connect(fd, (&raw const to).cast(), length) })?;
    Ok(stream)
}

fn socket_address(address: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
        sin_zero: [0; 8],
    }
}

/// Makes a connected socket vanish without a packet: its peer keeps a connection that never hears
/// anything again. Needs CAP_NET_ADMIN (`TCP_REPAIR`, tcp(7)).
pub fn vanish(stream: TcpStream) -> io::Result<()> {
    set_option(stream.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_REPAIR, &1i32.to_ne_bytes())?;
    drop(stream);
    Ok(())
}

/// An epoll instance whose events carry one number.
pub struct Epoll {
    fd: OwnedFd,
    events: Vec<libc::epoll_event>,
}

impl Epoll {
    /// Reaps at most `batch` events at a time.
    pub fn new(batch: usize) -> io::Result<Self> {
        // SAFETY: epoll_create1 touches no memory of ours.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: `fd` was returned just now and has no other owner.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd, events: vec![libc::epoll_event { events: 0, u64: 0 }; batch] })
    }

    /// Level-triggered interest in reading `fd`; its events carry `token`.
    pub fn add(&self, fd: &impl AsRawFd, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: token };
        let (epoll, fd) = (self.fd.as_raw_fd(), fd.as_raw_fd());
        // SAFETY: `event` outlives the call.
        check(unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &mut event) }).map(drop)
    }

    /// Waits for at least one event and passes each token to `handle`.
    pub fn wait(&mut self, mut handle: impl FnMut(u64) -> io::Result<()>) -> io::Result<()> {
        let capacity = self.events.len() as i32;
        let events = self.events.as_mut_ptr();
        // SAFETY: `events` points to `capacity` entries that outlive the call.
        let count =
            match check(unsafe { libc::epoll_wait(self.fd.as_raw_fd(), events, capacity, -1) }) {
                Ok(count) => count as usize,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
                Err(error) => return Err(error),
            };
        for event in &self.events[..count] {
            handle(event.u64)?;
        }
        Ok(())
    }
}
