//! A commit is one row of the journal, whatever the batch holds: pages that are written one after the other and synced once.
//!
//! Writing a batch into its tables at once would touch a page of its own for every conversation and inbox in it, several for each
//! message. Batches therefore wait in the journal, and in memory as [`Pending`](super::pending::Pending). When thousands of rows have
//! come together, [`SqliteStore::tend`] writes them into the tables, a share at a time, beside the commits that go on: rows of one
//! conversation then share their pages. Shares are not synced; the last one of a layer is, and only then its batches leave the
//! journal. A crash at any point leaves in the journal whatever the tables may have lost, and writing it again changes nothing.

use std::sync::Arc;

use sqlx::{AssertSqlSafe, Executor};

use super::super::IdentityKey;
use super::database::Database;
use super::journal::Unseen;
use super::pending::{Place, Remains, Sealed};
use super::{Quarantined, Result, SqliteStore, StoreError, Writes, tables};

/// A layer of this weight is sealed: 15,000 to 25,000 messages. A start after a crash only reads them back.
const LAYER_WEIGHT: usize = 128_000;
/// Beyond this many layers nothing more is committed until the tables have caught up.
const LAYERS_WAITING_MAX: usize = 4;
/// What a share costs at least, in rows: that of its transaction is small beside it.
const SHARE_COST_MIN: usize = 512;
/// And at most, so that a registration need not wait long.
const SHARE_COST_MAX: usize = 16_384;

const APPLIED: &str = "INSERT INTO applied (one, batch) VALUES (1, ?) \
    ON CONFLICT DO UPDATE SET batch = excluded.batch";

/// The last batch of the journal that the tables have completely.
pub(super) async fn applied(tables: &Database) -> Result<i64> {
    let row: Option<(i64,)> = sqlx::query_as("SELECT batch FROM applied")
        .fetch_optional(&tables.writer)
        .await
        .map_err(|e| tables.error(e))?;
    Ok(row.map_or(0, |(batch,)| batch))
}

/// A sealed layer on its way into the tables.
#[derive(Debug)]
pub(super) struct Applying {
    sealed: Sealed,
    done: Place,
    /// Weight of the open layer when a share was last written.
    weight_then: usize,
}

/// What is being written into the tables, and what has been.
#[derive(Debug, Default)]
pub(super) struct Progress {
    applying: Option<Applying>,
    remains: Remains,
}

impl SqliteStore {
    pub(super) async fn commit(&self, writes: Writes) -> Result<()> {
        self.be_sure().await?;
        while self.pending.weight() > LAYERS_WAITING_MAX * LAYER_WEIGHT {
            self.apply(SHARE_COST_MAX).await?;
        }
        let mut turn = self.journal.turn().await?;
        let unseen = self.unseen(&writes)?;
        let Some((id, bytes)) = turn.insert(&writes, &unseen).await? else {
            return Err(StoreError::Duplicate("a message or a place of this batch".to_owned()));
        };
        self.pending.add(id, bytes, writes);
        Ok(())
    }

    /// Refuses identities and places that are pending; returns those that the tables must be asked for.
    fn unseen<'a>(&self, writes: &'a Writes) -> Result<Unseen<'a>> {
        let taken = |what: String| Err(StoreError::Duplicate(what));
        let mut unseen = Unseen::default();
        for message in &writes.messages {
            let identity = IdentityKey {
                app: Arc::clone(&message.app),
                conversation: Arc::clone(&message.conversation),
                sender: Arc::clone(&message.sender),
                client_msg_id: message.client_msg_id,
            };
            let seq = message.placed.seq;
            if self.pending.identity(&identity).is_some() {
                return taken(format!("a message of {}", message.sender));
            }
            unseen.identities.push(message);
            match self.pending.newest_message(&message.app, &message.conversation) {
                Some(newest) if seq <= newest => {
                    return taken(format!("{} {seq}", message.conversation));
                }
                Some(_) => {}
                None => unseen.places.push((&message.app, &message.conversation, seq)),
            }
        }
        for entry in &writes.inbox {
            match self.pending.newest_entry(&entry.app, &entry.owner) {
                Some(newest) if entry.inbox_seq <= newest => {
                    return taken(format!("inbox {} {}", entry.owner, entry.inbox_seq));
                }
                Some(_) => {}
                None => unseen.entries.push((&entry.app, &entry.owner, entry.inbox_seq)),
            }
        }
        // Rows of one conversation and of one inbox are neighbours, and dense: the first stands for all.
        unseen.places.dedup_by_key(|(app, conversation, _)| (*app, *conversation));
        unseen.entries.dedup_by_key(|(app, owner, _)| (*app, *owner));
        Ok(unseen)
    }

    /// At the start, and after a commit with an unknown outcome: what the journal has and the layers have not is taken in.
    pub(super) async fn be_sure(&self) -> Result<()> {
        if !self.journal.is_unsure() {
            return Ok(());
        }
        self.journal.unread(|(id, bytes, writes)| self.pending.add(id, bytes, writes)).await
    }

    /// Writes everything that is pending into the tables.
    pub(super) async fn apply_all(&self) -> Result<()> {
        while self.apply(SHARE_COST_MAX).await? {}
        Ok(())
    }

    /// What must be written into the tables now so that they keep up with the commits since the last share: in proportion to them. 0: not
    /// yet worth a transaction.
    pub(super) fn share_due(&self) -> usize {
        let weight = self.pending.weight();
        // Held for as long as it takes to sort the keys of a layer: whoever has it is at work on it.
        let Some(progress) = self.progress.try_lock() else { return 0 };
        let cost = match &progress.applying {
            Some(applying) => {
                let since = weight.saturating_sub(applying.weight_then);
                // A quarter more than was added: a layer is in the tables before the next one is full.
                (applying.sealed.cost() * since).div_ceil(LAYER_WEIGHT) * 5 / 4
            }
            None if weight >= LAYER_WEIGHT => SHARE_COST_MIN,
            None => 0,
        };
        if cost >= SHARE_COST_MIN { cost.min(SHARE_COST_MAX) } else { 0 }
    }

    /// Writes rows of up to this cost of the sealed layer, or of the open one, which is then sealed, into the tables; `false`: there are
    /// none.
    pub(super) async fn apply(&self, cost: usize) -> Result<bool> {
        self.be_sure().await?;
        let mut lent = self.tables.lend().await?;
        let (share, next, is_last, last_id) = {
            let mut progress = self.progress.lock();
            progress.remains.free(cost);
            if progress.applying.is_none() {
                progress.applying = self.pending.seal().map(|sealed| Applying {
                    sealed,
                    done: Place::default(),
                    weight_then: 0,
                });
            }
            let Some(Applying { sealed, done, .. }) = &progress.applying else { return Ok(false) };
            let (share, next) = sealed.share(*done, cost);
            (share, next, sealed.is_end(next), sealed.last_id())
        };
        lent.is_open = true;
        let written = async {
            let connection = &mut *lent.connection;
            let synchronous = if is_last { "FULL" } else { "NORMAL" };
            let begin = format!("PRAGMA synchronous = {synchronous}; BEGIN IMMEDIATE");
            connection.execute(AssertSqlSafe(begin)).await?;
            tables::write(connection, &share).await?;
            if is_last {
                sqlx::query(APPLIED).bind(last_id).execute(&mut *connection).await?;
            }
            connection.execute("COMMIT; PRAGMA synchronous = FULL").await
        };
        written.await.map_err(|e| self.error(e))?;
        lent.is_open = false;
        self.count_rows(share.rows());
        if let Some(applying) = &mut self.progress.lock().applying {
            applying.done = next;
            applying.weight_then = self.pending.weight();
        }
        if is_last {
            // Kept until its batches are gone: a failure is tried again with an empty share.
            self.journal.delete(last_id).await?;
            let mut progress = self.progress.lock();
            if let Some(applying) = progress.applying.take() {
                progress.remains = self.pending.drop_sealed(applying.sealed);
            }
        }
        Ok(true)
    }

    pub(super) async fn quarantine(&self, entry: &Quarantined) -> Result<()> {
        sqlx::query(
            "INSERT INTO quarantine (app_id, user, device, frame_kind, payload, reason, server_time_ms) \
             VALUES (?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(&entry.app)
        .bind(&entry.user)
        .bind(&entry.device)
        .bind(entry.frame_kind)
        .bind(&entry.payload)
        .bind(&entry.reason)
        .bind(entry.server_time_ms.cast_signed())
        .execute(&self.tables.writer)
        .await
        .map(|_| ())
        .map_err(|e| self.error(e))
    }
}
