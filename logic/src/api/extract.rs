//! Bodies and query strings, with mistakes told as problems.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, FailedToBufferBody};
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::Api;
use super::problem::{Code, Problem};

/// A JSON body.
pub(crate) struct Body<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Arc<Api>> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &Arc<Api>) -> Result<Self, Problem> {
        let limit = api.config.http.body_timeout;
        let whole = tokio::time::timeout(limit, Bytes::from_request(request, api)).await;
        let whole = whole.map_err(|_| {
            let ms = limit.as_millis();
            Problem::new(Code::BodyTimeout, format!("the body was not here within {ms} ms"))
        })?;
        let bytes = whole.map_err(|rejection| {
            let too_large = matches!(
                rejection,
                BytesRejection::FailedToBufferBody(FailedToBufferBody::LengthLimitError(_))
            );
            let code = if too_large { Code::BodyTooLarge } else { Code::Invalid };
            Problem::new(code, rejection.body_text())
        })?;
        serde_json::from_slice(&bytes)
            .map(Self)
            .map_err(|error| Problem::new(Code::Invalid, format!("the body: {error}")))
    }
}

/// A query string.
pub(crate) struct Params<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        Query::try_from_uri(&parts.uri)
            .map(|Query(params)| Self(params))
            .map_err(|rejection| Problem::new(Code::Invalid, rejection.body_text()))
    }
}
