//! User → sessions of this gateway, for every thread: shards register, the control thread looks up.
//!
//! Invariants:
//! * A session is found from the moment `register` returns until `remove`: it is registered *before* CONNECTED is sent, so a
//!   message committed after the client's first sync finds the route ("route first, then sync").
//! * `remove` takes out exactly the session it is given: the late end of an older connection never removes a newer route.
//! * A lock is held for one table operation, never across a system call. 1024 tables keep both waiting and rehashing short.
//!
//! Memory: one pointer and one byte per slot of a table, about 15 bytes per session; all else is shared with the connection.

use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use hashbrown::{HashMap, HashTable};
use parking_lot::RwLock;
use rapidhash::fast::RandomState;
use roost_bus::planted::{Bug, planted};
use roost_membership::{BoxFuture, Routes, RoutesUnavailable};
use roost_protocol::CloseReason;
use roost_protocol::envelope::ConnectionAddress;
use roost_protocol::frame::connect::DeviceClass;

use super::changes::{SessionChange, SessionChanges};
use super::{AppIndex, SessionIdentity, SessionParts};

/// Tables of a directory.
pub(crate) const TABLES: u16 = 1024;
/// Shares of the hashes that are dealt to the tables.
const SHARES: usize = 1 << 13;
/// A client that claims a higher last epoch is refused: epochs are microseconds since 1970, and this is the year 148,000.
const EPOCH_CLAIM_MAX: u64 = 1 << 62;

/// A verified login, before it has a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authenticated {
    /// Tenant.
    pub app: AppIndex,
    /// The user the credential names.
    pub user: String,
    /// The device the client names; equal to that of the resume token.
    pub device: String,
    /// Its class.
    pub device_class: DeviceClass,
    /// The highest epoch the device had, as far as client and credential know; 0 for none.
    pub last_epoch: u64,
    /// When the credential expires, seconds since 1970.
    pub expires_s: u32,
}

/// A session that is in the directory.
#[derive(Debug)]
pub struct Registered {
    /// The new session.
    pub session: SessionIdentity,
    /// The same device's former session, no longer in the directory: close its connection with `superseded`.
    pub superseded: Option<SessionIdentity>,
}

/// All sessions of this gateway.
pub struct Directory {
    gateway: Arc<str>,
    sessions_per_user_max: usize,
    tables: Box<[RwLock<HashTable<SessionIdentity>>]>,
    /// Table of each share of the hashes.
    shares: Box<[u16; SHARES]>,
    hasher: RandomState,
    /// The highest epoch this gateway gave by its own clock; never raised by what a client claims.
    last_epoch: AtomicU64,
    apps: AppNames,
    changes: Option<Arc<SessionChanges>>,
}

impl std::fmt::Debug for Directory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Directory").field("gateway", &self.gateway).finish_non_exhaustive()
    }
}

impl Directory {
    /// An empty directory of `gateway`; at most `sessions_per_user_max` devices of a user (0: no limit).
    pub fn new(gateway: &str, sessions_per_user_max: u32) -> Self {
        let limit = usize::try_from(sessions_per_user_max).unwrap_or(usize::MAX);
        Self {
            gateway: Arc::from(gateway),
            sessions_per_user_max: if limit == 0 { usize::MAX } else { limit },
            tables: (0..TABLES).map(|_| RwLock::new(HashTable::new())).collect(),
            shares: deal_shares(),
            hasher: RandomState::new(),
            last_epoch: AtomicU64::new(0),
            apps: AppNames::default(),
            changes: None,
        }
    }

    /// The same, which tells what it does.
    #[must_use]
    pub fn telling(self, changes: Arc<SessionChanges>) -> Self {
        Self { changes: Some(changes), ..self }
    }

    /// The gateway's name.
    pub fn gateway(&self) -> &str {
        &self.gateway
    }

    /// The number of an app, given at its first use.
    ///
    /// # Errors
    /// When there are 65,536 apps already.
    pub fn app_index(&self, name: &str) -> Result<AppIndex, AppsExhausted> {
        self.apps.index(name)
    }

    /// The name of an app.
    pub fn app_name(&self, app: AppIndex) -> &str {
        self.apps.name(app)
    }

    /// Gives the login a session at `address`, `now_us` being microseconds since 1970.
    ///
    /// # Errors
    /// `TooManySessionsPerUser`, or `BadPayload` for an impossible last epoch.
    pub fn register(
        &self,
        login: &Authenticated,
        address: ConnectionAddress,
        now_us: u64,
    ) -> Result<Registered, CloseReason> {
        if login.last_epoch > EPOCH_CLAIM_MAX {
            return Err(CloseReason::BadPayload);
        }
        let hash = self.hash(login.app, &login.user);
        let own_epoch = self.next_epoch(now_us);
        let mut table = self.table(hash).write();
        let mut count = 0;
        let mut older = None;
        for session in table.iter_hash(hash) {
            if belongs(session, login.app, &login.user) {
                count += 1;
                if session.device() == login.device {
                    older = Some(session.clone());
                }
            }
        }
        if older.is_none() && count >= self.sessions_per_user_max {
            return Err(CloseReason::TooManySessionsPerUser);
        }
        let older_epoch = older.as_ref().map_or(0, SessionIdentity::epoch);
        let session = SessionIdentity::new(&SessionParts {
            app: login.app,
            user: &login.user,
            device: &login.device,
            device_class: login.device_class,
            epoch: own_epoch.max(login.last_epoch + 1).max(older_epoch + 1),
            address,
            expires_s: login.expires_s,
        });
        if let Some(older) = &older {
            take_out(&mut table, hash, older);
        }
        table.insert_unique(hash, session.clone(), |s| self.hash(s.app(), s.user()));
        drop(table);
        match &self.changes {
            Some(changes) if planted(Bug::FetchBeforeSubscribe) => {
                changes.push_late(SessionChange::Opened(session.clone()));
            }
            Some(_) | None => self.tell(|| SessionChange::Opened(session.clone())),
        }
        Ok(Registered { session, superseded: older })
    }

    /// Ends the route of this very session. False when it was superseded or removed before.
    pub fn remove(&self, session: &SessionIdentity) -> bool {
        let hash = self.hash(session.app(), session.user());
        let mut table = self.table(hash).write();
        let removed = take_out(&mut table, hash, session);
        // Shrinks after a mass disconnect, with slack so that a table does not swing between two sizes.
        if removed && table.capacity() > 64 && table.len() < table.capacity() / 8 {
            let target = table.len() * 2;
            table.shrink_to(target, |s| self.hash(s.app(), s.user()));
        }
        drop(table);
        if removed {
            self.tell(|| SessionChange::Closed(session.clone()));
        }
        removed
    }

    fn tell(&self, change: impl FnOnce() -> SessionChange) {
        if let Some(changes) = &self.changes {
            changes.push(change());
        }
    }

    /// Calls `visit` for each session of a user, and returns their number. `visit` must not use the directory.
    pub fn visit_user(
        &self,
        app: AppIndex,
        user: &str,
        mut visit: impl FnMut(&SessionIdentity),
    ) -> usize {
        let hash = self.hash(app, user);
        let table = self.table(hash).read();
        let mut count = 0;
        for session in table.iter_hash(hash) {
            if belongs(session, app, user) {
                count += 1;
                visit(session);
            }
        }
        count
    }

    /// The number of a known app; `None` when no session of it can exist.
    pub fn known_app(&self, name: &str) -> Option<AppIndex> {
        self.apps.known(name)
    }

    /// Calls `visit` for every session, table by table: not one moment's picture. `visit` must not use the directory.
    pub fn visit_all(&self, mut visit: impl FnMut(&SessionIdentity)) {
        for table in &self.tables {
            table.read().iter().for_each(&mut visit);
        }
    }

    /// Calls `visit` for every session of one of [`TABLES`] tables. `visit` must not use the directory.
    pub(crate) fn visit_table(&self, number: u16, visit: impl FnMut(&SessionIdentity)) {
        if let Some(table) = self.tables.get(usize::from(number)) {
            table.read().iter().for_each(visit);
        }
    }

    /// Sessions, as of about now.
    pub fn count(&self) -> usize {
        self.tables.iter().map(|t| t.read().len()).sum()
    }

    /// `max(now, last + 1)`: two logins of this gateway never share an epoch.
    fn next_epoch(&self, now_us: u64) -> u64 {
        let next = |last: u64| Some(now_us.max(last + 1));
        match self.last_epoch.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next) {
            Ok(last) | Err(last) => now_us.max(last + 1),
        }
    }

    fn table(&self, hash: u64) -> &RwLock<HashTable<SessionIdentity>> {
        // The table's own buckets use the low bits, its tags the highest seven: bits from between choose the table.
        let share = (hash >> 40) as usize % SHARES;
        &self.tables[usize::from(self.shares[share])]
    }

    fn hash(&self, app: AppIndex, user: &str) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        app.hash(&mut hasher);
        user.hash(&mut hasher);
        hasher.finish()
    }
}

/// Deals the hashes so that the last table gets twice as many as the first and the others lie evenly between. Tables double their
/// memory when they are full: of equal ones all would do so at the same number of sessions, and just after it half of all that
/// memory would be empty. Thus the load is the same, 61 % on average, at any number, and rehashing is spread over time.
fn deal_shares() -> Box<[u16; SHARES]> {
    let mut shares = Box::new([0; SHARES]);
    for (share, table) in shares.iter_mut().enumerate() {
        let position = (share as f64 + 0.5) / SHARES as f64;
        *table = ((1.0 + position).log2() * f64::from(TABLES)) as u16;
    }
    shares
}

fn belongs(session: &SessionIdentity, app: AppIndex, user: &str) -> bool {
    session.app() == app && session.user() == user
}

fn take_out(table: &mut HashTable<SessionIdentity>, hash: u64, session: &SessionIdentity) -> bool {
    let is_it = |candidate: &SessionIdentity| match planted(Bug::DeleteRouteOnClose) {
        true => {
            belongs(candidate, session.app(), session.user())
                && candidate.device() == session.device()
        }
        false => candidate.is_same(session),
    };
    match table.find_entry(hash, is_it) {
        Ok(entry) => {
            entry.remove();
            true
        }
        Err(_) => false,
    }
}

impl Routes for Directory {
    /// For a single gateway: this one, or offline.
    fn gateways_of<'a>(
        &'a self,
        app: &'a str,
        users: &'a [&'a str],
    ) -> BoxFuture<'a, Result<Vec<Vec<Arc<str>>>, RoutesUnavailable>> {
        let app = self.known_app(app);
        let is_here = |user: &str| app.is_some_and(|app| self.visit_user(app, user, |_| ()) > 0);
        let routes = users
            .iter()
            .map(|user| if is_here(user) { vec![Arc::clone(&self.gateway)] } else { Vec::new() })
            .collect();
        Box::pin(std::future::ready(Ok(routes)))
    }
}

/// No number is left for another app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more than 65,536 apps: run several gateways with fewer apps each")]
pub struct AppsExhausted;

/// Apps of one block; blocks are made when they are needed.
const BLOCK_APPS: usize = 256;

type AppBlock = Box<[OnceLock<Box<str>>]>;

/// App names by number; written at the first use of an app, read without a lock.
struct AppNames {
    blocks: Box<[OnceLock<AppBlock>]>,
    numbers: RwLock<HashMap<Box<str>, AppIndex>>,
}

impl Default for AppNames {
    fn default() -> Self {
        let blocks = (0..(1 << 16) / BLOCK_APPS).map(|_| OnceLock::new()).collect();
        Self { blocks, numbers: RwLock::default() }
    }
}

impl AppNames {
    fn known(&self, name: &str) -> Option<AppIndex> {
        self.numbers.read().get(name).copied()
    }

    fn index(&self, name: &str) -> Result<AppIndex, AppsExhausted> {
        if let Some(index) = self.known(name) {
            return Ok(index);
        }
        let mut numbers = self.numbers.write();
        if let Some(index) = numbers.get(name) {
            return Ok(*index);
        }
        let index = u16::try_from(numbers.len()).map_err(|_| AppsExhausted)?;
        let block = self.blocks[usize::from(index) / BLOCK_APPS]
            .get_or_init(|| (0..BLOCK_APPS).map(|_| OnceLock::new()).collect());
        block[usize::from(index) % BLOCK_APPS].get_or_init(|| Box::from(name));
        numbers.insert(Box::from(name), AppIndex(index));
        Ok(AppIndex(index))
    }

    fn name(&self, app: AppIndex) -> &str {
        let number = usize::from(app.0);
        let block = self.blocks.get(number / BLOCK_APPS).and_then(OnceLock::get);
        let name = block.and_then(|b| b.get(number % BLOCK_APPS)).and_then(OnceLock::get);
        name.map_or("", |n| n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(directory: &Directory, user: &str, device: &str, last_epoch: u64) -> Authenticated {
        Authenticated {
            app: directory.app_index("demo").unwrap(),
            user: user.to_owned(),
            device: device.to_owned(),
            device_class: DeviceClass::Phone,
            last_epoch,
            expires_s: 2_000_000_000,
        }
    }

    fn at(index: u32) -> ConnectionAddress {
        ConnectionAddress { shard: 1, index, generation: 0 }
    }

    fn users_sessions(directory: &Directory, user: &str) -> Vec<u32> {
        let mut keys = Vec::new();
        directory.visit_user(directory.known_app("demo").unwrap(), user, |s| {
            keys.push(s.key().index);
        });
        keys.sort_unstable();
        keys
    }

    #[test]
    fn a_newer_session_of_a_device_takes_over() {
        let directory = Directory::new("gw", 0);
        let first = directory.register(&login(&directory, "alice", "d1", 0), at(1), 1000).unwrap();
        let other = directory.register(&login(&directory, "alice", "d2", 0), at(2), 1000).unwrap();
        assert!(first.superseded.is_none() && other.superseded.is_none());
        assert_eq!(first.session.epoch(), 1000);
        assert_eq!(other.session.epoch(), 1001);
        let second = directory.register(&login(&directory, "alice", "d1", 0), at(3), 999).unwrap();
        assert!(second.superseded.unwrap().is_same(&first.session));
        assert!(second.session.epoch() > first.session.epoch());
        assert_eq!(users_sessions(&directory, "alice"), [2, 3]);
        assert!(!directory.remove(&first.session), "the newer route stays");
        assert!(directory.remove(&second.session));
        assert_eq!(users_sessions(&directory, "alice"), [2]);
        assert_eq!(directory.count(), 1);
    }

    #[test]
    fn epochs_pass_what_the_client_and_the_older_session_had() {
        let directory = Directory::new("gw", 0);
        let claim = 1 << 60;
        let far = directory.register(&login(&directory, "a", "d", claim), at(1), 5).unwrap();
        assert_eq!(far.session.epoch(), claim + 1);
        let again = directory.register(&login(&directory, "a", "d", claim), at(2), 6).unwrap();
        assert_eq!(again.session.epoch(), claim + 2, "the older session had claim + 1");
        let other = directory.register(&login(&directory, "b", "d", 0), at(3), 7).unwrap();
        assert_eq!(other.session.epoch(), 7, "one client's claim moves nobody else");
        let refused = directory.register(&login(&directory, "b", "d", u64::MAX), at(3), 7);
        assert_eq!(refused.unwrap_err(), CloseReason::BadPayload);
    }

    #[test]
    fn devices_of_a_user_are_limited() {
        let directory = Directory::new("gw", 2);
        let register = |device: &str| {
            directory.register(&login(&directory, "alice", device, 0), at(1), 1).map(|_| ())
        };
        assert_eq!(register("d1"), Ok(()));
        assert_eq!(register("d2"), Ok(()));
        assert_eq!(register("d3"), Err(CloseReason::TooManySessionsPerUser));
        assert_eq!(register("d2"), Ok(()), "the same device takes its own place");
    }

    #[test]
    fn apps_are_apart() {
        let directory = Directory::new("gw", 0);
        let mut other = login(&directory, "alice", "d1", 0);
        other.app = directory.app_index("second").unwrap();
        directory.register(&login(&directory, "alice", "d1", 0), at(1), 1).unwrap();
        let registered = directory.register(&other, at(2), 1).unwrap();
        assert!(registered.superseded.is_none());
        assert_eq!(users_sessions(&directory, "alice"), [1]);
        assert_eq!(directory.app_name(other.app), "second");
        assert_eq!(directory.app_name(AppIndex(999)), "");
    }

    #[test]
    fn many_sessions_come_and_go() {
        let directory = Directory::new("gw", 0);
        let sessions: Vec<_> = (0..50_000)
            .map(|i| {
                let login = login(&directory, &format!("u{i}"), "d", 0);
                directory.register(&login, at(i), 1).unwrap().session
            })
            .collect();
        assert_eq!(directory.count(), 50_000);
        assert_eq!(users_sessions(&directory, "u49999"), [49_999]);
        let mut visited = 0;
        directory.visit_all(|_| visited += 1);
        assert_eq!(visited, 50_000);
        assert!(sessions.iter().all(|s| directory.remove(s)));
        assert_eq!(directory.count(), 0);
        assert!(users_sessions(&directory, "u1").is_empty());
    }

    #[test]
    fn every_table_has_its_share() {
        let mut counts = vec![0; usize::from(TABLES)];
        deal_shares().iter().for_each(|table| counts[usize::from(*table)] += 1);
        assert!(counts.iter().all(|count| (5..=12).contains(count)), "{counts:?}");
    }

    #[test]
    fn routes_of_a_single_gateway() {
        let directory = Directory::new("gw", 0);
        directory.register(&login(&directory, "alice", "d1", 0), at(1), 1).unwrap();
        let answer =
            futures_util::FutureExt::now_or_never(directory.gateways_of("demo", &["bob", "alice"]));
        assert_eq!(answer, Some(Ok(vec![vec![], vec![Arc::from("gw")]])));
        let unknown =
            futures_util::FutureExt::now_or_never(directory.gateways_of("nobody", &["alice"]));
        assert_eq!(unknown, Some(Ok(vec![vec![]])));
    }
}
