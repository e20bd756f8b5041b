//! Passwords: argon2id on a bounded number of threads. Full: the caller is told to come back, nobody waits for ever.
//!
//! Verifying the password of a user that does not exist takes as long as of one that does: it is verified against a hash that
//! nothing matches.

use std::sync::{Arc, OnceLock};

use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use tokio::sync::Semaphore;

use crate::config::PasswordSettings;

/// Too many passwords wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many passwords wait")]
pub struct PasswordsBusy;

/// The pool.
#[derive(Debug, Clone)]
pub struct Passwords {
    argon2: Argon2<'static>,
    /// Hashing now.
    at_work: Arc<Semaphore>,
    /// Hashing or waiting.
    admitted: Arc<Semaphore>,
    nobody: Arc<OnceLock<String>>,
}

impl Passwords {
    /// A pool with these limits.
    ///
    /// # Panics
    /// With parameters that argon2 refuses; the configuration is checked before.
    pub fn new(settings: &PasswordSettings) -> Self {
        let params = Params::new(settings.memory_kib, settings.passes, 1, None)
            .expect("the configuration was checked");
        Self {
            argon2: Argon2::new(Algorithm::Argon2id, Version::V0x13, params),
            at_work: Arc::new(Semaphore::new(settings.threads)),
            admitted: Arc::new(Semaphore::new(settings.threads + settings.waiting_max)),
            nobody: Arc::default(),
        }
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Result<T, PasswordsBusy> {
        let _admitted = self.admitted.try_acquire().map_err(|_| PasswordsBusy)?;
        let _at_work = self.at_work.acquire().await.map_err(|_| PasswordsBusy)?;
        let pool = self.clone();
        tokio::task::spawn_blocking(move || work(&pool)).await.map_err(|_| PasswordsBusy)
    }

    /// The hash of a new password, in PHC form.
    ///
    /// # Errors
    /// When too many wait.
    pub async fn hash(&self, password: String) -> Result<String, PasswordsBusy> {
        self.run(move |pool| pool.hash_now(password.as_bytes())).await
    }

    /// Whether `password` is the one of `hash`; `None`: there is no such user, or it has no password.
    ///
    /// # Errors
    /// When too many wait.
    pub async fn verify(
        &self,
        password: String,
        hash: Option<String>,
    ) -> Result<bool, PasswordsBusy> {
        self.run(move |pool| {
            let nobody = || pool.nobody.get_or_init(|| pool.hash_now(b"nobody")).clone();
            let is_somebody = hash.is_some();
            let hash = hash.unwrap_or_else(nobody);
            let matches = pool.argon2.verify_password(password.as_bytes(), hash.as_str()).is_ok();
            matches && is_somebody
        })
        .await
    }

    /// Prepares the hash of nobody, so that the first unknown user takes no longer than others.
    pub async fn warm_up(&self) {
        let _ = self.verify(String::new(), None).await;
    }

    fn hash_now(&self, password: &[u8]) -> String {
        // Fails only without randomness; an unusable hash then matches nothing.
        self.argon2.hash_password(password).map_or_else(|_| String::new(), |hash| hash.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> PasswordSettings {
        PasswordSettings { threads: 1, waiting_max: 1, memory_kib: 64, passes: 1 }
    }

    #[tokio::test]
    async fn only_the_password_matches() {
        let pool = Passwords::new(&settings());
        let hash = pool.hash("correct horse".to_owned()).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=64,t=1,p=1$"), "{hash}");
        let verify =
            |password: &str, hash: Option<&String>| pool.verify(password.to_owned(), hash.cloned());
        assert_eq!(verify("correct horse", Some(&hash)).await, Ok(true));
        assert_eq!(verify("wrong horse", Some(&hash)).await, Ok(false));
        assert_eq!(verify("nobody", None).await, Ok(false));
        assert_eq!(verify("", Some(&String::new())).await, Ok(false));
    }

    #[tokio::test]
    async fn a_full_pool_says_so() {
        let pool = Passwords::new(&PasswordSettings { threads: 1, waiting_max: 0, ..settings() });
        let _held = pool.admitted.try_acquire().unwrap();
        assert_eq!(pool.hash("x".to_owned()).await, Err(PasswordsBusy));
    }
}
