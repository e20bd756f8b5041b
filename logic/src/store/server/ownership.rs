//! What one process has alone: partitions of the bus, and a worker id.
//!
//! A partition's row says its epoch. Whoever takes it over raises the epoch under an exclusive lock, which waits for transactions of the
//! former owner: they hold a shared lock until their end. A former owner that wakes up later finds an epoch that it did not set.
//!
//! A worker id is a lock of the session (MySQL `GET_LOCK`, PostgreSQL advisory lock). Message ids become visible by commits of that
//! session only, and each commit stores a mark above them: who leases the id next goes on above the mark, whatever its clock says.

use std::collections::BTreeMap;

use super::driver::{Row, Session, Statement, Value};
use super::statement::{Conflict, Table, padded};
use super::writer::{Failed, Writer};
use super::{Dialect, Result, Shared};
use Value::{Bytes, Number, Text};

static OWNERS: Table = Table::new("partition_owner (partition_id, epoch, owner)", Conflict::Keep);
static INSTALLATION: Table = Table::new("installation (name, value)", Conflict::Keep);

type Done<T> = std::result::Result<T, Failed>;

/// A list of partitions for `IN`.
fn list(partitions: &[u16]) -> (String, Vec<Value<'static>>) {
    let values: Vec<_> = padded(partitions).map(|partition| Number((*partition).into())).collect();
    (format!("({})", vec!["?"; values.len()].join(",")), values)
}

fn epochs(partitions: &[u16], lock: &str) -> Statement<'static> {
    let (list, values) = list(partitions);
    let text = format!(
        "SELECT partition_id, epoch FROM partition_owner WHERE partition_id IN {list} ORDER BY partition_id {lock}"
    );
    Statement::new(&text, &values)
}

fn epoch(row: &Row) -> sqlx::Result<(u16, u64)> {
    let partition = u16::try_from(row.number(0)?);
    Ok((partition.map_err(|e| sqlx::Error::Decode(Box::new(e)))?, row.number(1)?))
}

/// Which of `partitions` are not as `owned` says, by what [`Shared::fence`] found.
pub(super) fn moved(
    found: &[Row],
    owned: &BTreeMap<u16, u64>,
    partitions: &[u16],
) -> sqlx::Result<Vec<u16>> {
    let epochs: BTreeMap<_, _> = found.iter().map(epoch).collect::<sqlx::Result<_>>()?;
    let is_moved = |partition: &&u16| {
        let ours = owned.get(partition);
        ours.is_none() || epochs.get(partition) != ours
    };
    Ok(partitions.iter().filter(is_moved).copied().collect())
}

impl Shared {
    /// Makes this session the owner. `Fenced`: another process had some of them since a lost session of ours did.
    pub(super) async fn take_over(
        &self,
        session: &mut Session,
        writer: &mut Writer,
        partitions: &[u16],
    ) -> Done<()> {
        let mut made = Vec::new();
        OWNERS.write(
            self.dialect,
            partitions,
            |partition| [Number((*partition).into()), Number(0), Text("")],
            &mut made,
        );
        for statement in &made {
            self.timed(session.link().execute(statement)).await?;
        }
        self.timed(session.link().plain("BEGIN")).await?;
        let epochs = self.rows(session, &[epochs(partitions, "FOR UPDATE")], epoch).await?;
        let epochs: BTreeMap<_, _> = epochs.into_iter().collect();
        let is_moved = |partition: &&u16| {
            writer.former.get(partition).is_some_and(|ours| epochs.get(partition) != Some(ours))
        };
        let moved: Vec<u16> = partitions.iter().filter(is_moved).copied().collect();
        if !moved.is_empty() {
            return Err(Failed::Fenced(moved));
        }
        let (list, values) = list(partitions);
        let text = format!(
            "UPDATE partition_owner SET epoch = epoch + 1, owner = ? WHERE partition_id IN {list}"
        );
        let values: Vec<_> = [Text(&self.owner)].into_iter().chain(values).collect();
        self.timed(session.link().execute(&Statement::new(&text, &values))).await?;
        self.timed(session.link().plain("COMMIT")).await?;
        for (partition, epoch) in epochs {
            writer.former.remove(&partition);
            writer.owned.insert(partition, epoch + 1);
        }
        tracing::info!(?partitions, "took partitions over");
        Ok(())
    }

    /// Finds the owners' epochs for [`moved`], which stay so until the transaction ends.
    pub(super) fn fence(&self, partitions: &[u16]) -> Statement<'static> {
        epochs(
            partitions,
            match self.dialect {
                // As MariaDB spells it, too.
                Dialect::MySql => "LOCK IN SHARE MODE",
                Dialect::Postgres => "FOR SHARE",
            },
        )
    }

    /// The configured worker id, or the next one that no other session has.
    pub(super) async fn lease_worker_id(&self, session: &mut Session) -> sqlx::Result<Option<u16>> {
        let ask = match self.dialect {
            // The name of a lock is known to the whole server, and has at most 64 characters.
            Dialect::MySql => {
                "SELECT CAST(COALESCE(GET_LOCK(CONCAT('roost:', LEFT(SHA2(DATABASE(), 256), 40), ':', ?), 0), 0) AS SIGNED)"
            }
            // "roos".
            Dialect::Postgres => {
                "SELECT CASE WHEN pg_try_advisory_lock(1919905651, CAST(CAST(? AS bigint) AS int)) \
                 THEN 1::bigint ELSE 0::bigint END"
            }
        };
        let (first, last) = (*self.worker_ids.start(), *self.worker_ids.end());
        let configured = self.worker_id.clamp(first, last);
        for worker_id in (configured..=last).chain(first..configured) {
            let statement = Statement::new(ask, &[Number(worker_id.into())]);
            let rows = session.link().fetch(&statement).await?;
            if rows.first().map(|row| row.number(0)).transpose()? == Some(1) {
                return Ok(Some(worker_id));
            }
        }
        Ok(None)
    }

    /// As of [`super::Store::worker_mark`], after the id was leased.
    pub(super) async fn mark(&self, session: &mut Session, worker_id: u16) -> Done<u64> {
        let ask = "SELECT until_ms FROM worker_marks WHERE worker_id = ?";
        let statement = Statement::new(ask, &[Number(worker_id.into())]);
        let marks = self.rows(session, &[statement], |row| row.number(0)).await?;
        Ok(marks.first().copied().unwrap_or_default())
    }

    /// What is stored under this name.
    pub(super) async fn agreed(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let ask = "SELECT value FROM installation WHERE name = ?";
        let rows = self.fetch(Statement::new(ask, &[Text(name)])).await?;
        let found = self.read(&rows, |row| row.bytes(0))?;
        Ok(found.into_iter().next())
    }

    /// What was stored under this name first: `ours`, unless another process was earlier.
    pub(super) async fn agree(&self, name: &str, ours: &[u8]) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        let row = [(name, ours)];
        INSTALLATION.write(self.dialect, &row, |(n, v)| [Text(n), Bytes(v)], &mut out);
        self.transact(&out).await?;
        Ok(self.agreed(name).await?.unwrap_or_else(|| ours.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_have_few_lengths() {
        assert_eq!(list(&[4]).0, "(?)");
        let (text, values) = list(&[1, 2, 9]);
        assert_eq!(text, "(?,?,?,?)");
        assert!(matches!(values[..], [Number(1), Number(2), Number(9), Number(9)]));
    }
}
