//! Messages and receipts brought over HTTP.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use roost_protocol::frame::ack::{SendAck, SendRefused};
use roost_protocol::frame::receipt::{Receipt, ReceiptKind};
use roost_protocol::frame::send::{MessageKind, Send, Target};
use roost_protocol::limits::HEADER_BYTES;
use roost_protocol::{ClientMsgId, Encoder, FrameKind};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Shared;
use super::caller::{Caller, conversation_id, user_id};
use super::extract::Body;
use super::problem::{Code, Problem, ProblemDocument};
use super::sender::{Operation, Unanswered};

/// A message to send.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SendRequest {
    /// Who sends; servers name it, users leave it out.
    sender: Option<String>,
    /// The receiver of a single chat; exactly one of this and `conversation`.
    to_user: Option<String>,
    /// A conversation by its id.
    conversation: Option<String>,
    /// 32 hexadecimal digits, random, made once per message and the same in every repeat.
    client_msg_id: String,
    /// 1 (text) when left out; up to 127.
    kind: Option<u8>,
    /// The body as text; exactly one of this and `body_base64`.
    text: Option<String>,
    /// The body in base64.
    body_base64: Option<String>,
}

/// The message is committed. Every repeat gets the same answer.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Sent {
    conversation: String,
    seq: u64,
    /// Reference, as decimal digits.
    message_id: String,
    client_msg_id: String,
    server_time_ms: u64,
}

/// What somebody read.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReceiptRequest {
    /// Who read; servers name it, users leave it out.
    user: Option<String>,
    /// Everything up to here.
    seq: u64,
}

impl From<Unanswered> for Problem {
    fn from(unanswered: Unanswered) -> Self {
        match unanswered {
            Unanswered::Busy => Self::new(Code::Busy, "too many requests wait"),
            Unanswered::Interrupted => Self::new(
                Code::Unavailable,
                "requests before this one had no answer; nothing was sent",
            ),
            Unanswered::Unknown => Self::new(Code::Timeout, "no answer in time"),
        }
    }
}

fn invalid(problem: &str) -> Problem {
    Problem::new(Code::Invalid, problem)
}

fn body(text: Option<String>, body_base64: Option<&str>) -> Result<Vec<u8>, Problem> {
    match (text, body_base64) {
        (Some(text), None) => Ok(text.into_bytes()),
        (None, Some(encoded)) => {
            STANDARD.decode(encoded).map_err(|_| invalid("body_base64 is not base64"))
        }
        _ => Err(invalid("give exactly one of text and body_base64")),
    }
}

/// Sends a message and waits until it is committed. Repeating it with the same `client_msg_id` stores nothing twice.
#[utoipa::path(post, path = "/v1/messages", request_body = SendRequest, security(("bearer" = [])), responses(
    (status = 200, body = Sent), (status = 404, body = ProblemDocument), (status = 409, body = ProblemDocument),
    (status = 503, body = ProblemDocument), (status = 504, body = ProblemDocument)))]
pub(crate) async fn send(
    State(api): Shared,
    caller: Caller,
    Body(request): Body<SendRequest>,
) -> Result<Json<Sent>, Problem> {
    let sender = caller.acts_for(request.sender.as_deref())?;
    let user = user_id(&sender)?;
    let target = match (&request.to_user, &request.conversation) {
        (Some(to), None) => Target::User(user_id(to)?),
        (None, Some(id)) => Target::Conversation(conversation_id(id)?),
        _ => return Err(invalid("give exactly one of to_user and conversation")),
    };
    let client_msg_id = ClientMsgId::parse_hex(&request.client_msg_id)
        .ok_or_else(|| invalid("client_msg_id has 32 hexadecimal digits"))?;
    let kind = MessageKind(request.kind.unwrap_or(MessageKind::TEXT.0));
    if !(1..=MessageKind::CLIENT_MAX).contains(&kind.0) {
        return Err(invalid("kind is 1 to 127"));
    }
    let body = body(request.text, request.body_base64.as_deref())?;
    let send = Send { target, client_msg_id, client_seq: 1, kind, body: &body };
    let mut frame = Vec::new();
    send.encode(&mut Encoder::new(), 0, &mut frame);
    let operation = Operation {
        app: caller.app(),
        user,
        conversation: target.conversation(user),
        kind: FrameKind::Send,
        payload: &frame[HEADER_BYTES..],
    };
    let (kind, payload) = api.sender.ask(&operation).await?;
    answer(kind, &payload)
}

fn answer(kind: FrameKind, payload: &[u8]) -> Result<Json<Sent>, Problem> {
    if kind == FrameKind::SendRefused
        && let Ok(refused) = SendRefused::decode(payload)
    {
        let problem = Problem::new(refused.code.into(), refused.detail);
        return Err(match refused.retry_after_ms {
            0 => problem,
            ms => problem.retry_after_s(u64::from(ms).div_ceil(1_000)),
        });
    }
    let ack = SendAck::decode(payload)
        .map_err(|_| Problem::new(Code::Internal, "the worker's answer is unreadable"))?;
    Ok(Json(Sent {
        conversation: ack.conversation.to_string(),
        seq: ack.seq,
        message_id: ack.message_id.to_string(),
        client_msg_id: ack.client_msg_id.to_string(),
        server_time_ms: ack.server_time_ms,
    }))
}

/// Raises the read watermark of a member. Accepted when the bus has it; never lowers anything.
#[utoipa::path(post, path = "/v1/conversations/{conversation}/receipts",
    params(("conversation" = String, Path, description = "Conversation id")),
    request_body = ReceiptRequest, security(("bearer" = [])), responses(
    (status = 202), (status = 404, body = ProblemDocument), (status = 503, body = ProblemDocument)))]
pub(crate) async fn receipt(
    State(api): Shared,
    caller: Caller,
    Path(conversation): Path<String>,
    Body(request): Body<ReceiptRequest>,
) -> Result<StatusCode, Problem> {
    let user_text = caller.acts_for(request.user.as_deref())?;
    let user = user_id(&user_text)?;
    let id = conversation_id(&conversation)?;
    if !crate::handler::request::may_read(user, &id) {
        return Err(Problem::new(Code::UnknownConversation, "no such conversation of this user"));
    }
    let seq = i64::try_from(request.seq).map_err(|_| invalid("seq is too large"))?;
    let receipt = Receipt {
        conversation: id,
        user: None,
        kind: ReceiptKind::Read,
        seq: seq.cast_unsigned(),
        by_server: false,
        server_time_ms: 0,
    };
    let mut encoder = Encoder::new();
    let operation = Operation {
        app: caller.app(),
        user,
        conversation: id,
        kind: FrameKind::Receipt,
        payload: receipt.payload(&mut encoder),
    };
    api.sender.tell(&operation).await?;
    Ok(StatusCode::ACCEPTED)
}
