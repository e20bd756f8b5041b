//! Members in ZooKeeper, 3.6 or later: ephemeral nodes PREFIX/gateways/NAME, and a watch that says when to look again.
//!
//! The session is the lease: the client keeps it alive and mends its connection by itself; when it has expired the next round opens
//! another one. With credentials (scheme digest) the nodes belong to them, and nobody else may read or write them.

use std::fmt::Display;
use std::time::Duration;

use tokio::time::timeout;
use zookeeper_client::{
    Acls, AddWatchMode, Client, CreateMode, Error, EventType, MultiReadResult, PersistentWatcher,
    SessionState,
};

use crate::registry::RegistryError;
use crate::registry::config::MembershipConfig;
use crate::registry::entry::Entry;

/// See the module text.
#[derive(Debug)]
pub(crate) struct ZooKeeper {
    /// As the client takes them.
    servers: String,
    server_count: u32,
    /// `user:password`.
    credentials: Option<String>,
    /// The parent of all entries.
    folder: String,
    timeout: Duration,
    wanted_lease: Duration,
    client: Option<Client>,
    /// The entry made by the session of `client`.
    claimed: Option<String>,
    watch: Option<PersistentWatcher>,
}

impl ZooKeeper {
    pub(crate) fn new(config: &MembershipConfig) -> Self {
        let has_credentials = !config.user.is_empty();
        Self {
            servers: config.endpoints.join(","),
            server_count: config.endpoints.len().try_into().unwrap_or(u32::MAX),
            credentials: has_credentials.then(|| format!("{}:{}", config.user, config.password)),
            folder: format!("{}/gateways", config.prefix),
            timeout: config.response_timeout,
            wanted_lease: config.lease,
            client: None,
            claimed: None,
            watch: None,
        }
    }

    /// What the server grants may differ from what is wanted.
    pub(crate) fn lease(&self) -> Duration {
        self.client.as_ref().map_or(self.wanted_lease, Client::session_timeout)
    }

    pub(crate) fn has_claim(&self) -> bool {
        self.claimed.is_some()
    }

    /// A session that has not ended, and the parent of all entries.
    pub(crate) async fn renew(&mut self) -> Result<(), RegistryError> {
        if self.client.as_ref().is_some_and(|client| !is_over(client.state())) {
            return Ok(());
        }
        self.forget();
        let mut connector =
            Client::connector().with_session_timeout(self.wanted_lease).with_fail_eagerly();
        if let Some(credentials) = &self.credentials {
            connector = connector.with_auth("digest", credentials.as_bytes());
        }
        let connect = connector.connect(&self.servers);
        let client = self.within(self.server_count, connect).await?;
        if self.ask(client.check_stat(&self.folder)).await?.is_none() {
            let options = CreateMode::Persistent.with_acls(self.acls());
            self.ask(client.mkdir(&self.folder, &options)).await?;
        }
        self.client = Some(client);
        Ok(())
    }

    pub(crate) async fn entries(&mut self) -> Result<Vec<Entry>, RegistryError> {
        let client = self.client()?;
        if self.watch.is_none() {
            let watch = client.watch(&self.folder, AddWatchMode::PersistentRecursive);
            self.watch = Some(self.ask(watch).await?);
        }
        let names = self.ask(client.list_children(&self.folder)).await?;
        let mut reader = client.new_multi_reader();
        for name in &names {
            reader.add_get_data(&self.path(name)).map_err(|error| self.failure(&error))?;
        }
        let answers = self.ask(reader.commit()).await?;
        let entry = |(name, answer): (&String, MultiReadResult)| {
            // Else it has left in between; the watch tells.
            let MultiReadResult::Data { data, .. } = answer else { return None };
            Entry::decode(name, &data)
        };
        Ok(names.iter().zip(answers).filter_map(entry).collect())
    }

    /// Create, or replace what this process has made.
    pub(crate) async fn claim(&mut self, entry: &Entry) -> Result<(), RegistryError> {
        let (client, path) = (self.client()?, self.path(&entry.name));
        let data = entry.encode();
        if self.claimed.as_ref() == Some(&path) {
            let replace = async || found(client.set_data(&path, &data, None).await);
            if self.ask(replace()).await?.is_some() {
                return Ok(());
            }
        }
        let options = CreateMode::Ephemeral.with_acls(self.acls());
        let create = async || match client.create(&path, &data, &options).await {
            Err(Error::NodeExists) => Ok(false),
            result => result.map(|_| true),
        };
        // What is there may end between two questions: then it is created after all.
        while !self.ask(create()).await? {
            let look = async || found(client.get_data(&path).await);
            let Some((there, stat)) = self.ask(look()).await? else { continue };
            let other = Entry::decode(&entry.name, &there);
            if other.as_ref().is_none_or(|other| other.incarnation != entry.incarnation) {
                let address = other.map_or_else(|| "an unknown address".to_owned(), |o| o.address);
                return Err(RegistryError::NameTaken { name: entry.name.clone(), address });
            }
            // A former session of this process made it, and has not ended for the server.
            let remove = async || found(client.delete(&path, Some(stat.version)).await);
            self.ask(remove()).await?;
        }
        self.claimed = Some(path);
        Ok(())
    }

    pub(crate) async fn changed(&mut self) -> Result<(), RegistryError> {
        let Some(watch) = &mut self.watch else { return std::future::pending().await };
        let event = watch.changed().await;
        if event.event_type != EventType::Session {
            return Ok(());
        }
        // What happens while the connection is mended is not told: a new watch, and a look at the list.
        self.watch = None;
        Err(RegistryError::Unreachable(format!("{}: the connection was lost", self.servers)))
    }

    pub(crate) async fn leave(&mut self) -> Result<(), RegistryError> {
        let result = match (&self.client, &self.claimed) {
            (Some(client), Some(path)) => self.ask(client.delete(path, None)).await,
            _ => Ok(()),
        };
        self.forget();
        result
    }

    /// The session ends with its client.
    fn forget(&mut self) {
        self.watch = None;
        self.claimed = None;
        self.client = None;
    }

    /// Its clones are the same session.
    fn client(&self) -> Result<Client, RegistryError> {
        self.client.clone().ok_or(RegistryError::LeaseOver)
    }

    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.folder)
    }

    fn acls(&self) -> Acls<'static> {
        match self.credentials {
            Some(_) => Acls::creator_all(),
            None => Acls::anyone_all(),
        }
    }

    async fn ask<T>(
        &self,
        question: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, RegistryError> {
        self.within(1, question).await
    }

    async fn within<T>(
        &self,
        times: u32,
        question: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, RegistryError> {
        match timeout(self.timeout * times, question).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(self.failure(&error)),
            Err(_) => Err(self.unreachable(format!("no answer in {:?}", self.timeout))),
        }
    }

    fn unreachable(&self, what: impl Display) -> RegistryError {
        RegistryError::Unreachable(format!("{}: {what}", self.servers))
    }

    #[allow(clippy::wildcard_enum_match_arm, reason = "the client's enum, and it will grow")]
    fn failure(&self, error: &Error) -> RegistryError {
        let advice = match error {
            Error::NoHosts => return self.unreachable("none takes a session"),
            Error::Timeout
            | Error::ConnectionLoss
            | Error::ClientClosed
            | Error::SessionMoved
            | Error::Throttled
            | Error::NotReadOnly => return self.unreachable(error),
            Error::SessionExpired => return RegistryError::LeaseOver,
            Error::NoAuth | Error::AuthFailed => {
                ": the nodes below membership.prefix belong to other credentials; check membership.user and membership.password"
            }
            Error::Unimplemented => ": it takes ZooKeeper 3.6 or later",
            _ => "",
        };
        RegistryError::Refused(format!("{} refuses: {error}{advice}", self.servers))
    }
}

/// None: there is no such node, or no longer.
fn found<T>(answer: Result<T, Error>) -> Result<Option<T>, Error> {
    match answer {
        Err(Error::NoNode) => Ok(None),
        answer => answer.map(Some),
    }
}

fn is_over(state: SessionState) -> bool {
    match state {
        SessionState::AuthFailed | SessionState::Expired | SessionState::Closed => true,
        SessionState::Disconnected
        | SessionState::SyncConnected
        | SessionState::ConnectedReadOnly => false,
    }
}
