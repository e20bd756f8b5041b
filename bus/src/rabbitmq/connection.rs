//! A connection to the broker, and what its errors mean to the person who reads them.
//!
//! lapin's own recovery is not used: a connection that fails is dropped with everything on it, and its successor starts from nothing.
//! So an acknowledgement of the former connection can never meet a delivery of the next.

use std::time::Duration;

use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::{Channel, Connection, ConnectionProperties, ErrorKind};

use super::topology::{self, PARTITIONS_QUEUE};
use crate::PublishError;
use crate::config::BusConfig;

/// How long a goodbye to the broker may take.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

/// Why there is no usable connection.
#[derive(Debug, Clone)]
pub(super) enum Failure {
    /// Waiting may help: the broker is away.
    Lost(String),
    /// A queue belongs to another connection.
    NameTaken(String),
    /// Only a person can help; the text says how.
    Refused(String),
}

impl From<lapin::Error> for Failure {
    fn from(error: lapin::Error) -> Self {
        let ErrorKind::ProtocolError(amqp) = error.kind() else {
            return Self::Lost(error.to_string());
        };
        match amqp.kind() {
            AMQPErrorKind::Soft(AMQPSoftError::RESOURCELOCKED) => {
                Self::NameTaken(amqp.get_message().to_string())
            }
            AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED) => {
                Self::Refused(declared_differently(amqp.get_message().as_str()))
            }
            AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => Self::Refused(format!(
                "the broker does not permit it: {}. Give the user of bus.user all permissions on names that begin with \
                     \"roost.\":  rabbitmqctl set_permissions -p VHOST USER '^roost[.]' '^roost[.]|^amq[.]default$' '^roost[.]'",
                amqp.get_message()
            )),
            AMQPErrorKind::Soft(_) | AMQPErrorKind::Hard(_) => {
                Self::Lost(amqp.get_message().to_string())
            }
        }
    }
}

impl From<Failure> for PublishError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Lost(text) => Self::Unavailable(text),
            Failure::NameTaken(text) | Failure::Refused(text) => Self::Refused(text),
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Lost(text) | Self::NameTaken(text) | Self::Refused(text) => f.write_str(text),
        }
    }
}

fn declared_differently(broker_says: &str) -> String {
    if broker_says.contains(PARTITIONS_QUEUE) {
        return format!(
            "the cluster was made with another number of partitions than bus.partitions: {broker_says}. Write the cluster's \
             number; to change it, stop both tiers, wait until the queues roost.in.* are empty, delete them and {PARTITIONS_QUEUE}"
        );
    }
    format!(
        "a queue exists with other settings than this version of Roost declares: {broker_says}. Somebody else made it: use a \
         virtual host of its own for Roost (bus.url), or stop both tiers and delete the queue:  rabbitmqctl delete_queue NAME"
    )
}

/// Opens a connection that the broker shows under `name`.
pub(super) async fn open(config: &BusConfig, name: &str) -> Result<Connection, Failure> {
    let uri = config.uri().map_err(Failure::Refused)?;
    let place = format!("{}:{}", uri.authority.host, uri.authority.port);
    let (user, vhost) = (uri.authority.userinfo.username.clone(), uri.vhost.clone());
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let connecting = Connection::connect_uri(uri, properties);
    let error = match tokio::time::timeout(config.connect_timeout, connecting).await {
        Ok(Ok(connection)) => return Ok(connection),
        Ok(Err(error)) => error,
        Err(_) => {
            let within = config.connect_timeout;
            return Err(Failure::Lost(format!("{place} does not answer within {within:?}")));
        }
    };
    let ErrorKind::ProtocolError(amqp) = error.kind() else {
        return Err(Failure::Lost(format!(
            "no connection to {place} (bus.url): {error}; is RabbitMQ running there?"
        )));
    };
    Err(match amqp.kind() {
        AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => Failure::Refused(format!(
            "the broker at {place} does not accept user {user:?} with this password: correct bus.user and bus.password \
                 (environment: ROOST_BUS__USER, ROOST_BUS__PASSWORD). The user guest is accepted from the broker's own host only"
        )),
        AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) => Failure::Refused(format!(
            "the broker at {place} does not let user {user:?} use the virtual host {vhost:?} ({}): correct bus.url, or make it: \
                 rabbitmqctl add_vhost {vhost}; rabbitmqctl set_permissions -p {vhost} {user} '.*' '.*' '.*'",
            amqp.get_message()
        )),
        AMQPErrorKind::Soft(_) | AMQPErrorKind::Hard(_) => {
            Failure::Lost(format!("{place}: {}", amqp.get_message()))
        }
    })
}

/// Opens a connection and declares everything shared.
pub(super) async fn open_declared(
    config: &BusConfig,
    name: &str,
) -> Result<(Connection, Channel), Failure> {
    let connection = open(config, name).await?;
    let declaring = async {
        let channel = connection.create_channel().await?;
        topology::declare(&channel, config.partitions).await?;
        lapin::Result::Ok(channel)
    };
    let within = config.connect_timeout;
    let declared = match tokio::time::timeout(within, declaring).await {
        Ok(declared) => declared.map_err(Failure::from),
        Err(_) => Err(Failure::Lost(format!("declaring queues took longer than {within:?}"))),
    };
    match declared {
        Ok(channel) => Ok((connection, channel)),
        Err(failure) => {
            close(&connection).await;
            Err(failure)
        }
    }
}

/// Says goodbye, so that the broker frees exclusive queues and unacknowledged bodies at once.
pub(super) async fn close(connection: &Connection) {
    _ = tokio::time::timeout(CLOSE_WITHIN, connection.close(200, "bye".into())).await;
}

/// The pauses between attempts to connect: doubled up to the longest, with jitter, from the start again after a success.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(super) fn new(config: &BusConfig) -> Self {
        Self { next: config.reconnect_first }
    }

    pub(super) async fn pause(&mut self, config: &BusConfig) {
        let pause = self.next.mul_f64(0.5 + fastrand::f64() / 2.0);
        self.next = (self.next * 2).min(config.reconnect_max);
        tokio::time::sleep(pause).await;
    }
}
