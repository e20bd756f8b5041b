//! How a question reaches Redis: one server, the master that Sentinels name, or the masters of a cluster.
//!
//! Invariants: nobody waits longer than the timeout of a question, also while a connection is made; commands with the same key reach
//! their server in their order. What it does not do: repeat a question, or remember that Redis is away; callers do.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::future::try_join_all;
use parking_lot::Mutex as SyncMutex;
use redis::aio::{
    ConnectionLike, ConnectionManager, ConnectionManagerConfig, MultiplexedConnection,
};
use redis::cluster::{ClusterClient, ClusterConfig};
use redis::cluster_async::ClusterConnection;
use redis::sentinel::{SentinelClient, SentinelNodeConnectionInfo, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, IntoConnectionInfo, Pipeline, RedisError,
    RedisResult, Value,
};
use tokio::sync::Mutex;

use super::config::{RedisMode, RoutesConfig};

/// Pauses between attempts to connect.
const RECONNECT_FIRST: Duration = Duration::from_millis(50);
const RECONNECT_MAX: Duration = Duration::from_secs(1);
/// The Sentinels and the master together have this long to make a connection.
const FIND_MASTER_TIMEOUT: Duration = Duration::from_secs(2);

/// The way to Redis. Connections are made when they are first used, and the tokio runtime of that use drives them.
#[derive(Clone)]
pub struct Link {
    kind: Kind,
    timeout: Duration,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

#[derive(Clone)]
enum Kind {
    Single { client: Client, connection: Arc<OnceLock<RedisResult<ConnectionManager>>> },
    Sentinel(Arc<Mutex<Master>>),
    Cluster { client: Box<ClusterClient>, connection: Arc<SyncMutex<Option<ClusterConnection>>> },
}

/// The master as the Sentinels named it last.
struct Master {
    sentinels: SentinelClient,
    connection: Option<MultiplexedConnection>,
}

impl Link {
    /// To what the configuration names, without connecting.
    ///
    /// # Errors
    /// When an address is none.
    pub fn open(config: &RoutesConfig) -> RedisResult<Self> {
        let timeout = config.response_timeout;
        let nodes = nodes(config)?;
        let no_address = (redis::ErrorKind::InvalidClientConfig, "no address");
        let first = nodes.first().cloned().ok_or(no_address)?;
        let kind = match config.mode {
            RedisMode::Single => {
                Kind::Single { client: Client::open(first)?, connection: Arc::default() }
            }
            RedisMode::Sentinel => {
                let redis = SentinelNodeConnectionInfo::default()
                    .set_redis_connection_info(first.redis_settings().clone());
                let master = config.sentinel_master.clone();
                let sentinels = SentinelClient::build(
                    nodes.into_iter().map(|node| as_sentinel(node, config)).collect(),
                    master,
                    Some(redis),
                    SentinelServerType::Master,
                )?;
                Kind::Sentinel(Arc::new(Mutex::new(Master { sentinels, connection: None })))
            }
            RedisMode::Cluster => {
                let builder = ClusterClient::builder(nodes)
                    .retries(1)
                    .connection_timeout(timeout)
                    .response_timeout(timeout);
                Kind::Cluster { client: Box::new(builder.build()?), connection: Arc::default() }
            }
        };
        Ok(Self { kind, timeout })
    }

    /// One round trip, or, in a cluster, one for each server at the same time, with the commands without a key before.
    ///
    /// # Errors
    /// When it is unknown whether all commands were done, or one was refused.
    pub async fn ask(&self, pipeline: &Pipeline) -> Result<Vec<Value>, Failure> {
        let answer = async {
            match &self.kind {
                Kind::Single { client, connection } => {
                    let connect = || self.manager(client);
                    let mut connection = connection.get_or_init(connect).clone()?;
                    connection.req_packed_commands(pipeline, 0, pipeline.len()).await
                }
                Kind::Sentinel(master) => {
                    let mut connection = connect_master(master).await?;
                    connection.req_packed_commands(pipeline, 0, pipeline.len()).await
                }
                Kind::Cluster { client, connection } => {
                    let connect = || {
                        client.get_pending_async_connection_with_config(ClusterConfig::default())
                    };
                    let connection = connection.lock().get_or_insert_with(connect).clone();
                    ask_cluster(&connection, pipeline).await
                }
            }
        };
        let answer = tokio::time::timeout(self.timeout, answer).await;
        let answer = answer.map_err(|_| Failure::Timeout(self.timeout));
        let values = answer.and_then(|values| values.map_err(Failure::Redis));
        let values = values.and_then(|values| {
            let whole = Value::Array(values).extract_error().map_err(Failure::Redis)?;
            Ok(if let Value::Array(values) = whole { values } else { Vec::new() })
        });
        if values.is_err() {
            self.forget_connection();
        }
        values
    }

    /// After a failure.
    fn forget_connection(&self) {
        match &self.kind {
            // It connects again by itself.
            Kind::Single { .. } => {}
            // It may be silent, or no longer the master: the next question asks the Sentinels.
            Kind::Sentinel(master) => {
                if let Ok(mut master) = master.try_lock() {
                    master.connection = None;
                }
            }
            // A server that was away and came back is not always found again (redis 1.8.1, seen in every second run of the test).
            Kind::Cluster { connection, .. } => *connection.lock() = None,
        }
    }

    fn manager(&self, client: &Client) -> RedisResult<ConnectionManager> {
        let settings = ConnectionManagerConfig::new()
            .set_min_delay(RECONNECT_FIRST)
            .set_max_delay(RECONNECT_MAX)
            .set_number_of_retries(1)
            .set_connection_timeout(Some(self.timeout))
            .set_response_timeout(Some(self.timeout));
        ConnectionManager::new_lazy_with_config(client.clone(), settings)
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Silence.
    #[error("no answer in {0:?}")]
    Timeout(Duration),
    /// A lost connection, or a refusal.
    #[error("{0}")]
    Redis(RedisError),
}

impl Failure {
    /// Whether Redis is there and does not serve us: a mistake of the configuration, not an outage.
    pub fn is_refusal(&self) -> bool {
        use redis::{ErrorKind, ServerErrorKind};
        let Self::Redis(error) = self else { return false };
        let is_password = error.code().is_some_and(|code| ["NOAUTH", "WRONGPASS"].contains(&code));
        let is_other_kind = matches!(
            error.kind(),
            ErrorKind::AuthenticationFailed
                | ErrorKind::InvalidClientConfig
                | ErrorKind::MasterNameNotFoundBySentinel
                | ErrorKind::Server(ServerErrorKind::NoPerm | ServerErrorKind::Moved)
        );
        is_password || is_other_kind
    }
}

/// The addresses of the configuration, with the credentials beside them.
pub(super) fn nodes(config: &RoutesConfig) -> RedisResult<Vec<ConnectionInfo>> {
    let node = |url: &str| {
        let info = url.trim().into_connection_info()?;
        let mut settings = info.redis_settings().clone();
        if !config.username.is_empty() {
            settings = settings.set_username(&config.username);
        }
        if !config.password.is_empty() {
            settings = settings.set_password(&config.password);
        }
        Ok(info.set_redis_settings(settings))
    };
    config.url.split(',').map(node).collect()
}

/// A Sentinel has credentials of its own, and no databases.
fn as_sentinel(node: ConnectionInfo, config: &RoutesConfig) -> ConnectionInfo {
    let mut settings = redis::RedisConnectionInfo::default();
    if !config.sentinel_password.is_empty() {
        settings = settings.set_password(&config.sentinel_password);
    }
    node.set_redis_settings(settings)
}

/// The connection that is there, or a new one: made by a task of its own, so that whoever cannot wait for it finds it later.
async fn connect_master(master: &Arc<Mutex<Master>>) -> RedisResult<MultiplexedConnection> {
    if let Ok(known) = master.try_lock()
        && let Some(connection) = &known.connection
    {
        return Ok(connection.clone());
    }
    let master = Arc::clone(master);
    let connected = tokio::spawn(async move {
        let mut master = master.lock().await;
        if let Some(connection) = &master.connection {
            return Ok(connection.clone());
        }
        let settings =
            AsyncConnectionConfig::new().set_connection_timeout(Some(FIND_MASTER_TIMEOUT));
        let connect = master.sentinels.get_async_connection_with_config(&settings);
        let timeout = tokio::time::timeout(FIND_MASTER_TIMEOUT, connect).await;
        let connection =
            timeout.map_err(|elapsed| RedisError::from(std::io::Error::from(elapsed)))??;
        master.connection = Some(connection.clone());
        Ok(connection)
    });
    connected.await.map_err(|error| RedisError::from(std::io::Error::other(error)))?
}

/// Every key's commands go to its server as one pipeline.
async fn ask_cluster(
    connection: &ClusterConnection,
    pipeline: &Pipeline,
) -> RedisResult<Vec<Value>> {
    let mut values = vec![Value::Nil; pipeline.len()];
    let mut of_key: HashMap<Vec<u8>, usize> = HashMap::new();
    let mut groups: Vec<(Pipeline, Vec<usize>)> = Vec::new();
    for (position, command) in pipeline.cmd_iter().enumerate() {
        let Some(key) = key_of(command) else {
            // For all servers, such as a script that the commands with keys need.
            values[position] = connection.clone().req_packed_command(command).await?;
            continue;
        };
        let group = *of_key.entry(key).or_insert_with(|| {
            groups.push((Pipeline::new(), Vec::new()));
            groups.len() - 1
        });
        let (commands, positions) = &mut groups[group];
        commands.add_command(command.clone());
        positions.push(position);
    }
    let asked = groups.iter().map(|(commands, _)| {
        let mut connection = connection.clone();
        async move { connection.req_packed_commands(commands, 0, commands.len()).await }
    });
    let answers = try_join_all(asked).await?;
    for ((_, positions), answer) in groups.iter().zip(answers) {
        for (position, value) in positions.iter().zip(answer) {
            values[*position] = value;
        }
    }
    Ok(values)
}

/// The key of a command of ours: the one of a script, or the first argument.
fn key_of(command: &Cmd) -> Option<Vec<u8>> {
    let mut arguments = command.args_iter().filter_map(|argument| match argument {
        redis::Arg::Simple(bytes) => Some(bytes),
        redis::Arg::Cursor => None,
        _ => None,
    });
    match arguments.next()? {
        b"SCRIPT" => None,
        b"EVAL" | b"EVALSHA" => arguments.nth(2).map(<[u8]>::to_vec),
        _ => arguments.next().map(<[u8]>::to_vec),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(command: &str, key: Option<&str>) {
        let mut words = command.split(' ');
        let mut cmd = redis::cmd(words.next().unwrap_or_default());
        words.for_each(|word| _ = cmd.arg(word));
        assert_eq!(key_of(&cmd), key.map(|key| key.as_bytes().to_vec()), "{command}");
    }

    #[test]
    fn commands_name_their_key() {
        check("HGETALL k", Some("k"));
        check("EVALSHA sha 1 k a b", Some("k"));
        check("EVAL text 1 k a", Some("k"));
        check("SCRIPT LOAD text", None);
    }
}
