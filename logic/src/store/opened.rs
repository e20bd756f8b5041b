//! The adapter that the configuration names, opened.

use std::sync::Arc;

use roost_health::Breaker;
use roost_membership::RoutesConfig;

use super::databases::{Databases, installation};
use super::server::ServerStore;
use super::sqlite::SqliteStore;
use super::{Result, SharedStore, StoreError};
use crate::config::LogicConfig;
use crate::soft_state::redis::{CacheCounters, InboxCache};
use crate::soft_state::{CachedStore, Epoch};

/// What opens and closes differently; everything else goes over [`super::Store`].
#[derive(Debug)]
pub(crate) enum Opened {
    /// In the data folder.
    Sqlite(Arc<SqliteStore>),
    /// In a database server.
    Server(Arc<ServerStore>),
    /// In several.
    Databases(Arc<Databases>),
}

impl Opened {
    /// Opens or connects, and brings the schema up to date.
    pub(crate) async fn open(config: &LogicConfig, partitions: u16) -> Result<Self> {
        let (store, name, worker_id) = (&config.store, &config.name, config.worker_id);
        match store.list().len() {
            0 => {
                let store = SqliteStore::open(&config.database_file()).await?;
                Ok(Self::Sqlite(Arc::new(store)))
            }
            1 => {
                let server = ServerStore::open(store, name, worker_id).await?;
                let server = server.with_partitions(partitions);
                installation::enter(&[&server]).await?;
                Ok(Self::Server(Arc::new(server)))
            }
            _ => {
                let databases = Databases::open(store, name, worker_id).await?;
                Ok(Self::Databases(Arc::new(databases)))
            }
        }
    }

    /// What opening did to the schemas.
    pub(crate) fn migrated(&self) -> Vec<String> {
        match self {
            Self::Sqlite(_) => vec!["the database is up to date".to_owned()],
            Self::Server(store) => vec![store.migrated()],
            Self::Databases(store) => store.migrated(),
        }
    }

    /// The value under `name` that all processes share: `ours`, unless another was earlier. SQLite has no other.
    async fn agree(&self, name: &str, ours: &[u8]) -> Result<Vec<u8>> {
        match self {
            Self::Sqlite(_) => Ok(ours.to_vec()),
            Self::Server(store) => store.agree(name, ours).await,
            Self::Databases(store) => store.agree(name, ours).await,
        }
    }

    /// As workers and the HTTP server share it.
    pub(crate) fn shared(&self) -> SharedStore {
        match self {
            Self::Sqlite(store) => Arc::<SqliteStore>::clone(store),
            Self::Server(store) => Arc::<ServerStore>::clone(store),
            Self::Databases(store) => Arc::<Databases>::clone(store),
        }
    }

    /// The seed of the key that signs access tokens: that of a database server, which all processes share, else `ours`.
    pub(crate) async fn signing_seed(&self, ours: [u8; 32]) -> Result<[u8; 32]> {
        let seed = self.agree("signing_key", &ours).await?;
        <[u8; 32]>::try_from(seed).map_err(|_| {
            let what = "the row \"signing_key\" of the table installation does not have 32 bytes: restore it from a backup; without it, \
                        delete it and everybody logs in again";
            StoreError::Damaged(what.to_owned())
        })
    }

    /// Behind the cache that `server` and the configuration name; SQLite needs none.
    pub(crate) async fn cached(
        &self,
        config: &LogicConfig,
        server: Option<&RoutesConfig>,
        counters: &CacheCounters,
    ) -> Result<(SharedStore, Option<Arc<Breaker>>)> {
        let Some(server) = server.filter(|_| config.offline_cache.enabled) else {
            return Ok((self.shared(), None));
        };
        if let Self::Sqlite(_) = self {
            return Ok((self.shared(), None));
        }
        let mut ours = [0; 8];
        getrandom::fill(&mut ours).map_err(|error| StoreError::Refused(error.to_string()))?;
        let epoch = Epoch::from_agreed(&self.agree("offline_cache", &ours).await?);
        let cache = InboxCache::open(server, &config.offline_cache, epoch, counters.clone());
        let cache = cache.map_err(|error| StoreError::Refused(error.to_string()))?;
        let breaker = Arc::clone(cache.breaker());
        Ok((Arc::new(CachedStore::new(self.shared(), cache)), Some(breaker)))
    }

    /// Returns when the runtime of the caller is not needed any more.
    pub(crate) async fn settle(&self) {
        match self {
            Self::Sqlite(store) => store.settle().await,
            Self::Server(_) | Self::Databases(_) => {}
        }
    }

    /// After the last call.
    pub(crate) async fn close(&self) {
        match self {
            Self::Sqlite(store) => store.close().await,
            Self::Server(store) => store.close().await,
            Self::Databases(store) => store.close().await,
        }
    }
}
