//! Where a user connects.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Shared;
use super::caller::Caller;
use super::extract::Params;
use super::problem::{Code, Problem, ProblemDocument};

#[derive(Deserialize, IntoParams)]
pub(crate) struct LocateParams {
    /// User id; servers name it, users leave it out.
    user: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct Location {
    /// Name of the gateway.
    gateway: String,
    /// `host:port` for TCP frames.
    address: String,
}

/// The gateway that owns a user.
#[utoipa::path(get, path = "/v1/locate", params(LocateParams), security(("bearer" = [])), responses(
    (status = 200, body = Location), (status = 503, body = ProblemDocument)))]
pub(crate) async fn locate(
    State(api): Shared,
    caller: Caller,
    Params(params): Params<LocateParams>,
) -> Result<Json<Location>, Problem> {
    let user = caller.acts_for(params.user.as_deref())?;
    let ring = api.ring.load();
    let member = ring
        .owner(caller.app(), &user)
        .ok_or_else(|| Problem::new(Code::Unavailable, "no gateway takes connections"))?;
    Ok(Json(Location { gateway: member.name.to_string(), address: member.address.to_string() }))
}
