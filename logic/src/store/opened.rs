//! The adapter that the configuration names, opened.

use std::sync::Arc;

use super::server::ServerStore;
use super::sqlite::SqliteStore;
use super::{Result, SharedStore};
use crate::config::LogicConfig;

/// What opens and closes differently; everything else goes over [`super::Store`].
#[derive(Debug)]
pub(crate) enum Opened {
    /// In the data folder.
    Sqlite(Arc<SqliteStore>),
    /// In a database server.
    Server(Arc<ServerStore>),
}

impl Opened {
    /// Opens or connects, and brings the schema up to date.
    pub(crate) async fn open(config: &LogicConfig) -> Result<Self> {
        if config.store.url.is_empty() {
            let store = SqliteStore::open(&config.database_file()).await?;
            return Ok(Self::Sqlite(Arc::new(store)));
        }
        Ok(Self::Server(Arc::new(ServerStore::open(&config.store).await?)))
    }

    /// As workers and the HTTP server share it.
    pub(crate) fn shared(&self) -> SharedStore {
        match self {
            Self::Sqlite(store) => Arc::<SqliteStore>::clone(store),
            Self::Server(store) => Arc::<ServerStore>::clone(store),
        }
    }

    /// Returns when the runtime of the caller is not needed any more.
    pub(crate) async fn settle(&self) {
        match self {
            Self::Sqlite(store) => store.settle().await,
            Self::Server(_) => {}
        }
    }

    /// After the last call.
    pub(crate) async fn close(&self) {
        match self {
            Self::Sqlite(store) => store.close().await,
            Self::Server(store) => store.close().await,
        }
    }
}
