//! CONNECT and CONNECTED: who the client is, and the limits of the session it gets.

use crate::generated::roost::wire;
use crate::id::{DeviceId, UserId, check_id};
use crate::limits::{CLIENT_NAME_BYTES_MAX, TOKEN_BYTES_MAX};
use crate::payload::{Encoder, PayloadError, at_most, number, required, root};

use super::FrameKind;

/// Class of a device, for the policy of how many may be online.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(u8)]
pub enum DeviceClass {
    /// A program without a screen; also the default.
    #[default]
    Other = 0,
    /// Telephone.
    Phone = 1,
    /// Tablet.
    Tablet = 2,
    /// Computer.
    Desktop = 3,
    /// Browser.
    Web = 4,
}

impl DeviceClass {
    /// The class of a wire code; unknown codes count as [`DeviceClass::Other`], so that classes can be added.
    pub fn from_code(code: u8) -> Self {
        match code {
            1 => Self::Phone,
            2 => Self::Tablet,
            3 => Self::Desktop,
            4 => Self::Web,
            _ => Self::Other,
        }
    }
}

/// What proves who the client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credential<'a> {
    /// A JWT from login, or minted by the integrator.
    Token(&'a str),
    /// The resume token of an earlier CONNECTED.
    Resume(&'a str),
}

/// First frame of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connect<'a> {
    /// [`crate::limits::PROTOCOL_VERSION`] of the client.
    pub protocol_version: u16,
    /// Access token or resume token.
    pub credential: Credential<'a>,
    /// The installation.
    pub device_id: DeviceId<'a>,
    /// Its class.
    pub device_class: DeviceClass,
    /// Name and version of the client program, for logs. May be empty.
    pub client_name: &'a str,
    /// Highest session epoch this device ever got, 0 for none.
    pub last_session_epoch: u64,
    /// The device's inbox cursor: it stored everything up to here.
    pub inbox_seq: u64,
}

impl<'a> Connect<'a> {
    /// Appends the frame to `out`.
    pub fn encode(&self, encoder: &mut Encoder, out: &mut Vec<u8>) {
        encoder.frame(out, FrameKind::Connect, 0, |b| {
            let (token, resume_token) = match self.credential {
                Credential::Token(t) => (Some(b.create_string(t)), None),
                Credential::Resume(t) => (None, Some(b.create_string(t))),
            };
            let args = wire::ConnectArgs {
                protocol_version: self.protocol_version,
                token,
                resume_token,
                device_id: Some(b.create_string(self.device_id.as_str())),
                device_class: self.device_class as u8,
                client_name: Some(b.create_string(self.client_name)),
                last_session_epoch: self.last_session_epoch,
                inbox_seq: self.inbox_seq,
            };
            wire::Connect::create(b, &args)
        });
    }

    /// Verifies and reads the payload.
    pub fn decode(payload: &'a [u8]) -> Result<Self, PayloadError> {
        let t = root::<wire::Connect<'_>>(payload)?;
        let credential = match (t.token().unwrap_or(""), t.resume_token().unwrap_or("")) {
            ("", "") => return Err(PayloadError::Missing("token")),
            (token, "") => Credential::Token(token),
            ("", resume) => Credential::Resume(resume),
            _ => return Err(PayloadError::Invalid("resume_token")),
        };
        let (Credential::Token(text) | Credential::Resume(text)) = credential;
        at_most("token", text, TOKEN_BYTES_MAX)?;
        let device_id = required("device_id", t.device_id())?;
        let client_name = t.client_name().unwrap_or("");
        at_most("client_name", client_name, CLIENT_NAME_BYTES_MAX)?;
        Ok(Self {
            protocol_version: t.protocol_version(),
            credential,
            device_id: DeviceId::new(device_id).map_err(|e| PayloadError::Id("device_id", e))?,
            device_class: DeviceClass::from_code(t.device_class()),
            client_name,
            last_session_epoch: number("last_session_epoch", t.last_session_epoch())?,
            inbox_seq: number("inbox_seq", t.inbox_seq())?,
        })
    }
}

/// The server's answer to CONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the limits carry their meaning in crate::limits")]
pub struct Connected<'a> {
    /// Epoch of this session: higher than that of every earlier session of this device.
    pub session_epoch: u64,
    /// The user the token names.
    pub user_id: UserId<'a>,
    /// Name of the gateway.
    pub gateway: &'a str,
    /// For the next CONNECT instead of the access token, while it is valid.
    pub resume_token: &'a str,
    /// The server's clock, ms since 1970.
    pub server_time_ms: u64,
    pub heartbeat_interval_ms: u32,
    pub idle_timeout_ms: u32,
    pub inflight_sends_max: u16,
    pub frame_bytes_max: u32,
    pub body_bytes_max: u32,
}

impl<'a> Connected<'a> {
    /// Appends the frame to `out`.
    pub fn encode(&self, encoder: &mut Encoder, out: &mut Vec<u8>) {
        encoder.frame(out, FrameKind::Connected, 0, |b| {
            let args = wire::ConnectedArgs {
                session_epoch: self.session_epoch,
                user_id: Some(b.create_string(self.user_id.as_str())),
                gateway: Some(b.create_string(self.gateway)),
                resume_token: Some(b.create_string(self.resume_token)),
                server_time_ms: self.server_time_ms,
                heartbeat_interval_ms: self.heartbeat_interval_ms,
                idle_timeout_ms: self.idle_timeout_ms,
                inflight_sends_max: self.inflight_sends_max,
                frame_bytes_max: self.frame_bytes_max,
                body_bytes_max: self.body_bytes_max,
            };
            wire::Connected::create(b, &args)
        });
    }

    /// Verifies and reads the payload.
    pub fn decode(payload: &'a [u8]) -> Result<Self, PayloadError> {
        let t = root::<wire::Connected<'_>>(payload)?;
        let user_id = required("user_id", t.user_id())?;
        let gateway = required("gateway", t.gateway())?;
        check_id(gateway).map_err(|e| PayloadError::Id("gateway", e))?;
        Ok(Self {
            session_epoch: t.session_epoch(),
            user_id: UserId::new(user_id).map_err(|e| PayloadError::Id("user_id", e))?,
            gateway,
            resume_token: t.resume_token().unwrap_or(""),
            server_time_ms: t.server_time_ms(),
            heartbeat_interval_ms: t.heartbeat_interval_ms(),
            idle_timeout_ms: t.idle_timeout_ms(),
            inflight_sends_max: t.inflight_sends_max(),
            frame_bytes_max: t.frame_bytes_max(),
            body_bytes_max: t.body_bytes_max(),
        })
    }
}
