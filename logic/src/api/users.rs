//! Users made by servers: no password, tokens come from the integrator.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Shared;
use super::caller::{Caller, user_id};
use super::extract::Body;
use super::problem::{Code, Problem, ProblemDocument};
use crate::store::Name;

/// Users in one request.
const USERS_MAX: usize = 1_000;

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UsersRequest {
    /// Up to 1000 user ids.
    users: Vec<String>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct UsersAdded {
    /// How many did not exist before.
    added: u64,
    /// How many exist now.
    total: usize,
}

/// Makes users; those that exist stay as they are.
#[utoipa::path(post, path = "/v1/users", request_body = UsersRequest, security(("bearer" = [])), responses(
    (status = 200, body = UsersAdded), (status = 400, body = ProblemDocument), (status = 403, body = ProblemDocument)))]
pub(crate) async fn add_users(
    State(api): Shared,
    caller: Caller,
    Body(request): Body<UsersRequest>,
) -> Result<Json<UsersAdded>, Problem> {
    let app = caller.server()?;
    if request.users.len() > USERS_MAX {
        return Err(Problem::new(Code::Invalid, "at most 1000 users at once"));
    }
    let users: Vec<Name> = request
        .users
        .iter()
        .map(|user| user_id(user).map(|id| id.as_str().into()))
        .collect::<Result<_, _>>()?;
    let added = api.store.add_users(app, &users, api.clock.now_ms()).await?;
    Ok(Json(UsersAdded { added, total: users.len() }))
}
