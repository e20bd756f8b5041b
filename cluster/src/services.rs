//! The services of a cluster that there is a choice of: the database, and where gateways enter themselves.

use std::path::Path;

use roost_testing::{Etcd, MariaDb, PostgreSql, ZooKeeper};

use crate::cluster::Part;
use crate::plan::{Membership, Shape, StoreKind};
use crate::probe::Probe;

/// Where gateways enter themselves.
#[derive(Debug)]
pub(crate) enum Registry {
    Static,
    Etcd(Etcd),
    ZooKeeper(ZooKeeper),
}

#[derive(Debug)]
pub(crate) enum Store {
    MariaDb(MariaDb),
    PostgreSql(PostgreSql),
    /// Within the logic process.
    Sqlite,
}

impl Registry {
    pub(crate) fn start(membership: Membership) -> Self {
        match membership {
            Membership::Static => Self::Static,
            Membership::Etcd => Self::Etcd(Etcd::start()),
            Membership::Zookeeper => Self::ZooKeeper(ZooKeeper::start()),
        }
    }

    pub(crate) fn endpoint(&self) -> String {
        match self {
            Self::Static => String::new(),
            Self::Etcd(server) => server.url(),
            Self::ZooKeeper(server) => server.address(),
        }
    }

    pub(crate) fn kill(&mut self) {
        match self {
            Self::Static => {}
            Self::Etcd(server) => server.kill(),
            Self::ZooKeeper(server) => server.kill(),
        }
    }

    pub(crate) fn restart(&mut self) {
        match self {
            Self::Static => {}
            Self::Etcd(server) => server.restart(),
            Self::ZooKeeper(server) => server.restart(),
        }
    }

    pub(crate) fn pause(&self) {
        match self {
            Self::Static => {}
            Self::Etcd(server) => server.pause(),
            Self::ZooKeeper(server) => server.pause(),
        }
    }

    pub(crate) fn resume(&self) {
        match self {
            Self::Static => {}
            Self::Etcd(server) => server.resume(),
            Self::ZooKeeper(server) => server.resume(),
        }
    }

    pub(crate) fn part(&self) -> Option<Part> {
        let (name, port, process) = match self {
            Self::Static => return None,
            Self::Etcd(server) => ("etcd", server.port(), server.process()),
            Self::ZooKeeper(server) => ("ZooKeeper", server.port(), server.process()),
        };
        let probe = Some(Probe::Port { port });
        Some(Part { name: name.to_owned(), ports: vec![port], id: process.id(), probe })
    }
}

impl Store {
    /// With its data in `folder`, or anywhere, and its databases empty.
    pub(crate) fn start(shape: &Shape, folder: Option<&Path>) -> Self {
        let store = match shape.store {
            StoreKind::Mariadb => {
                Self::MariaDb(folder.map_or_else(MariaDb::start, MariaDb::start_in))
            }
            StoreKind::Postgres => {
                Self::PostgreSql(folder.map_or_else(PostgreSql::start, PostgreSql::start_in))
            }
            StoreKind::Sqlite => Self::Sqlite,
        };
        for name in shape.database_names() {
            store.sql(&format!("CREATE DATABASE {name}"));
        }
        store
    }

    /// Of each of its databases; none of a file.
    pub(crate) fn urls(&self, shape: &Shape) -> Vec<String> {
        let names = shape.database_names().into_iter();
        match self {
            Self::MariaDb(server) => names.map(|name| server.url(&name)).collect(),
            Self::PostgreSql(server) => names.map(|name| server.url(&name)).collect(),
            Self::Sqlite => Vec::new(),
        }
    }

    pub(crate) fn sql(&self, statements: &str) -> String {
        match self {
            Self::MariaDb(server) => server.sql(statements),
            Self::PostgreSql(server) => server.sql(statements),
            Self::Sqlite => String::new(),
        }
    }

    pub(crate) fn part(&self) -> Option<Part> {
        let (name, port, process, probe) = match self {
            Self::MariaDb(server) => {
                let port = server.port();
                ("MariaDB", port, server.process(), Probe::MariaDb { port })
            }
            Self::PostgreSql(server) => {
                let port = server.port();
                ("PostgreSQL", port, server.process(), Probe::PostgreSql { port })
            }
            Self::Sqlite => return None,
        };
        Some(Part {
            name: name.to_owned(),
            ports: vec![port],
            id: process.id(),
            probe: Some(probe),
        })
    }

    pub(crate) fn kill(&mut self) {
        match self {
            Self::MariaDb(server) => server.kill(),
            Self::PostgreSql(server) => server.kill(),
            Self::Sqlite => {}
        }
    }

    pub(crate) fn restart(&mut self) {
        match self {
            Self::MariaDb(server) => server.restart(),
            Self::PostgreSql(server) => server.restart(),
            Self::Sqlite => {}
        }
    }

    pub(crate) fn pause(&self) {
        match self {
            Self::MariaDb(server) => server.pause(),
            Self::PostgreSql(server) => server.pause(),
            Self::Sqlite => {}
        }
    }

    pub(crate) fn resume(&self) {
        match self {
            Self::MariaDb(server) => server.resume(),
            Self::PostgreSql(server) => server.resume(),
            Self::Sqlite => {}
        }
    }
}
