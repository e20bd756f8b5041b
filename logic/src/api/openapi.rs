//! The OpenAPI document, from the code.

use axum::Json;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};

use super::{accounts, conversations, locate, messages, users};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Roost",
        description = "Accounts, tokens, and everything a client can do over a connection also for servers. Errors are \
            problem documents (RFC 9457) with a stable `code` and a `hint`."
    ),
    paths(
        accounts::register,
        accounts::login,
        accounts::refresh,
        accounts::logout,
        accounts::me,
        accounts::set_me,
        accounts::jwks,
        locate::locate,
        users::add_users,
        conversations::inbox,
        conversations::history,
        conversations::watermarks,
        messages::send,
        messages::receipt,
        document
    ),
    modifiers(&Bearer)
)]
struct Document;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("An access token of a user, or an API key of a server"))
            .build();
        let components = openapi.components.get_or_insert_with(Default::default);
        components.add_security_scheme("bearer", SecurityScheme::Http(scheme));
    }
}

/// This document.
#[utoipa::path(get, path = "/v1/openapi.json", responses((status = 200, body = serde_json::Value)))]
pub(crate) async fn document() -> Json<utoipa::openapi::OpenApi> {
    Json(Document::openapi())
}
