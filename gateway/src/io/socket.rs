//! Listening sockets, and the peer address of an accepted one.
//!
//! Options set on a listener are inherited by its accepted sockets, so an accept costs no extra system call.
#![allow(unsafe_code)]

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

/// A process that was killed leaves its ring to the kernel, which ends it, and the listeners in it, a moment after the process is
/// gone: a supervisor that restarts at once must not find the port taken.
const PORT_RELEASE_WAIT: Duration = Duration::from_secs(1);
const PORT_RELEASE_POLL: Duration = Duration::from_millis(20);

/// How to listen.
#[derive(Clone, Debug)]
pub struct ListenerConfig {
    /// Where; port 0 lets the kernel choose.
    pub address: SocketAddr,
    /// Connections the kernel completes before they are accepted; it lowers it to `net.core.somaxconn`.
    pub backlog: u32,
    /// Congestion control of the accepted connections, e.g. `cubic`; `None` leaves the system's default.
    pub congestion_control: Option<String>,
}

impl ListenerConfig {
    /// With the default backlog of 65,535 and the system's congestion control.
    pub fn new(address: SocketAddr) -> Self {
        Self { address, backlog: 65_535, congestion_control: None }
    }
}

/// Why a listener could not be opened. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody listens there.
    #[error(
        "cannot listen on {0}: the port is in use. Stop the process that has it \
         (`ss -ltnp 'sport = :{port}'` shows it) or choose another port",
        port = .0.port()
    )]
    PortInUse(SocketAddr),
    /// A privileged port.
    #[error(
        "cannot listen on {0}: permission denied. Use a port from 1024 up, or give the program \
         CAP_NET_BIND_SERVICE (systemd: AmbientCapabilities=CAP_NET_BIND_SERVICE)"
    )]
    PermissionDenied(SocketAddr),
    /// The address is not one of this host.
    #[error(
        "cannot listen on {0}: this host has no such address. `ip -br addr` lists those it has; \
         0.0.0.0 or [::] means all of them"
    )]
    AddressNotAvailable(SocketAddr),
    /// The kernel does not have or allow the algorithm.
    #[error(
        "cannot use congestion control `{name}` on {address}: {error}. \
         `sysctl net.ipv4.tcp_available_congestion_control` lists what this kernel has"
    )]
    CongestionControl {
        /// What was asked for.
        name: String,
        /// Of which listener.
        address: SocketAddr,
        /// What the kernel said.
        error: io::Error,
    },
    /// Anything else.
    #[error("cannot listen on {address}: {error}")]
    Other {
        /// Where.
        address: SocketAddr,
        /// What the kernel said.
        error: io::Error,
    },
}

impl ListenError {
    fn of_bind(address: SocketAddr, error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EADDRINUSE) => Self::PortInUse(address),
            Some(libc::EACCES | libc::EPERM) => Self::PermissionDenied(address),
            Some(libc::EADDRNOTAVAIL) => Self::AddressNotAvailable(address),
            _ => Self::Other { address, error },
        }
    }
}

/// Opens a non-blocking listener whose connections have TCP_NODELAY. A port in use gets a second to become free.
///
/// # Errors
/// See [`ListenError`].
pub fn listen(config: &ListenerConfig) -> Result<TcpListener, ListenError> {
    let begin = Instant::now();
    loop {
        match listen_once(config) {
            Err(ListenError::PortInUse(_)) if begin.elapsed() < PORT_RELEASE_WAIT => {
                std::thread::sleep(PORT_RELEASE_POLL);
            }
            result => return result,
        }
    }
}

fn listen_once(config: &ListenerConfig) -> Result<TcpListener, ListenError> {
    let address = config.address;
    let other = |error| ListenError::Other { address, error };
    let socket = open(address).map_err(other)?;
    let fd = socket.as_raw_fd();
    set_flag(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR).map_err(other)?;
    set_flag(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY).map_err(other)?;
    if let Some(name) = &config.congestion_control {
        set_option(fd, libc::IPPROTO_TCP, libc::TCP_CONGESTION, name.as_bytes()).map_err(
            |error| ListenError::CongestionControl { name: name.clone(), address, error },
        )?;
    }
    bind(fd, address).map_err(|error| ListenError::of_bind(address, error))?;
    let backlog = i32::try_from(config.backlog).unwrap_or(i32::MAX);
    // SAFETY: `fd` is an open socket; listen takes no pointers.
    if unsafe { libc::listen(fd, backlog) } != 0 {
        return Err(ListenError::of_bind(address, io::Error::last_os_error()));
    }
    Ok(TcpListener::from(socket))
}

fn open(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: socket takes no pointers; its result is checked before use.
    let fd = unsafe { libc::socket(family, kind, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` was just returned by socket and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn set_flag(fd: RawFd, level: i32, option: i32) -> io::Result<()> {
    set_option(fd, level, option, &1i32.to_ne_bytes())
}

fn set_option(fd: RawFd, level: i32, option: i32, value: &[u8]) -> io::Result<()> {
    // SAFETY: pointer and length describe a live slice, which the kernel only reads.
    let result = unsafe {
        libc::setsockopt(fd, level, option, value.as_ptr().cast(), value.len() as libc::socklen_t)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn bind(fd: RawFd, address: SocketAddr) -> io::Result<()> {
    let result = match address {
        SocketAddr::V4(address) => {
            let name = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: address.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
                sin_zero: [0; 8],
            };
            let size = size_of_val(&name) as libc::socklen_t;
            // SAFETY: pointer and size describe a live `sockaddr_in`.
            unsafe { libc::bind(fd, (&raw const name).cast(), size) }
        }
        SocketAddr::V6(address) => {
            let name = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: address.port().to_be(),
                sin6_flowinfo: address.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: address.ip().octets() },
                sin6_scope_id: address.scope_id(),
            };
            let size = size_of_val(&name) as libc::socklen_t;
            // SAFETY: pointer and size describe a live `sockaddr_in6`.
            unsafe { libc::bind(fd, (&raw const name).cast(), size) }
        }
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Where the kernel writes the peer's address when it accepts: room for IPv4 and IPv6.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct PeerName {
    name: libc::sockaddr_in6,
    size_bytes: libc::socklen_t,
}

impl PeerName {
    /// Ready for an accept.
    pub(crate) fn empty() -> Self {
        let name = libc::sockaddr_in6 {
            sin6_family: 0,
            sin6_port: 0,
            sin6_flowinfo: 0,
            sin6_addr: libc::in6_addr { s6_addr: [0; 16] },
            sin6_scope_id: 0,
        };
        Self { name, size_bytes: size_of::<libc::sockaddr_in6>() as libc::socklen_t }
    }

    /// The two pointers an accept wants.
    pub(crate) fn pointers(&mut self) -> (*mut libc::sockaddr, *mut libc::socklen_t) {
        ((&raw mut self.name).cast(), &raw mut self.size_bytes)
    }

    /// What the accept wrote.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        match i32::from(self.name.sin6_family) {
            // The IPv4 address lies at offset 4, where IPv6 has its flow information.
            libc::AF_INET => {
                Some(IpAddr::V4(Ipv4Addr::from(self.name.sin6_flowinfo.to_ne_bytes())))
            }
            libc::AF_INET6 => Some(IpAddr::V6(Ipv6Addr::from(self.name.sin6_addr.s6_addr))),
            _ => None,
        }
    }
}

/// Ends a listener: pending and future accepts fail, clients are refused by the kernel.
pub(crate) fn stop_listening(listener: &TcpListener) {
    // SAFETY: an open socket; shutdown takes no pointers.
    unsafe { libc::shutdown(listener.as_raw_fd(), libc::SHUT_RDWR) };
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    fn loopback(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn a_busy_port_says_what_to_do() {
        let first = listen(&ListenerConfig::new(loopback(0))).unwrap();
        let address = first.local_addr().unwrap();
        let error = listen(&ListenerConfig::new(address)).unwrap_err().to_string();
        assert!(
            error.contains("in use") && error.contains(&format!(":{}", address.port())),
            "{error}"
        );
    }

    #[test]
    fn an_address_of_another_host_says_what_to_do() {
        let elsewhere = SocketAddr::from(([192, 0, 2, 77], 0));
        let error = listen(&ListenerConfig::new(elsewhere)).unwrap_err().to_string();
        assert!(error.contains("no such address"), "{error}");
    }

    #[test]
    fn an_unknown_congestion_control_is_named() {
        let mut config = ListenerConfig::new(loopback(0));
        config.congestion_control = Some("warp".into());
        let error = listen(&config).unwrap_err().to_string();
        assert!(error.contains("`warp`") && error.contains("available"), "{error}");
    }

    #[test]
    fn accepted_connections_inherit_nodelay_in_both_families() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = listen(&ListenerConfig::new(address.parse().unwrap())).unwrap();
            listener.set_nonblocking(false).unwrap();
            let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            assert!(accepted.nodelay().unwrap());
        }
    }
}
