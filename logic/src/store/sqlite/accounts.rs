//! Users.

use std::sync::Arc;

use super::bulk::Bulk;
use super::{Account, Name, Result, SqliteStore};

/// `(app, user, created_ms)`
static USERS: Bulk<(Name, Name, i64)> = Bulk::new(
    "users (app_id, user, created_ms)",
    3,
    "ON CONFLICT DO NOTHING",
    |query, (app, user, created_ms)| {
        query.bind(Arc::clone(app)).bind(Arc::clone(user)).bind(*created_ms)
    },
);

impl SqliteStore {
    pub(super) async fn add_users(&self, app: &str, users: &[Name], now_ms: u64) -> Result<u64> {
        let app = Name::from(app);
        let row = |user: &Name| (Arc::clone(&app), Arc::clone(user), now_ms.cast_signed());
        let rows: Vec<_> = users.iter().map(row).collect();
        let mut transaction =
            self.tables.writer.begin_with("BEGIN IMMEDIATE").await.map_err(|e| self.error(e))?;
        let added = USERS.run(&mut transaction, &rows).await.map_err(|e| self.error(e))?;
        transaction.commit().await.map_err(|e| self.error(e))?;
        self.count_rows(users.len());
        Ok(added)
    }

    pub(super) async fn register(&self, app: &str, account: &Account) -> Result<()> {
        sqlx::query(
            "INSERT INTO users (app_id, user, password_hash, display_name, created_ms) \
             VALUES (?, ?, ?, ?, ?)",
        )
        .bind(app)
        .bind(&account.user)
        .bind(&account.password_hash)
        .bind(&account.display_name)
        .bind(account.created_ms.cast_signed())
        .execute(&self.tables.writer)
        .await
        .map(|_| ())
        .map_err(|e| self.error(e))
    }

    pub(super) async fn account(&self, app: &str, user: &str) -> Result<Option<Account>> {
        let row: Option<(String, Option<String>, String, i64)> = sqlx::query_as(
            "SELECT user, password_hash, display_name, created_ms FROM users \
             WHERE app_id = ? AND user = ?",
        )
        .bind(app)
        .bind(user)
        .fetch_optional(&self.tables.readers)
        .await
        .map_err(|e| self.error(e))?;
        Ok(row.map(|(user, password_hash, display_name, created_ms)| Account {
            user,
            password_hash,
            display_name,
            created_ms: created_ms.cast_unsigned(),
        }))
    }

    pub(super) async fn set_display_name(
        &self,
        app: &str,
        user: &str,
        display_name: &str,
    ) -> Result<bool> {
        sqlx::query("UPDATE users SET display_name = ? WHERE app_id = ? AND user = ?")
            .bind(display_name)
            .bind(app)
            .bind(user)
            .execute(&self.tables.writer)
            .await
            .map(|done| done.rows_affected() == 1)
            .map_err(|e| self.error(e))
    }
}
