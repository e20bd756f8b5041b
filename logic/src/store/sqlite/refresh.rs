//! Refresh tokens and their families.

use super::{RefreshFamily, RefreshToken, Result, Rotation, SqliteStore, StoreError};

const INSERT_TOKEN: &str = "INSERT INTO refresh_tokens (token_hash, family, expires_ms) VALUES (?, ?, ?) ON CONFLICT DO NOTHING";

impl SqliteStore {
    pub(super) async fn open_family(&self, family: &RefreshFamily) -> Result<()> {
        let mut transaction =
            self.tables.writer.begin_with("BEGIN IMMEDIATE").await.map_err(|e| self.error(e))?;
        sqlx::query(
            "INSERT INTO refresh_families (family, app_id, user, created_ms) VALUES (?, ?, ?, ?)",
        )
        .bind(&family.family[..])
        .bind(&family.app)
        .bind(&family.user)
        .bind(family.created_ms.cast_signed())
        .execute(&mut *transaction)
        .await
        .map_err(|e| self.error(e))?;
        sqlx::query(INSERT_TOKEN)
            .bind(&family.token_hash[..])
            .bind(&family.family[..])
            .bind(family.expires_ms.cast_signed())
            .execute(&mut *transaction)
            .await
            .map_err(|e| self.error(e))?;
        transaction.commit().await.map_err(|e| self.error(e))
    }

    pub(super) async fn refresh_token(&self, token_hash: [u8; 32]) -> Result<Option<RefreshToken>> {
        type Row = (Vec<u8>, String, String, i64, Option<i64>, Option<i64>);
        let row: Option<Row> = sqlx::query_as(
            "SELECT t.family, f.app_id, f.user, t.expires_ms, t.used_ms, f.revoked_ms \
             FROM refresh_tokens t JOIN refresh_families f ON f.family = t.family \
             WHERE t.token_hash = ?",
        )
        .bind(&token_hash[..])
        // From the writer: a rotation that was answered a moment ago must be seen.
        .fetch_optional(&self.tables.writer)
        .await
        .map_err(|e| self.error(e))?;
        row.map(|(family, app, user, expires_ms, used_ms, revoked_ms)| {
            Ok(RefreshToken {
                family: family
                    .try_into()
                    .map_err(|_| StoreError::Refused("a family has 16 bytes".to_owned()))?,
                app,
                user,
                expires_ms: expires_ms.cast_unsigned(),
                used_ms: used_ms.map(i64::cast_unsigned),
                revoked: revoked_ms.is_some(),
            })
        })
        .transpose()
    }

    pub(super) async fn rotate(&self, rotation: &Rotation) -> Result<()> {
        let mut transaction =
            self.tables.writer.begin_with("BEGIN IMMEDIATE").await.map_err(|e| self.error(e))?;
        sqlx::query(
            "UPDATE refresh_tokens SET used_ms = coalesce(used_ms, ?) WHERE token_hash = ?",
        )
        .bind(rotation.used_ms.cast_signed())
        .bind(&rotation.token_hash[..])
        .execute(&mut *transaction)
        .await
        .map_err(|e| self.error(e))?;
        sqlx::query(INSERT_TOKEN)
            .bind(&rotation.successor_hash[..])
            .bind(&rotation.family[..])
            .bind(rotation.successor_expires_ms.cast_signed())
            .execute(&mut *transaction)
            .await
            .map_err(|e| self.error(e))?;
        transaction.commit().await.map_err(|e| self.error(e))
    }

    pub(super) async fn revoke_family(&self, family: [u8; 16], now_ms: u64) -> Result<()> {
        sqlx::query(
            "UPDATE refresh_families SET revoked_ms = coalesce(revoked_ms, ?) WHERE family = ?",
        )
        .bind(now_ms.cast_signed())
        .bind(&family[..])
        .execute(&self.tables.writer)
        .await
        .map(|_| ())
        .map_err(|e| self.error(e))
    }
}
