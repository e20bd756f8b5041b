//! Who asks: a user with an access token, or a server with an API key.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::header;
use axum::http::request::Parts;
use roost_protocol::id::{ConversationId, UserId};

use super::Api;
use super::problem::{Code, Problem};
use crate::auth::token::TokenError;
use crate::handler::request;

/// Authenticated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Caller {
    /// A server of the app: may act for every user of it.
    Server { app: String },
    /// A user: itself only.
    User { app: String, user: String },
}

impl FromRequestParts<Arc<Api>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        let value = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let credential = value.and_then(bearer).ok_or_else(|| {
            Problem::new(Code::Unauthorized, "the Authorization header has no bearer credential")
        })?;
        if let Some(app) = api.keys.app_of_api_key(credential) {
            return Ok(Self::Server { app: app.to_owned() });
        }
        let verified = api.tokens.verify(credential, api.now_s());
        let claims = verified.map_err(|error| match error {
            TokenError::Bad => Problem::new(Code::Unauthorized, error.to_string()),
            TokenError::Expired => Problem::new(Code::TokenExpired, error.to_string()),
        })?;
        Ok(Self::User { app: claims.app, user: claims.sub })
    }
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, credential) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(credential.trim())
}

impl Caller {
    pub(crate) fn app(&self) -> &str {
        match self {
            Self::Server { app } | Self::User { app, .. } => app,
        }
    }

    /// The app, for operations of servers.
    pub(crate) fn server(&self) -> Result<&str, Problem> {
        match self {
            Self::Server { app } => Ok(app),
            Self::User { .. } => {
                Err(Problem::new(Code::ServerOnly, "an access token of a user does not do this"))
            }
        }
    }

    /// The user, for operations on oneself.
    pub(crate) fn user(&self) -> Result<&str, Problem> {
        match self {
            Self::User { user, .. } => Ok(user),
            Self::Server { .. } => Err(Problem::new(
                Code::Invalid,
                "this is about the holder of an access token; a server has none",
            )),
        }
    }

    /// The user that the operation is done for: named by a server, oneself otherwise.
    pub(crate) fn acts_for(&self, named: Option<&str>) -> Result<String, Problem> {
        let user = match (self, named) {
            (Self::Server { .. }, Some(named)) => named,
            (Self::Server { .. }, None) => {
                return Err(Problem::new(Code::Invalid, "a server names the user it acts for"));
            }
            (Self::User { user, .. }, None) => user,
            (Self::User { user, .. }, Some(named)) if named == user => user,
            // Not said whether that user exists.
            (Self::User { .. }, Some(_)) => {
                return Err(Problem::new(Code::ServerOnly, "a user acts for itself only"));
            }
        };
        user_id(user)?;
        Ok(user.to_owned())
    }

    /// Whether the caller may read the conversation; if not, it looks as if it did not exist.
    pub(crate) fn may_read(&self, conversation: &ConversationId<'_>) -> bool {
        match self {
            Self::Server { .. } => true,
            Self::User { .. } => self.is_member(conversation),
        }
    }

    /// Whether the caller is a user of the conversation, which need not have a message yet.
    pub(crate) fn is_member(&self, conversation: &ConversationId<'_>) -> bool {
        match self {
            Self::Server { .. } => false,
            Self::User { user, .. } => {
                UserId::new(user).is_ok_and(|user| request::may_read(user, conversation))
            }
        }
    }
}

/// Checks a user id of a request.
pub(crate) fn user_id(text: &str) -> Result<UserId<'_>, Problem> {
    UserId::new(text).map_err(|error| Problem::new(Code::Invalid, format!("user: {error}")))
}

/// Checks a conversation id of a request.
pub(crate) fn conversation_id(text: &str) -> Result<ConversationId<'_>, Problem> {
    ConversationId::parse(text)
        .map_err(|error| Problem::new(Code::Invalid, format!("conversation: {error}")))
}
