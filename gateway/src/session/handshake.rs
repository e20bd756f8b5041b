//! CONNECT: from a credential to a verified login.
//!
//! Pure but for the key map, which other threads may swap; called on the shard. What it does not do: count sessions and find a
//! place for the new one, which is the [directory](super::directory)'s, and encode CONNECTED, which is the connection's.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use roost_protocol::CloseReason;
use roost_protocol::frame::connect::{Connect, Credential};
use roost_protocol::id::check_id;
use roost_protocol::limits::PROTOCOL_VERSION;

use super::SessionIdentity;
use super::directory::{Authenticated, Directory};
use super::key_refresh::KeyRefresh;
use super::keys::VerificationKeys;
use super::resume_token::{Resume, ResumeKey};

/// Checks credentials and gives resume tokens.
pub struct Handshake {
    keys: ArcSwap<VerificationKeys>,
    resume: ResumeKey,
    refresh: Option<Arc<KeyRefresh>>,
}

impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshake").field("keys", &self.keys.load()).finish_non_exhaustive()
    }
}

impl Handshake {
    /// With the keys to begin with.
    pub fn new(keys: VerificationKeys, resume: ResumeKey) -> Self {
        Self { keys: ArcSwap::from_pointee(keys), resume, refresh: None }
    }

    /// Who is asked for a key that is not here.
    pub fn refreshed_by(mut self, refresh: Arc<KeyRefresh>) -> Self {
        self.refresh = Some(refresh);
        self
    }

    /// The present keys.
    pub fn keys(&self) -> VerificationKeys {
        VerificationKeys::clone(&self.keys.load())
    }

    /// Replaces all keys; sessions that exist stay.
    pub fn set_keys(&self, keys: VerificationKeys) {
        self.keys.store(Arc::new(keys));
    }

    /// Why a token was refused: a key that may have been made since is asked for, and the client told to come again.
    fn refusal(&self, keys: &VerificationKeys, token: &str) -> CloseReason {
        let made_s = keys.made_with_unknown_key(token);
        match (&self.refresh, made_s) {
            (Some(refresh), Some(made_s)) if !refresh.knows_all_until(made_s) => {
                refresh.ask();
                CloseReason::KeysUnavailable
            }
            _ => CloseReason::BadToken,
        }
    }

    /// Checks version and credential; `now_us` is microseconds since 1970.
    ///
    /// # Errors
    /// `UnsupportedVersion`, `TokenExpired`, `BadToken`, or `KeysUnavailable`.
    pub fn authenticate(
        &self,
        connect: &Connect<'_>,
        directory: &Directory,
        now_us: u64,
    ) -> Result<Authenticated, CloseReason> {
        if connect.protocol_version != PROTOCOL_VERSION {
            return Err(CloseReason::UnsupportedVersion);
        }
        let now_s = now_us / 1_000_000;
        let login = |app: &str, user: &str, last_epoch, expires_s| {
            Ok(Authenticated {
                app: directory.app_index(app).map_err(|_| CloseReason::GatewayFull)?,
                user: user.to_owned(),
                device: connect.device_id.as_str().to_owned(),
                device_class: connect.device_class,
                last_epoch,
                expires_s,
            })
        };
        match connect.credential {
            Credential::Token(token) => {
                let keys = self.keys.load();
                let verified = keys.verify(token, now_s, |claims| {
                    login(claims.app, claims.user, connect.last_session_epoch, claims.expires_s)
                });
                let is_bad = verified == Err(CloseReason::BadToken);
                if is_bad { Err(self.refusal(&keys, token)) } else { verified }
            }
            Credential::Resume(token) => self.resume.verify(token, now_s, |resume| {
                let ids = [resume.app, resume.user, resume.device];
                let is_device = resume.device == connect.device_id.as_str();
                if !is_device || ids.iter().any(|id| check_id(id).is_err()) {
                    return Err(CloseReason::BadToken);
                }
                let last_epoch = connect.last_session_epoch.max(resume.epoch);
                login(resume.app, resume.user, last_epoch, resume.session_expires_s)
            }),
        }
    }

    /// Appends the resume token for CONNECTED to `out`.
    pub fn issue_resume_token(
        &self,
        session: &SessionIdentity,
        directory: &Directory,
        now_us: u64,
        out: &mut String,
    ) {
        let resume = Resume {
            app: directory.app_name(session.app()),
            user: session.user(),
            device: session.device(),
            epoch: session.epoch(),
            session_expires_s: session.expires_s(),
        };
        self.resume.issue(&resume, now_us / 1_000_000, out);
    }
}

#[cfg(test)]
mod tests {
    use roost_protocol::DeviceId;
    use roost_protocol::envelope::ConnectionAddress;
    use roost_protocol::frame::connect::DeviceClass;

    use super::*;

    const NOW_US: u64 = 1_800_000_000_000_000;

    fn handshake() -> Handshake {
        Handshake::new(VerificationKeys::new(), ResumeKey::new(b"secret"))
    }

    fn connect<'a>(credential: Credential<'a>, device: &'a str) -> Connect<'a> {
        Connect {
            protocol_version: PROTOCOL_VERSION,
            credential,
            device_id: DeviceId::new(device).unwrap(),
            device_class: DeviceClass::Web,
            client_name: "",
            last_session_epoch: 0,
            inbox_seq: 0,
        }
    }

    fn session(directory: &Directory) -> SessionIdentity {
        let login = Authenticated {
            app: directory.app_index("demo").unwrap(),
            user: "alice".to_owned(),
            device: "d1".to_owned(),
            device_class: DeviceClass::Web,
            last_epoch: 0,
            expires_s: 1_800_000_900,
        };
        directory.register(&login, ConnectionAddress::default(), NOW_US).unwrap().session
    }

    #[test]
    fn a_resumed_login_is_the_first_one_again() {
        let (handshake, directory) = (handshake(), Directory::new("gw", 0));
        let session = session(&directory);
        let mut token = String::new();
        handshake.issue_resume_token(&session, &directory, NOW_US, &mut token);
        let login = |device, at_us| {
            let connect = connect(Credential::Resume(&token), device);
            handshake.authenticate(&connect, &directory, at_us)
        };
        let again = login("d1", NOW_US).unwrap();
        assert_eq!((again.user.as_str(), again.device.as_str()), ("alice", "d1"));
        assert_eq!((again.last_epoch, again.expires_s), (session.epoch(), 1_800_000_900));
        assert_eq!(login("d2", NOW_US), Err(CloseReason::BadToken), "another device");
        assert_eq!(login("d1", NOW_US + 900_000_000), Err(CloseReason::TokenExpired));
        // An access token is no resume token, nor the other way round.
        let swapped = connect(Credential::Token(&token), "d1");
        let refused = handshake.authenticate(&swapped, &directory, NOW_US);
        assert_eq!(refused, Err(CloseReason::BadToken));
    }

    #[test]
    fn an_unknown_key_may_be_a_new_one_until_logic_has_told_all() {
        use base64::Engine;
        use base64::engine::general_purpose::URL_SAFE_NO_PAD;

        use super::super::keys::CLOCK_SKEW_S;
        let made_s = NOW_US / 1_000_000;
        let claims =
            format!(r#"{{"app":"demo","sub":"alice","iat":{made_s},"exp":{}}}"#, made_s + 9);
        let token = |kid: &str| {
            let header = format!(r#"{{"alg":"HS256","kid":"{kid}"}}"#);
            format!("{}.{}.AAAA", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(&claims))
        };
        let refresh = Arc::new(KeyRefresh::default());
        let mut keys = VerificationKeys::new();
        keys.add_hs256("known", None, &[1; 32]).unwrap();
        let handshake = Handshake::new(keys.clone(), ResumeKey::new(b"secret"));
        let check = |handshake: &Handshake, token: &str, expected| {
            let connect = connect(Credential::Token(token), "d1");
            let refused = handshake.authenticate(&connect, &Directory::new("gw", 0), NOW_US);
            assert_eq!(refused, Err(expected), "{token}");
        };
        check(&handshake, &token("new"), CloseReason::BadToken);
        let handshake = handshake.refreshed_by(Arc::clone(&refresh));
        check(&handshake, &token("new"), CloseReason::KeysUnavailable);
        check(&handshake, "garbage", CloseReason::BadToken);
        check(&handshake, &token("known"), CloseReason::BadToken);
        // Logic has told all its keys, but this one may be newer, or a clock a little wrong.
        refresh.settle(made_s + u64::from(CLOCK_SKEW_S) - 1);
        check(&handshake, &token("new"), CloseReason::KeysUnavailable);
        refresh.settle(made_s + u64::from(CLOCK_SKEW_S));
        check(&handshake, &token("new"), CloseReason::BadToken);
    }

    #[test]
    fn other_versions_are_refused() {
        let mut connect = connect(Credential::Token("x"), "d1");
        connect.protocol_version = PROTOCOL_VERSION + 1;
        let refused = handshake().authenticate(&connect, &Directory::new("gw", 0), NOW_US);
        assert_eq!(refused, Err(CloseReason::UnsupportedVersion));
    }
}
