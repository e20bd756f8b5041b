//! `GET /trace/{id}` of the operator's endpoint: what this process knows of a message.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

use crate::{Passage, Traces, Wanted};

/// The answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Who answers, such as "gateway gw-1".
    pub process: String,
    /// Whether its configuration has it trace this message; asked for by `message_id`: any message.
    pub is_traced: bool,
    /// Its clock, nanoseconds since 1970.
    pub now_ns: u64,
    /// Nothing that it saw since then is overwritten.
    pub remembers_since_ns: u64,
    /// What it saw of the message, oldest first.
    pub passages: Vec<Passage>,
}

/// The route, to be merged into an endpoint that is not for the public.
pub fn routes(traces: Arc<Traces>) -> Router {
    Router::new().route("/trace/{id}", get(trace)).with_state(traces)
}

async fn trace(State(traces): State<Arc<Traces>>, Path(id): Path<String>) -> Response {
    let Some(wanted) = Wanted::parse(&id) else {
        let problem = "expected a client_msg_id of 32 hexadecimal digits, or a message_id\n";
        return (StatusCode::BAD_REQUEST, problem).into_response();
    };
    let is_traced = match wanted {
        Wanted::Client(id) => traces.sampling.takes(id),
        Wanted::Message(_) => !traces.sampling.is_nothing(),
    };
    let passages = traces.find(wanted).await;
    Json(Answer {
        process: traces.process.clone(),
        is_traced,
        now_ns: crate::now_ns(),
        remembers_since_ns: traces.remembers_since_ns(),
        passages,
    })
    .into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use roost_protocol::ClientMsgId;
    use tower::ServiceExt as _;

    use super::*;
    use crate::{Hop, TraceConfig};

    async fn ask(traces: &Arc<Traces>, id: &str) -> (StatusCode, Vec<u8>) {
        let request = Request::get(format!("/trace/{id}")).body(Body::empty()).unwrap();
        let response = routes(Arc::clone(traces)).oneshot(request).await.unwrap();
        let status = response.status();
        (status, to_bytes(response.into_body(), 1 << 20).await.unwrap().to_vec())
    }

    #[tokio::test]
    async fn the_answer_is_what_the_rings_hold() {
        let traces = Traces::new("logic logic-1", &TraceConfig::default());
        let passage =
            Passage { message_id: 5, ..Passage::new(ClientMsgId([3; 16]), Hop::Committed, 1_000) };
        traces.writer().record(&passage);
        for id in ["5", "03030303030303030303030303030303"] {
            let (status, body) = ask(&traces, id).await;
            let answer: Answer = serde_json::from_slice(&body).unwrap();
            assert_eq!((status, answer.process.as_str()), (StatusCode::OK, "logic logic-1"));
            assert_eq!(answer.passages, [passage]);
            assert!(answer.is_traced && answer.now_ns >= answer.remembers_since_ns);
        }
        assert_eq!(ask(&traces, "nonsense").await.0, StatusCode::BAD_REQUEST);
    }
}
