//! Accounts: register, login, refresh, logout, profile, and the keys tokens are checked with.

use std::net::SocketAddr;

use axum::Json;
use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::caller::{Caller, user_id};
use super::extract::Body;
use super::problem::{Code, Problem, ProblemDocument};
use super::{Api, Shared};
use crate::auth::password::PasswordsBusy;
use crate::auth::refresh::RefreshError;
use crate::store::{Account, StoreError};

const PASSWORD_BYTES_MIN: usize = 8;
const PASSWORD_BYTES_MAX: usize = 256;
const DISPLAY_NAME_BYTES_MAX: usize = 128;

/// A user and its password.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Credentials {
    /// App id; may be left out when there is one app only.
    app: Option<String>,
    /// 1-64 of A-Z a-z 0-9 . _ @ -
    user: String,
    /// 8 to 256 bytes.
    password: String,
    /// With register: the name people see.
    display_name: Option<String>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RefreshRequest {
    /// The newest one given.
    refresh_token: String,
}

/// A login.
#[derive(Serialize, ToSchema)]
pub(crate) struct TokenPair {
    /// App id.
    app: String,
    /// User id.
    user: String,
    /// For CONNECT, and as bearer credential here.
    access_token: String,
    /// Validity of the access token, in seconds.
    expires_in: u64,
    /// To be used once, for the next pair.
    refresh_token: String,
}

/// What others see of a user, and the user of itself.
#[derive(Serialize, ToSchema)]
pub(crate) struct Profile {
    app: String,
    user: String,
    display_name: String,
    created_ms: u64,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProfileChange {
    /// Up to 128 bytes.
    display_name: String,
}

impl Api {
    fn app<'a>(&'a self, named: Option<&'a str>) -> Result<&'a str, Problem> {
        match (named, self.keys.apps()) {
            (Some(named), apps) => apps.iter().find(|app| *app == named).map(String::as_str),
            (None, [only]) => Some(only.as_str()),
            (None, _) => {
                return Err(Problem::new(Code::Invalid, "there are several apps: name one"));
            }
        }
        .ok_or_else(|| Problem::new(Code::UnknownApp, "there is no such app"))
    }

    async fn pair(&self, app: &str, user: &str) -> Result<TokenPair, Problem> {
        let refresh_token = self.refresh_tokens.open(app, user, self.clock.now_ms()).await?;
        self.pair_with(app.to_owned(), user.to_owned(), refresh_token)
    }

    fn pair_with(
        &self,
        app: String,
        user: String,
        refresh_token: String,
    ) -> Result<TokenPair, Problem> {
        let expires_in = self.config.tokens.access_ttl.as_secs().max(1);
        let access_token = self
            .tokens
            .mint(&app, &user, self.now_s(), expires_in)
            .ok_or_else(|| Problem::new(Code::Internal, "no token could be signed"))?;
        Ok(TokenPair { app, user, access_token, expires_in, refresh_token })
    }
}

impl From<PasswordsBusy> for Problem {
    fn from(busy: PasswordsBusy) -> Self {
        Self::new(Code::Busy, busy.to_string())
    }
}

fn check_display_name(name: &str) -> Result<(), Problem> {
    if name.len() > DISPLAY_NAME_BYTES_MAX || name.chars().any(char::is_control) {
        let problem = "a display name has at most 128 bytes and no control characters";
        return Err(Problem::new(Code::Invalid, problem));
    }
    Ok(())
}

/// Makes an account and logs it in.
#[utoipa::path(post, path = "/v1/register", request_body = Credentials, responses(
    (status = 201, body = TokenPair), (status = 400, body = ProblemDocument),
    (status = 409, body = ProblemDocument), (status = 429, body = ProblemDocument)))]
pub(crate) async fn register(
    State(api): Shared,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Body(request): Body<Credentials>,
) -> Result<(StatusCode, Json<TokenPair>), Problem> {
    api.logins.check(peer.ip(), api.now_s())?;
    if !api.config.http.registration {
        return Err(Problem::new(Code::RegistrationClosed, "accounts are made by servers here"));
    }
    let app = api.app(request.app.as_deref())?;
    let user = user_id(&request.user)?.as_str();
    if !(PASSWORD_BYTES_MIN..=PASSWORD_BYTES_MAX).contains(&request.password.len()) {
        return Err(Problem::new(Code::Invalid, "a password has 8 to 256 bytes"));
    }
    let display_name = request.display_name.unwrap_or_default();
    check_display_name(&display_name)?;
    let password_hash = api.passwords.hash(request.password).await?;
    if password_hash.is_empty() {
        return Err(Problem::new(Code::Internal, "the password could not be hashed"));
    }
    let account = Account {
        user: user.to_owned(),
        password_hash: Some(password_hash),
        display_name,
        created_ms: api.clock.now_ms(),
    };
    api.store.register(app, &account).await.map_err(|error| match error {
        StoreError::Duplicate(_) => Problem::new(Code::Conflict, "this user exists already"),
        error @ (StoreError::Unavailable(_)
        | StoreError::Again(_)
        | StoreError::Fenced(_)
        | StoreError::Damaged(_)
        | StoreError::Refused(_)) => error.into(),
    })?;
    Ok((StatusCode::CREATED, Json(api.pair(app, user).await?)))
}

/// Logs in with a password.
#[utoipa::path(post, path = "/v1/login", request_body = Credentials, responses(
    (status = 200, body = TokenPair), (status = 401, body = ProblemDocument),
    (status = 429, body = ProblemDocument), (status = 503, body = ProblemDocument)))]
pub(crate) async fn login(
    State(api): Shared,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Body(request): Body<Credentials>,
) -> Result<Json<TokenPair>, Problem> {
    api.logins.check(peer.ip(), api.now_s())?;
    let app = api.app(request.app.as_deref())?;
    let account = match user_id(&request.user) {
        Ok(user) => api.store.account(app, user.as_str()).await?,
        Err(_) => None,
    };
    let hash = account.and_then(|account| account.password_hash);
    let password =
        if request.password.len() > PASSWORD_BYTES_MAX { String::new() } else { request.password };
    if api.passwords.verify(password, hash).await? {
        Ok(Json(api.pair(app, &request.user).await?))
    } else {
        Err(Problem::new(Code::WrongCredentials, "user or password is wrong"))
    }
}

/// Gives a new pair of tokens for a refresh token. A repeat within 60 s gives the same refresh token again.
#[utoipa::path(post, path = "/v1/refresh", request_body = RefreshRequest, responses(
    (status = 200, body = TokenPair), (status = 401, body = ProblemDocument)))]
pub(crate) async fn refresh(
    State(api): Shared,
    Body(request): Body<RefreshRequest>,
) -> Result<Json<TokenPair>, Problem> {
    let rotated = api.refresh_tokens.rotate(&request.refresh_token, api.clock.now_ms()).await;
    let refreshed = rotated.map_err(|error| match error {
        RefreshError::Invalid => Problem::new(Code::RefreshInvalid, error.to_string()),
        RefreshError::Reused => Problem::new(Code::RefreshReused, error.to_string()),
        RefreshError::Store(error) => error.into(),
    })?;
    api.pair_with(refreshed.app, refreshed.user, refreshed.refresh_token).map(Json)
}

/// Ends the login a refresh token belongs to. Access tokens end by themselves.
#[utoipa::path(post, path = "/v1/logout", request_body = RefreshRequest, responses((status = 204)))]
pub(crate) async fn logout(
    State(api): Shared,
    Body(request): Body<RefreshRequest>,
) -> Result<StatusCode, Problem> {
    api.refresh_tokens.revoke(&request.refresh_token, api.clock.now_ms()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The own profile.
#[utoipa::path(get, path = "/v1/me", security(("bearer" = [])), responses(
    (status = 200, body = Profile), (status = 404, body = ProblemDocument)))]
pub(crate) async fn me(State(api): Shared, caller: Caller) -> Result<Json<Profile>, Problem> {
    let user = caller.user()?;
    let account = api.store.account(caller.app(), user).await?;
    let account =
        account.ok_or_else(|| Problem::new(Code::UnknownUser, "this user does not exist"))?;
    Ok(Json(Profile {
        app: caller.app().to_owned(),
        user: account.user,
        display_name: account.display_name,
        created_ms: account.created_ms,
    }))
}

/// Changes the own profile.
#[utoipa::path(put, path = "/v1/me", request_body = ProfileChange, security(("bearer" = [])), responses(
    (status = 200, body = Profile), (status = 404, body = ProblemDocument)))]
pub(crate) async fn set_me(
    State(api): Shared,
    caller: Caller,
    Body(change): Body<ProfileChange>,
) -> Result<Json<Profile>, Problem> {
    check_display_name(&change.display_name)?;
    api.store.set_display_name(caller.app(), caller.user()?, &change.display_name).await?;
    me(State(api), caller).await
}

/// The public keys that access tokens are checked with (RFC 7517).
#[utoipa::path(get, path = "/.well-known/jwks.json", responses((status = 200, body = serde_json::Value)))]
pub(crate) async fn jwks(State(api): Shared) -> Json<serde_json::Value> {
    Json(api.keys.jwks())
}
