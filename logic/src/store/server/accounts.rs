//! Users, refresh tokens and their families, from the pool.

use super::commit::number;
use super::driver::{Statement, Value};
use super::read::id_bytes;
use super::statement::{Conflict, Table};
use super::{Account, Dialect, Name, RefreshFamily, RefreshToken, Result, Rotation, Shared};
use Value::{Bytes, OptionalText, Text};

/// What exists stays as it is.
static USERS: Table = Table::new("users (app_id, user_id, created_ms)", Conflict::Keep);

impl Shared {
    pub(super) async fn add_users(&self, app: &str, users: &[Name], now_ms: u64) -> Result<u64> {
        // In one order, so that two calls at the same time do not wait for each other.
        let mut names: Vec<&str> = users.iter().map(|user| &**user).collect();
        names.sort_unstable();
        names.dedup();
        let mut out = Vec::new();
        USERS.write(self.dialect, &names, |user| [Text(app), Text(user), number(now_ms)], &mut out);
        if out.is_empty() { Ok(0) } else { self.transact(&out).await }
    }

    pub(super) async fn register(&self, app: &str, account: &Account) -> Result<()> {
        let text = "INSERT INTO users (app_id, user_id, password_hash, display_name, created_ms) VALUES (?, ?, ?, ?, ?)";
        let values = [
            Text(app),
            Text(&account.user),
            OptionalText(account.password_hash.as_deref()),
            Text(&account.display_name),
            number(account.created_ms),
        ];
        self.transact(&[Statement::new(text, &values)]).await.map(|_| ())
    }

    pub(super) async fn account(&self, app: &str, user: &str) -> Result<Option<Account>> {
        let ask = "SELECT user_id, password_hash, display_name, created_ms FROM users \
                   WHERE app_id = ? AND user_id = ?";
        let rows = self.fetch(Statement::new(ask, &[Text(app), Text(user)])).await?;
        let found = self.read(&rows, |row| {
            Ok(Account {
                user: row.text(0)?.to_owned(),
                password_hash: row.optional_text(1)?.map(str::to_owned),
                display_name: row.text(2)?.to_owned(),
                created_ms: row.number(3)?,
            })
        })?;
        Ok(found.into_iter().next())
    }

    pub(super) async fn set_display_name(
        &self,
        app: &str,
        user: &str,
        display_name: &str,
    ) -> Result<bool> {
        // Both drivers count rows that were found, changed or not.
        let text = "UPDATE users SET display_name = ? WHERE app_id = ? AND user_id = ?";
        let statement = Statement::new(text, &[Text(display_name), Text(app), Text(user)]);
        Ok(self.transact(&[statement]).await? == 1)
    }

    pub(super) async fn open_family(&self, family: &RefreshFamily) -> Result<()> {
        let text = "INSERT INTO refresh_families (family, app_id, user_id, created_ms) VALUES (?, ?, ?, ?)";
        let (app, user) = (Text(&family.app), Text(&family.user));
        let opened =
            Statement::new(text, &[Bytes(&family.family), app, user, number(family.created_ms)]);
        let token = self.insert_token(&family.token_hash, &family.family, family.expires_ms);
        self.transact(&[opened, token]).await.map(|_| ())
    }

    pub(super) async fn refresh_token(&self, token_hash: [u8; 32]) -> Result<Option<RefreshToken>> {
        let ask = "SELECT t.family, f.app_id, f.user_id, t.expires_ms, t.used_ms, f.revoked_ms \
                   FROM refresh_tokens t JOIN refresh_families f ON f.family = t.family WHERE t.token_hash = ?";
        let rows = self.fetch(Statement::new(ask, &[Bytes(&token_hash)])).await?;
        let found = self.read(&rows, |row| {
            Ok(RefreshToken {
                family: id_bytes(row, 0)?,
                app: row.text(1)?.to_owned(),
                user: row.text(2)?.to_owned(),
                expires_ms: row.number(3)?,
                used_ms: row.optional_number(4)?,
                revoked: row.optional_number(5)?.is_some(),
            })
        })?;
        Ok(found.into_iter().next())
    }

    pub(super) async fn rotate(&self, rotation: &Rotation) -> Result<()> {
        let text = "UPDATE refresh_tokens SET used_ms = COALESCE(used_ms, ?) WHERE token_hash = ?";
        let used = Statement::new(text, &[number(rotation.used_ms), Bytes(&rotation.token_hash)]);
        let successor = self.insert_token(
            &rotation.successor_hash,
            &rotation.family,
            rotation.successor_expires_ms,
        );
        self.transact(&[used, successor]).await.map(|_| ())
    }

    pub(super) async fn revoke_family(&self, family: [u8; 16], now_ms: u64) -> Result<()> {
        let text =
            "UPDATE refresh_families SET revoked_ms = COALESCE(revoked_ms, ?) WHERE family = ?";
        let statement = Statement::new(text, &[number(now_ms), Bytes(&family)]);
        self.transact(&[statement]).await.map(|_| ())
    }

    /// A token that exists stays as it is.
    fn insert_token<'a>(
        &self,
        token_hash: &'a [u8],
        family: &'a [u8],
        expires_ms: u64,
    ) -> Statement<'a> {
        let conflict = match self.dialect {
            Dialect::MySql => "ON DUPLICATE KEY UPDATE token_hash = token_hash",
            Dialect::Postgres => "ON CONFLICT DO NOTHING",
        };
        let text = format!(
            "INSERT INTO refresh_tokens (token_hash, family, expires_ms) VALUES (?, ?, ?) {conflict}"
        );
        let values = [Bytes(token_hash), Bytes(family), number(expires_ms)];
        Statement::new(&text, &values)
    }
}
