//! Where the databases are, checked before anything is opened.

use std::time::Duration;

use roost_config::{ConfigError, documented, milliseconds};

use super::Dialect;
use super::driver::Target;
use crate::store::placement::DATABASES_MAX;

documented! {
    /// The database. Neither url nor urls: SQLite in data_dir, for one host.
    pub struct StoreConfig {
        /// "mysql://USER@HOST:3306/DATABASE" (MariaDB and MySQL) or "postgres://USER@HOST:5432/DATABASE": an existing empty database of
        /// its own, whose tables USER may create; reached directly, not through a pooler of transactions. TLS is used when the server offers
        /// it; to insist, and to check its certificate, append "?ssl-mode=VERIFY_IDENTITY&ssl-ca=FILE" (MariaDB, MySQL) or
        /// "?sslmode=verify-full&sslrootcert=FILE" (PostgreSQL). All logic processes of a cluster work on it, with the same bus.
        url ("url"): String = String::new();
        /// Several databases instead of url, each of that form and of the same kind; one server may have several. Users and conversations are
        /// divided among them by name. Their number and order are fixed once they are used: each database keeps its place, and another list
        /// is refused at the start.
        urls ("urls"): Vec<String> = Vec::new();
        /// Password of that user; better in the environment, as ROOST_LOGIC__STORE__PASSWORD.
        password ("password"): String = String::new();
        /// Connections for reads and accounts, to each database; one more writes, two more to each of several.
        connections_max ("connections_max"): u32 = 8;
        /// How long a connection may take, in milliseconds.
        #[serde(with = "milliseconds")]
        connect_timeout ("connect_timeout_ms"): Duration = Duration::from_secs(5);
        /// A statement or transaction without an answer for this long is given up and its connection closed, in milliseconds.
        #[serde(with = "milliseconds")]
        call_timeout ("call_timeout_ms"): Duration = Duration::from_secs(10);
    }
}

impl StoreConfig {
    /// Says of the first value that cannot be used what to write instead.
    ///
    /// # Errors
    /// When a value cannot be used.
    pub fn check(&self) -> std::result::Result<(), ConfigError> {
        let wrong = |key, problem: &str| Err(ConfigError { key, problem: problem.to_owned() });
        const FORM: &str = "expected \"mysql://USER@HOST:3306/DATABASE\" or \"postgres://USER@HOST:5432/DATABASE\"";
        if self.connections_max == 0 {
            return wrong("store.connections_max", "at least 1");
        }
        if self.connect_timeout.is_zero() || self.call_timeout.is_zero() {
            return wrong("store", "connect_timeout_ms and call_timeout_ms are at least 1");
        }
        if !self.url.is_empty() && !self.urls.is_empty() {
            return wrong(
                "store",
                "url and urls are both set: one database is url, several are urls",
            );
        }
        if self.urls.len() > DATABASES_MAX {
            return wrong("store.urls", &format!("lists more than {DATABASES_MAX} databases"));
        }
        let key = if self.url.is_empty() { "store.urls" } else { "store.url" };
        let mut places: Vec<(Dialect, String)> = Vec::new();
        for url in self.list() {
            // The text itself may hold a password: it is not repeated.
            let Ok(target) = Target::parse(url, &self.password) else { return wrong(key, FORM) };
            let (_, database, address) = target.describe();
            let Some(database) = database.filter(|database| !database.is_empty()) else {
                return wrong(key, &format!("names no database; {FORM}"));
            };
            let place = (target.dialect(), format!("{database} at {address}"));
            if places.contains(&place) {
                return wrong(key, &format!("lists the database {} twice", place.1));
            }
            if places.first().is_some_and(|first| first.0 != place.0) {
                return wrong(
                    key,
                    "databases of different kinds: expected all mysql or all postgres",
                );
            }
            places.push(place);
        }
        Ok(())
    }

    /// The databases in servers, in their order; none: SQLite.
    pub fn list(&self) -> impl ExactSizeIterator<Item = &str> {
        let only = std::slice::from_ref(&self.url);
        let list = if self.url.is_empty() { &self.urls[..] } else { only };
        list.iter().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(url: &str, expected: Option<&str>) {
        let config = StoreConfig { url: url.to_owned(), ..StoreConfig::default() };
        let problem = config.check().err().map(|error| error.to_string());
        match expected {
            None => assert_eq!(problem, None),
            Some(part) => {
                let problem = problem.expect("a mistake");
                assert!(problem.contains(part) && !problem.contains("secret"), "{problem}");
            }
        }
    }

    #[test]
    fn urls_are_judged_without_repeating_them() {
        check("", None);
        check("mysql://roost@db:3306/roost", None);
        check("mariadb://roost:secret@db/roost", None);
        check("postgres://roost:secret@db:5432/roost", None);
        check("mysql://roost:secret@db:3306", Some("names no database"));
        check("oracle://roost:secret@db/roost", Some("expected \"mysql://"));
        check("postgres://roost:secret@db:port/roost", Some("expected \"mysql://"));
    }
}
