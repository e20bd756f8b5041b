//! Keys: the Ed25519 key this installation signs with, made at the first start, and the keys of apps.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use super::dev;
use crate::config::{KeyAlgorithm, LogicConfig};

/// Why keys could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The data folder or the key file cannot be read or written.
    #[error(
        "{path}: {cause}: make the folder writable for this user, or choose another data folder"
    )]
    File {
        /// Which.
        path: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
    /// The key file holds something else.
    #[error(
        "{0} is not an Ed25519 private key in PEM form: restore it from a backup; without it, delete it and everybody logs in again"
    )]
    NotAKey(PathBuf),
    /// An integrator's key cannot be used.
    #[error("app {app:?}, key {id:?}: {problem}")]
    App {
        /// Whose.
        app: String,
        /// Which.
        id: String,
        /// What is wrong.
        problem: &'static str,
    },
}

/// What a verifier of tokens needs: plain key material.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerificationKey {
    /// `kid`.
    pub id: String,
    /// The only app it speaks for; `None`: the installation's own key, for the app that the token names.
    pub app: Option<String>,
    /// The key, which fixes the algorithm.
    pub material: KeyMaterial,
}

/// A key.
#[derive(Clone, PartialEq, Eq)]
pub enum KeyMaterial {
    /// Secret of HS256.
    Hs256(Vec<u8>),
    /// Public key of Ed25519.
    Ed25519([u8; 32]),
}

impl std::fmt::Debug for KeyMaterial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Hs256(_) => "Hs256",
            Self::Ed25519(_) => "Ed25519",
        })
    }
}

/// All keys of an installation.
pub struct Keys {
    signing: SigningKey,
    signing_id: String,
    /// The own one first.
    verification: Vec<VerificationKey>,
    /// SHA-256 of the API key to the app: looked up by hash, so that timing tells nothing.
    api_keys: HashMap<[u8; 32], String>,
    apps: Vec<String>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys")
            .field("signing_id", &self.signing_id)
            .field("apps", &self.apps)
            .finish_non_exhaustive()
    }
}

impl Keys {
    /// Reads or makes the signing key in the data folder, and takes in the apps' keys. `is_dev` adds the sample secrets.
    ///
    /// # Errors
    /// When the folder cannot be used, or a key is none.
    pub fn open(config: &LogicConfig, is_dev: bool) -> Result<Self, KeysError> {
        let signing = signing_key(&config.data_dir)?;
        let own = own_key(&signing);
        let mut keys = Self {
            signing_id: own.id.clone(),
            verification: vec![own],
            signing,
            api_keys: HashMap::new(),
            apps: config.apps.iter().map(|app| app.id.clone()).collect(),
        };
        keys.verification.extend(app_keys(config)?);
        for app in &config.apps {
            for api_key in &app.api_keys {
                keys.api_keys.insert(Sha256::digest(api_key).into(), app.id.clone());
            }
        }
        if is_dev {
            keys.add_samples();
        }
        Ok(keys)
    }

    /// Seed of the signing key.
    pub(crate) fn signing_seed(&self) -> [u8; 32] {
        self.signing.to_bytes()
    }

    /// Signs with the key of this seed from now on, as all processes of the installation do.
    pub(crate) fn sign_with(&mut self, seed: [u8; 32]) {
        self.signing = SigningKey::from_bytes(&seed);
        let own = own_key(&self.signing);
        self.signing_id.clone_from(&own.id);
        self.verification[0] = own;
    }

    fn add_samples(&mut self) {
        self.verification.push(VerificationKey {
            id: dev::KEY_ID.to_owned(),
            app: Some(dev::APP.to_owned()),
            material: KeyMaterial::Hs256(dev::SECRET.as_bytes().to_vec()),
        });
        self.api_keys.insert(Sha256::digest(dev::API_KEY).into(), dev::APP.to_owned());
        if !self.apps.iter().any(|app| app == dev::APP) {
            self.apps.insert(0, dev::APP.to_owned());
        }
    }

    /// Everything that tokens may be signed with.
    pub fn verification(&self) -> &[VerificationKey] {
        &self.verification
    }

    /// The apps there are.
    pub fn apps(&self) -> &[String] {
        &self.apps
    }

    /// The app a server's API key is for.
    pub fn app_of_api_key(&self, api_key: &str) -> Option<&str> {
        let hash: [u8; 32] = Sha256::digest(api_key).into();
        self.api_keys.get(&hash).map(String::as_str)
    }

    /// Id of the key that this installation signs with.
    pub(crate) fn signing_id(&self) -> &str {
        &self.signing_id
    }

    /// The signing key as jsonwebtoken takes it: PKCS #8.
    pub(crate) fn signing_der(&self) -> Vec<u8> {
        self.signing.to_pkcs8_der().map_or_else(|_| Vec::new(), |der| der.as_bytes().to_vec())
    }

    /// Secret of resume tokens for a gateway of the same installation: the same at every start.
    pub fn resume_secret(&self) -> String {
        hex(&self.derived_secret("roost resume tokens 1"))
    }

    /// A secret derived from the signing key, for one purpose.
    pub(crate) fn derived_secret(&self, purpose: &str) -> [u8; 32] {
        keyed_hash(self.signing.as_bytes(), purpose.as_bytes())
    }

    /// The public keys of this installation as a JSON Web Key Set (RFC 7517, RFC 8037).
    pub fn jwks(&self) -> serde_json::Value {
        let x = URL_SAFE_NO_PAD.encode(self.signing.verifying_key().to_bytes());
        serde_json::json!({"keys": [{
            "kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": self.signing_id, "x": x,
        }]})
    }
}

/// The keys of integrators: what a gateway in a process of its own verifies tokens with.
///
/// # Errors
/// When a key is none.
pub fn app_keys(config: &LogicConfig) -> Result<Vec<VerificationKey>, KeysError> {
    let mut keys: Vec<VerificationKey> = Vec::new();
    for app in &config.apps {
        for key in &app.keys {
            let wrong =
                |problem| KeysError::App { app: app.id.clone(), id: key.id.clone(), problem };
            let material = material(key.algorithm, &key.secret).map_err(wrong)?;
            if keys.iter().any(|other| other.id == key.id) {
                return Err(wrong("another key has this id"));
            }
            keys.push(VerificationKey { id: key.id.clone(), app: Some(app.id.clone()), material });
        }
    }
    Ok(keys)
}

/// HMAC-SHA256.
pub(crate) fn keyed_hash(key: &[u8; 32], message: &[u8]) -> [u8; 32] {
    // A key of the hash's own size fits HMAC's block unhashed, and can never be refused.
    let mut block = [0; 64];
    block[..32].copy_from_slice(key);
    let mut mac = Hmac::<Sha256>::new(&block.into());
    mac.update(message);
    mac.finalize().into_bytes().into()
}

fn material(algorithm: KeyAlgorithm, secret: &str) -> Result<KeyMaterial, &'static str> {
    match algorithm {
        KeyAlgorithm::Hs256 if secret.len() < 32 => Err("an HS256 secret has at least 32 bytes"),
        KeyAlgorithm::Hs256 => Ok(KeyMaterial::Hs256(secret.as_bytes().to_vec())),
        KeyAlgorithm::EdDsa => STANDARD
            .decode(secret)
            .or_else(|_| URL_SAFE_NO_PAD.decode(secret))
            .ok()
            .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())
            .map(KeyMaterial::Ed25519)
            .ok_or("an Ed25519 public key is 32 bytes in base64"),
    }
}

fn own_key(signing: &SigningKey) -> VerificationKey {
    let public = signing.verifying_key().to_bytes();
    let id = hex(&Sha256::digest(public)[..8]);
    VerificationKey { id, app: None, material: KeyMaterial::Ed25519(public) }
}

fn signing_key(data_dir: &Path) -> Result<SigningKey, KeysError> {
    let path = data_dir.join("signing-key.pem");
    let failed = |cause| KeysError::File { path: path.clone(), cause };
    match fs::read_to_string(&path) {
        Ok(pem) => SigningKey::from_pkcs8_pem(&pem).map_err(|_| KeysError::NotAKey(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(data_dir)
                .map_err(|cause| KeysError::File { path: data_dir.to_path_buf(), cause })?;
            let mut seed = [0; 32];
            getrandom::fill(&mut seed).map_err(|e| failed(io::Error::other(e.to_string())))?;
            let key = SigningKey::from_bytes(&seed);
            let pem = key
                .to_pkcs8_pem(LineEnding::LF)
                .map_err(|e| failed(io::Error::other(e.to_string())))?;
            write_new(&path, pem.as_bytes()).map_err(failed)?;
            Ok(key)
        }
        Err(cause) => Err(failed(cause)),
    }
}

/// Complete or absent after a crash, and readable by the owner alone from its first moment.
fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let half = path.with_extension("new");
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&half)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&half, path)?;
    fs::File::open(path.parent().unwrap_or_else(|| Path::new(".")))?.sync_all()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config::{AppConfig, KeyConfig};

    fn config(dir: &Path) -> LogicConfig {
        LogicConfig { data_dir: dir.to_path_buf(), ..LogicConfig::default() }
    }

    #[test]
    fn the_signing_key_is_made_once_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(&dir.path().join("data"));
        let first = Keys::open(&config, false).unwrap();
        let again = Keys::open(&config, false).unwrap();
        assert_eq!(first.verification(), again.verification());
        let mode = fs::metadata(config.data_dir.join("signing-key.pem")).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
        assert_eq!(first.jwks()["keys"][0]["kid"], first.signing_id());
    }

    #[test]
    fn sample_secrets_work_in_dev_only() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        assert_eq!(Keys::open(&config, false).unwrap().app_of_api_key(dev::API_KEY), None);
        let keys = Keys::open(&config, true).unwrap();
        assert_eq!(keys.app_of_api_key(dev::API_KEY), Some(dev::APP));
        assert_eq!(keys.verification()[1].id, dev::KEY_ID);
    }

    #[test]
    fn unusable_keys_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path());
        let key = KeyConfig {
            id: "k1".to_owned(),
            algorithm: KeyAlgorithm::EdDsa,
            secret: "not a key".to_owned(),
        };
        config.apps.push(AppConfig { id: "shop".to_owned(), keys: vec![key], api_keys: vec![] });
        let error = Keys::open(&config, false).unwrap_err().to_string();
        assert!(error.contains("\"shop\"") && error.contains("\"k1\""), "{error}");
        fs::write(config.data_dir.join("signing-key.pem"), "garbage").unwrap();
        let error = Keys::open(&config, false).unwrap_err().to_string();
        assert!(error.contains("signing-key.pem"), "{error}");
    }
}
