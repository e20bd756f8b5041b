//! Asks a process whether it is ready, over its own port. Each probe speaks just enough of the protocol that a process which accepts
//! connections and does nothing else is told apart.

use std::fmt;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use serde::{Deserialize, Serialize};

const PATIENCE: Duration = Duration::from_secs(2);

/// What a process answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Readiness {
    Ready,
    /// What is missing, as the process says it, or that it says nothing.
    Missing(String),
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => f.write_str("ready"),
            Self::Missing(what) => write!(f, "NOT READY: {what}"),
        }
    }
}

/// How to ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Probe {
    /// `/readyz?verbose` on the admin port: a BAD line for each part that is missing.
    Gateway { admin: u16 },
    /// A request that reads the database; a 5xx answer names what is missing.
    Logic { http: u16, api_key: String },
    /// The broker greets whoever greets it.
    RabbitMq { port: u16 },
    /// PING.
    Redis { port: u16 },
    /// The server greets first.
    MariaDb { port: u16 },
    /// SSLRequest is answered with S or N.
    PostgreSql { port: u16 },
    /// It accepts connections.
    Port { port: u16 },
}

impl Probe {
    /// Asks once.
    pub(crate) fn ask(&self) -> Readiness {
        let greeted =
            |port, greeting: &[u8], answer: &[u8]| match greet(port, greeting, answer.len()) {
                Ok(bytes) if bytes == answer || answer == [0] => Readiness::Ready,
                Ok(bytes) => Readiness::Missing(format!("answers {bytes:?}, expected {answer:?}")),
                Err(error) => Readiness::Missing(format!("port {port}: {error}")),
            };
        match self {
            Self::Gateway { admin } => readyz(*admin),
            Self::Logic { http, api_key } => reads(*http, api_key),
            // Connection.Start: a method frame on channel 0.
            Self::RabbitMq { port } => greeted(*port, b"AMQP\x00\x00\x09\x01", &[1, 0, 0]),
            Self::Redis { port } => greeted(*port, b"PING\r\n", b"+PONG"),
            Self::MariaDb { port } => greeted(*port, b"", &[0]),
            Self::PostgreSql { port } => greeted(*port, &[0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f], &[0]),
            Self::Port { port } => match connect(*port) {
                Ok(_) => Readiness::Ready,
                Err(error) => Readiness::Missing(format!("port {port}: {error}")),
            },
        }
    }
}

fn connect(port: u16) -> std::io::Result<TcpStream> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let socket = TcpStream::connect_timeout(&address, PATIENCE)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

fn greet(port: u16, greeting: &[u8], count: usize) -> std::io::Result<Vec<u8>> {
    let mut socket = connect(port)?;
    socket.write_all(greeting)?;
    let mut answer = vec![0; count];
    socket.read_exact(&mut answer)?;
    Ok(answer)
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .timeout_global(Some(PATIENCE))
        .http_status_as_error(false)
        .build()
        .new_agent()
}

fn readyz(admin: u16) -> Readiness {
    let url = format!("http://127.0.0.1:{admin}/readyz?verbose");
    let missing = |error: ureq::Error| Readiness::Missing(format!("port {admin}: {error}"));
    let mut answer = match agent().get(&url).call() {
        Ok(answer) => answer,
        Err(error) => return missing(error),
    };
    if answer.status().is_success() {
        return Readiness::Ready;
    }
    match answer.body_mut().read_to_string() {
        Ok(text) => {
            let bad: Vec<&str> =
                text.lines().filter_map(|line| line.strip_prefix("[BAD] ")).collect();
            Readiness::Missing(bad.join("; "))
        }
        Err(error) => missing(error),
    }
}

fn reads(http: u16, api_key: &str) -> Readiness {
    // Nobody has this name; that nobody has it is read from the database.
    let url = format!("http://127.0.0.1:{http}/v1/users/nobody/inbox");
    let missing = |error: ureq::Error| Readiness::Missing(format!("port {http}: {error}"));
    let request = agent().get(&url).header("authorization", format!("Bearer {api_key}"));
    let mut answer = match request.call() {
        Ok(answer) => answer,
        Err(error) => return missing(error),
    };
    if !answer.status().is_server_error() {
        return Readiness::Ready;
    }
    Readiness::Missing(answer.body_mut().read_to_string().unwrap_or_else(|error| error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_process_that_only_accepts_is_not_ready() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(Probe::Port { port }.ask(), Readiness::Ready);
        drop(listener);
        for probe in [Probe::Port { port }, Probe::Redis { port }, Probe::Gateway { admin: port }] {
            assert!(matches!(probe.ask(), Readiness::Missing(_)), "{probe:?}");
        }
    }

    #[test]
    fn an_answer_that_is_not_the_protocols_is_not_ready() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            socket.write_all(b"-LOADING\r\n").unwrap();
            let mut rest = Vec::new();
            _ = socket.read_to_end(&mut rest);
        });
        let said = Probe::Redis { port }.ask().to_string();
        assert!(said.contains("NOT READY"), "{said}");
        server.join().unwrap();
    }
}
