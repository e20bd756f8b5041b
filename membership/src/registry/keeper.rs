//! Keeps the entry of this process and the ring of everybody: one round after each change, each order, and each quarter of a lease.
//!
//! A round renews the lease, reads the list, enters what is missing of us, and publishes the ring. Rounds do not depend on what a watch
//! tells: it only makes the next one come sooner.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::etcd::Etcd;
use crate::ring::{Member, Ring};
use crate::zookeeper::ZooKeeper;

use super::config::{MembershipConfig, RegistryKind};
use super::entry::Entry;
use super::ring_watch::RingWriter;
use super::status::RegistryStatus;
use super::{Backoff, Presence, RegistryError};

/// How often a name that is taken is looked at during the start.
const NAME_RETRY: Duration = Duration::from_millis(200);
/// Registries end leases a little late.
const LEASE_SLACK: Duration = Duration::from_secs(1);

/// Each registry in its own words.
#[derive(Debug)]
enum Adapter {
    Etcd(Etcd),
    ZooKeeper(ZooKeeper),
}

impl Adapter {
    fn new(config: &MembershipConfig) -> Result<Self, RegistryError> {
        match config.kind {
            RegistryKind::Etcd => Ok(Self::Etcd(Etcd::new(config)?)),
            RegistryKind::ZooKeeper => Ok(Self::ZooKeeper(ZooKeeper::new(config))),
            RegistryKind::Static => {
                Err(RegistryError::Refused("a static list needs no registry".to_owned()))
            }
        }
    }

    /// Makes sure of the session; with a claim of ours, of its lease.
    async fn renew(&mut self) -> Result<(), RegistryError> {
        match self {
            Self::Etcd(etcd) => etcd.renew().await,
            Self::ZooKeeper(zookeeper) => zookeeper.renew().await,
        }
    }

    /// All entries as of now; what changes afterwards is told by `changed`.
    async fn entries(&mut self) -> Result<Vec<Entry>, RegistryError> {
        match self {
            Self::Etcd(etcd) => etcd.entries().await,
            Self::ZooKeeper(zookeeper) => zookeeper.entries().await,
        }
    }

    /// Whether the present lease or session has made our entry.
    fn has_claim(&self) -> bool {
        match self {
            Self::Etcd(etcd) => etcd.has_claim(),
            Self::ZooKeeper(zookeeper) => zookeeper.has_claim(),
        }
    }

    /// Makes the entry, or replaces one of this process.
    async fn claim(&mut self, entry: &Entry) -> Result<(), RegistryError> {
        match self {
            Self::Etcd(etcd) => etcd.claim(entry).await,
            Self::ZooKeeper(zookeeper) => zookeeper.claim(entry).await,
        }
    }

    /// Returns when something may have changed. May be dropped at any time.
    async fn changed(&mut self) -> Result<(), RegistryError> {
        match self {
            Self::Etcd(etcd) => etcd.changed().await,
            Self::ZooKeeper(zookeeper) => zookeeper.changed().await,
        }
    }

    /// Takes our entry out.
    async fn leave(&mut self) -> Result<(), RegistryError> {
        match self {
            Self::Etcd(etcd) => etcd.leave().await,
            Self::ZooKeeper(zookeeper) => zookeeper.leave().await,
        }
    }

    /// For how long the registry believes us after a sign of life.
    fn lease(&self) -> Duration {
        match self {
            Self::Etcd(etcd) => etcd.lease(),
            Self::ZooKeeper(zookeeper) => zookeeper.lease(),
        }
    }
}

/// See the module text.
#[derive(Debug)]
pub(super) struct Keeper {
    adapter: Adapter,
    own: Option<Entry>,
    weight: u16,
    ring: RingWriter,
    status: Arc<RegistryStatus>,
    wanted: watch::Receiver<Presence>,
    /// Until then our lease is proven.
    proven: watch::Sender<Option<Instant>>,
    /// The registry was away: members that are missing stay until then.
    grace_until: Option<Instant>,
    is_away: bool,
}

impl Keeper {
    pub(super) fn new(
        config: &MembershipConfig,
        own: Option<Member>,
        ring: RingWriter,
        status: Arc<RegistryStatus>,
        wanted: watch::Receiver<Presence>,
    ) -> Result<Self, RegistryError> {
        let weight = own.as_ref().map_or(0, |member| member.weight);
        let entry = |member: Member| Entry {
            name: member.name.to_string(),
            address: member.address.to_string(),
            weight: 0,
            incarnation: format!("{:016x}", fastrand::u64(..)),
        };
        Ok(Self {
            adapter: Adapter::new(config)?,
            own: own.map(entry),
            weight,
            ring,
            status,
            wanted,
            proven: watch::channel(None).0,
            grace_until: None,
            is_away: false,
        })
    }

    /// The first round. Waits for a name that is taken.
    pub(super) async fn start(&mut self) -> Result<(), RegistryError> {
        let Err(error) = self.round().await else { return Ok(()) };
        let RegistryError::NameTaken { .. } = error else { return Err(error) };
        let wait = self.adapter.lease() + LEASE_SLACK;
        tracing::warn!(%error, ?wait, "waiting for the end of that one's lease, in case a crash left it");
        let until = Instant::now() + wait;
        while Instant::now() < until {
            sleep(NAME_RETRY).await;
            match self.round().await {
                Err(RegistryError::NameTaken { .. }) => {}
                result => return result,
            }
        }
        _ = self.adapter.leave().await;
        Err(error)
    }

    /// Until this process has left.
    pub(super) async fn run(mut self) {
        tokio::spawn(fence(self.ring.clone(), self.proven.subscribe()));
        while !self.has_left() {
            let mut backoff = Backoff::new(self.adapter.lease());
            if self.wait().await.is_err() {
                self.pause(backoff.pause()).await;
            }
            while !self.has_left()
                && let Err(error) = self.round().await
            {
                self.note_away(error);
                self.pause(backoff.pause()).await;
            }
        }
        if let Err(error) = self.adapter.leave().await {
            tracing::warn!(%error, "the entry of this gateway stays until its lease is over");
        }
    }

    /// For a reason to look again. An error: the watch ended; whether more is wrong shows the round that follows.
    async fn wait(&mut self) -> Result<(), RegistryError> {
        let rest = self.adapter.lease() / 4;
        tokio::select! {
            _ = self.wanted.changed() => Ok(()),
            changed = self.adapter.changed() => changed,
            () = sleep(rest) => Ok(()),
        }
    }

    /// Between two attempts. An order cuts it short.
    async fn pause(&mut self, pause: Duration) {
        tokio::select! {
            _ = self.wanted.changed() => {}
            () = sleep(pause) => {}
        }
    }

    fn has_left(&self) -> bool {
        // An error: the registry was dropped.
        *self.wanted.borrow() == Presence::Gone || self.wanted.has_changed().is_err()
    }

    async fn round(&mut self) -> Result<(), RegistryError> {
        let began = Instant::now();
        self.adapter.renew().await?;
        let mut entries = self.adapter.entries().await?;
        let weight = match *self.wanted.borrow_and_update() {
            Presence::Open => self.weight,
            Presence::Closed | Presence::Gone => 0,
        };
        if let Some(own) = &mut self.own {
            own.weight = weight;
            if !self.adapter.has_claim() || !entries.contains(own) {
                self.adapter.claim(own).await?;
                entries = self.adapter.entries().await?;
            }
            self.proven.send_replace(Some(began + self.adapter.lease()));
        }
        self.note_here();
        self.publish(&entries);
        Ok(())
    }

    fn publish(&mut self, entries: &[Entry]) {
        let mut members: Vec<_> = entries.iter().map(Entry::member).collect();
        let now = Instant::now();
        self.grace_until = self.grace_until.filter(|until| now < *until);
        if self.grace_until.is_some() {
            let last = self.ring.load();
            let is_missing =
                |member: &&Member| entries.iter().all(|entry| *entry.name != *member.name);
            members.extend(last.members().iter().filter(is_missing).cloned());
        }
        match Ring::new(members) {
            Ok(ring) if ring != **self.ring.load() => {
                tracing::info!(members = ring.members().len(), "the ring changed");
                self.status.ring_changes.fetch_add(1, Relaxed);
                self.ring.store(ring);
            }
            Ok(_) => {}
            Err(error) => {
                tracing::error!(%error, "the list of members cannot be used; the last one stays")
            }
        }
    }

    fn note_here(&mut self) {
        self.status.is_connected.store(true, Relaxed);
        *self.status.trouble.lock() = None;
        if self.is_away {
            self.is_away = false;
            self.grace_until = Some(Instant::now() + self.adapter.lease());
            self.status.reconnects.fetch_add(1, Relaxed);
            tracing::info!("the registry of members is back");
        }
    }

    fn note_away(&mut self, error: RegistryError) {
        if error == RegistryError::LeaseOver {
            tracing::warn!("the lease of this gateway was over; it enters itself again");
            return;
        }
        self.status.is_connected.store(false, Relaxed);
        if !self.is_away {
            self.is_away = true;
            tracing::warn!(%error, "the registry of members cannot be used; the last ring stays");
        }
        *self.status.trouble.lock() = Some(error);
    }
}

/// Follows until when the own lease is proven.
async fn fence(ring: RingWriter, mut proven: watch::Receiver<Option<Instant>>) {
    loop {
        let until = *proven.borrow_and_update();
        ring.set_fenced(until.is_some_and(|until| until <= Instant::now()));
        let over = async {
            match until.filter(|until| *until > Instant::now()) {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = over => {}
            renewed = proven.changed() => if renewed.is_err() { return },
        }
    }
}
