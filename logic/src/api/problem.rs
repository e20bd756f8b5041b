//! Errors of the HTTP API: RFC 9457 problem documents with a stable `code`, and a `hint` that says what to do next.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use roost_protocol::RefusalCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::store::StoreError;

macro_rules! codes {
    ($($name:ident = $text:literal, $status:ident, $hint:literal;)*) => {
        /// Stable names of what can go wrong.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Code { $($name,)* }

        impl Code {
            pub(crate) fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
            fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status,)* }
            }
            fn hint(self) -> &'static str {
                match self { $(Self::$name => $hint,)* }
            }
        }
    };
}

codes! {
    Invalid = "invalid", BAD_REQUEST, "correct the request; /v1/openapi.json describes it";
    Unauthorized = "unauthorized", UNAUTHORIZED,
        "send Authorization: Bearer with a valid access token, or an API key where a server calls";
    TokenExpired = "token_expired", UNAUTHORIZED, "get a new access token with POST /v1/refresh";
    WrongCredentials = "wrong_credentials", UNAUTHORIZED, "check user and password";
    RefreshInvalid = "refresh_invalid", UNAUTHORIZED, "log in again";
    RefreshReused = "refresh_reused", UNAUTHORIZED,
        "somebody else may hold this refresh token: log in again, and change the password if it was not you";
    ServerOnly = "server_only", FORBIDDEN, "this operation needs an API key";
    RegistrationClosed = "registration_closed", FORBIDDEN, "ask the operator for an account";
    NotFound = "not_found", NOT_FOUND, "/v1/openapi.json lists all routes";
    UnknownApp = "unknown_app", NOT_FOUND, "name an app of the configuration";
    UnknownUser = "unknown_user", NOT_FOUND, "create the user first with POST /v1/users or /v1/register";
    UnknownConversation = "unknown_conversation", NOT_FOUND,
        "a single chat is named s:<user>:<user> in byte order; for others than its two users it exists from its first message on";
    MethodNotAllowed = "method_not_allowed", METHOD_NOT_ALLOWED, "/v1/openapi.json lists all routes";
    Conflict = "conflict", CONFLICT, "choose another name";
    IdReuse = "id_reuse", CONFLICT, "make a new random client_msg_id for every message";
    BodyTimeout = "body_timeout", REQUEST_TIMEOUT, "send the whole body at once; nothing was done";
    BodyTooLarge = "body_too_large", PAYLOAD_TOO_LARGE, "send less at once";
    Quarantined = "quarantined", UNPROCESSABLE_ENTITY, "report this to the operator, who has a copy";
    RateLimited = "rate_limited", TOO_MANY_REQUESTS, "wait as Retry-After says";
    Busy = "busy", SERVICE_UNAVAILABLE, "try again as Retry-After says";
    Unavailable = "unavailable", SERVICE_UNAVAILABLE, "try again as Retry-After says; nothing was lost";
    Timeout = "timeout", GATEWAY_TIMEOUT,
        "send again with the same client_msg_id: the answer is the same, and nothing is stored twice";
    Internal = "internal", INTERNAL_SERVER_ERROR, "the server's log has the details";
}

impl From<RefusalCode> for Code {
    fn from(code: RefusalCode) -> Self {
        match code {
            RefusalCode::Busy | RefusalCode::OutOfOrder | RefusalCode::StaleSession => Self::Busy,
            RefusalCode::Unavailable => Self::Unavailable,
            RefusalCode::RateLimited => Self::RateLimited,
            RefusalCode::UnknownUser => Self::UnknownUser,
            RefusalCode::UnknownConversation => Self::UnknownConversation,
            RefusalCode::IdReuse => Self::IdReuse,
            RefusalCode::BodyTooLarge => Self::BodyTooLarge,
            RefusalCode::Invalid => Self::Invalid,
            RefusalCode::Quarantined => Self::Quarantined,
            RefusalCode::Unauthorized => Self::Unauthorized,
            RefusalCode::Conflict => Self::Conflict,
        }
    }
}

/// What was wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    code: Code,
    detail: String,
    retry_after_s: u64,
}

/// A problem document (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ProblemDocument {
    /// `urn:roost:problem:<code>`
    #[serde(rename = "type")]
    kind: String,
    /// The HTTP status once more.
    status: u16,
    /// Stable name of the problem.
    code: &'static str,
    /// What happened.
    title: String,
    /// What to do next.
    hint: &'static str,
}

impl Problem {
    pub(crate) fn new(code: Code, detail: impl Into<String>) -> Self {
        let passes_soon = matches!(code, Code::RateLimited | Code::Busy | Code::Unavailable);
        Self { code, detail: detail.into(), retry_after_s: u64::from(passes_soon) }
    }

    pub(crate) fn retry_after_s(mut self, seconds: u64) -> Self {
        self.retry_after_s = seconds.max(1);
        self
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "a request met the database's error");
        match error {
            // Paths and messages of the database are for the operator's log.
            StoreError::Unavailable(_) | StoreError::Again(_) | StoreError::Fenced(_) => {
                Self::new(Code::Unavailable, "the database is away")
            }
            StoreError::Duplicate(_) => Self::new(Code::Conflict, "exists already"),
            StoreError::Damaged(_) | StoreError::Refused(_) => {
                Self::new(Code::Internal, "the database failed")
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.code.status();
        let document = ProblemDocument {
            kind: format!("urn:roost:problem:{}", self.code.as_str()),
            status: status.as_u16(),
            code: self.code.as_str(),
            title: self.detail,
            hint: self.code.hint(),
        };
        let mut response = (status, Json(document)).into_response();
        let headers = response.headers_mut();
        let problem = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, problem);
        if self.retry_after_s > 0 {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(self.retry_after_s));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
