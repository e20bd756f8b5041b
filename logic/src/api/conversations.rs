//! Pages: a conversation, its watermarks, an inbox. Servers read everything of their app, users what is theirs.

use axum::Json;
use axum::extract::{Path, State};
use roost_protocol::limits::{PAGE_MESSAGES_DEFAULT, PAGE_MESSAGES_MAX};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Shared;
use super::caller::{Caller, conversation_id};
use super::extract::Params;
use super::json::MessageJson;
use super::problem::{Code, Problem, ProblemDocument};
use crate::handler::request;
use crate::store::HistoryRange;

/// In which order a page is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Default, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Order {
    /// Ascending from `after`.
    #[default]
    OldestFirst,
    /// Descending from `before`.
    NewestFirst,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct HistoryParams {
    /// Exclusive; 0: from the first.
    #[serde(default)]
    after: u64,
    /// Exclusive; 0: to the newest.
    #[serde(default)]
    before: u64,
    /// 1 to 200, 20 when left out.
    limit: Option<usize>,
    /// oldest_first when left out.
    #[serde(default)]
    #[param(inline)]
    order: Order,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct InboxParams {
    /// Exclusive; 0: from the first.
    #[serde(default)]
    after: u64,
    /// 1 to 200, 20 when left out.
    limit: Option<usize>,
}

/// A page of a conversation.
#[derive(Serialize, ToSchema)]
pub(crate) struct HistoryPage {
    conversation: String,
    messages: Vec<MessageJson>,
    /// Newest seq.
    latest_seq: u64,
    /// Whether more follow in this order.
    more: bool,
}

/// A page of an inbox, ascending.
#[derive(Serialize, ToSchema)]
pub(crate) struct InboxPage {
    entries: Vec<InboxEntry>,
    /// Newest position.
    latest_inbox_seq: u64,
    /// Whether more follow.
    more: bool,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct InboxEntry {
    /// Position in the inbox: 1, 2, 3 ...
    inbox_seq: u64,
    #[serde(flatten)]
    message: MessageJson,
}

/// How far the members are.
#[derive(Serialize, ToSchema)]
pub(crate) struct WatermarksPage {
    conversation: String,
    members: Vec<Member>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct Member {
    user: String,
    /// Stored by a device up to here.
    delivered_seq: u64,
    /// Read up to here.
    read_seq: u64,
}

fn limit(asked: Option<usize>) -> Result<usize, Problem> {
    match asked.unwrap_or(PAGE_MESSAGES_DEFAULT) {
        limit @ 1..=PAGE_MESSAGES_MAX => Ok(limit),
        _ => Err(Problem::new(Code::Invalid, "limit is 1 to 200")),
    }
}

fn unknown_conversation() -> Problem {
    Problem::new(Code::UnknownConversation, "no such conversation, or none of this user")
}

/// Messages of a conversation. A single chat without a message is an empty page to its two users, and unknown to servers.
#[utoipa::path(get, path = "/v1/conversations/{conversation}/messages",
    params(("conversation" = String, Path, description = "Conversation id"), HistoryParams),
    security(("bearer" = [])), responses((status = 200, body = HistoryPage), (status = 404, body = ProblemDocument)))]
pub(crate) async fn history(
    State(api): Shared,
    caller: Caller,
    Path(conversation): Path<String>,
    Params(params): Params<HistoryParams>,
) -> Result<Json<HistoryPage>, Problem> {
    let id = conversation_id(&conversation)?;
    let limit = limit(params.limit)?;
    if !caller.may_read(&id) {
        return Err(unknown_conversation());
    }
    let range = HistoryRange {
        after: params.after,
        before: params.before,
        limit: limit + 1,
        newest_first: params.order == Order::NewestFirst,
    };
    let found = api.store.history(caller.app(), &conversation, range).await?;
    let (latest_seq, mut messages) = match found {
        Some(found) => found,
        // Before its first message a single chat is there for its members, and empty.
        None if caller.is_member(&id) => (0, Vec::new()),
        None => return Err(unknown_conversation()),
    };
    let more = messages.len() > limit;
    messages.truncate(limit);
    let messages = messages.into_iter().map(MessageJson::from).collect();
    Ok(Json(HistoryPage { conversation, messages, latest_seq, more }))
}

/// Delivered and read watermarks of a conversation's members.
#[utoipa::path(get, path = "/v1/conversations/{conversation}/watermarks",
    params(("conversation" = String, Path, description = "Conversation id")),
    security(("bearer" = [])), responses((status = 200, body = WatermarksPage), (status = 404, body = ProblemDocument)))]
pub(crate) async fn watermarks(
    State(api): Shared,
    caller: Caller,
    Path(conversation): Path<String>,
) -> Result<Json<WatermarksPage>, Problem> {
    let id = conversation_id(&conversation)?;
    if !caller.may_read(&id) {
        return Err(unknown_conversation());
    }
    let rows = api.store.watermarks(caller.app(), &conversation).await?;
    let members = request::member_watermarks(id, &rows)
        .into_iter()
        .map(|member| Member {
            user: member.user.as_str().to_owned(),
            delivered_seq: member.delivered_seq,
            read_seq: member.read_seq,
        })
        .collect();
    Ok(Json(WatermarksPage { conversation, members }))
}

/// A user's inbox: everything it has to see, in one sequence.
#[utoipa::path(get, path = "/v1/users/{user}/inbox",
    params(("user" = String, Path, description = "User id"), InboxParams),
    security(("bearer" = [])), responses((status = 200, body = InboxPage), (status = 403, body = ProblemDocument)))]
pub(crate) async fn inbox(
    State(api): Shared,
    caller: Caller,
    Path(user): Path<String>,
    Params(params): Params<InboxParams>,
) -> Result<Json<InboxPage>, Problem> {
    let user = caller.acts_for(Some(&user))?;
    let limit = limit(params.limit)?;
    let owner = [(caller.app().into(), user.as_str().into())];
    let latest = api.store.inbox_positions(&owner).await?.first().copied().unwrap_or(0);
    let mut rows = api.store.inbox_page(caller.app(), &user, params.after, limit + 1).await?;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let latest_inbox_seq = rows.last().map_or(latest, |row| row.inbox_seq.max(latest));
    let entries = rows
        .into_iter()
        .map(|row| InboxEntry { inbox_seq: row.inbox_seq, message: row.message.into() })
        .collect();
    Ok(Json(InboxPage { entries, latest_inbox_seq, more }))
}
