//! Requests and digest checks: answered from the reader connections, beside the writing worker and without an acknowledgement
//! of their own. A lost answer is asked for again by the client.

use std::sync::Arc;

use bytes::Bytes;
use roost_protocol::envelope::{ConnectionAddress, InboundKind, OutboundBatchBuilder};
use roost_protocol::frame::event::Event;
use roost_protocol::frame::request::{Request, Response};
use roost_protocol::id::UserId;
use roost_protocol::{Encoder, FrameKind, RefusalCode};

use super::operation::Item;
use crate::handler::request;
use crate::store::{HistoryRange, Name, Result, SharedStore, StoreError};

/// Answers are published when they have this size together.
const BODY_BYTES: usize = 256 * 1024;
/// What a client waits before it asks again.
pub(super) const RETRY_AFTER_MS: u32 = 1_000;

/// One question.
#[derive(Debug)]
pub(super) struct Read {
    kind: InboundKind,
    frame_kind: FrameKind,
    correlation: u16,
    connection: ConnectionAddress,
    inbox_seq: u64,
    app: Name,
    user: Name,
    payload: Bytes,
}

impl Read {
    pub(super) fn of(item: &Item<'_>) -> Self {
        let envelope = item.envelope;
        Self {
            kind: envelope.kind,
            frame_kind: envelope.frame_kind,
            correlation: envelope.correlation,
            connection: envelope.connection,
            inbox_seq: envelope.inbox_seq,
            app: envelope.app.into(),
            user: envelope.user.into(),
            payload: item.payload.clone(),
        }
    }

    fn request(&self) -> Option<Request<'_>> {
        match self.kind {
            InboundKind::Frame if self.frame_kind == FrameKind::Request => {
                Request::decode(&self.payload).ok()
            }
            InboundKind::Frame
            | InboundKind::SessionOpened
            | InboundKind::SessionClosed
            | InboundKind::DigestCheck => None,
        }
    }
}

/// Answers of one origin, handed to `publish` in bodies of bounded size.
pub(super) async fn answer_all<F: Future<Output = ()>>(
    store: &SharedStore,
    reads: &[Read],
    mut publish: impl FnMut(Bytes) -> F,
) {
    let mut encoder = Encoder::new();
    let mut builder = OutboundBatchBuilder::new();
    let is_near = |read: &Read| store.is_within_reach(&read.app, &[&read.user], &[]);
    let (near, away): (Vec<&Read>, Vec<&Read>) = reads.iter().partition(|read| is_near(read));
    let owners: Vec<_> = near.iter().map(|r| (Arc::clone(&r.app), Arc::clone(&r.user))).collect();
    let positions = store.inbox_positions(&owners).await;
    let known = near
        .iter()
        .enumerate()
        .map(|(index, read)| (*read, positions.as_ref().map(|p| p[index]).map_err(Clone::clone)));
    let missing = || Err(StoreError::Unavailable("one of the databases is away".to_owned()));
    for (read, position) in known.chain(away.iter().map(|read| (*read, missing()))) {
        answer(store, read, position, &mut encoder, &mut builder).await;
        if builder.bytes() >= BODY_BYTES {
            publish(builder.take()).await;
        }
    }
    if !builder.is_empty() {
        publish(builder.take()).await;
    }
}

/// Refuses everything: too many questions wait already.
pub(super) fn busy(reads: &[Read]) -> Bytes {
    let mut encoder = Encoder::new();
    let mut builder = OutboundBatchBuilder::new();
    for read in reads.iter().filter(|read| read.request().is_some()) {
        respond(
            read,
            &refused(RefusalCode::Busy, "too many requests wait"),
            &mut encoder,
            &mut builder,
        );
    }
    builder.take()
}

fn refused(code: RefusalCode, detail: &str) -> Response<'_> {
    Response::Refused { code, retry_after_ms: RETRY_AFTER_MS, detail }
}

fn respond(
    read: &Read,
    response: &Response<'_>,
    encoder: &mut Encoder,
    builder: &mut OutboundBatchBuilder,
) {
    let payload = response.payload(encoder);
    builder.to_connection(read.connection, FrameKind::Response, read.correlation, 0, payload);
}

async fn answer(
    store: &SharedStore,
    read: &Read,
    position: Result<u64>,
    encoder: &mut Encoder,
    builder: &mut OutboundBatchBuilder,
) {
    let Some(request) = read.request() else {
        if let Ok(inbox_seq) = position
            && inbox_seq > read.inbox_seq
        {
            let payload = Event::Digest { inbox_seq }.payload(encoder);
            builder.to_connection(read.connection, FrameKind::Event, 0, 0, payload);
        }
        return;
    };
    let answered = match request {
        Request::Sync { after_inbox_seq, limit } => {
            sync(store, read, position, (after_inbox_seq, limit), encoder, builder).await
        }
        Request::History { .. } | Request::Watermarks { .. } => {
            conversation(store, read, &request, encoder, builder).await
        }
    };
    if let Err(error) = answered {
        tracing::warn!(%error, "a request was not answered");
        respond(read, &refused(RefusalCode::Unavailable, "the database is away"), encoder, builder);
    }
}

async fn sync(
    store: &SharedStore,
    read: &Read,
    position: Result<u64>,
    (after, limit): (u64, u16),
    encoder: &mut Encoder,
    builder: &mut OutboundBatchBuilder,
) -> Result<()> {
    let latest = position?;
    let rows = if after < latest {
        store.inbox_page(&read.app, &read.user, after, request::rows_wanted(limit)).await?
    } else {
        Vec::new()
    };
    respond(read, &request::sync_page(&rows, limit, latest), encoder, builder);
    Ok(())
}

async fn conversation(
    store: &SharedStore,
    read: &Read,
    request: &Request<'_>,
    encoder: &mut Encoder,
    builder: &mut OutboundBatchBuilder,
) -> Result<()> {
    let user = UserId::new(&read.user).map_err(|e| StoreError::Refused(e.to_string()))?;
    match *request {
        Request::History { conversation, after_seq, before_seq, limit, newest_first } => {
            let range = HistoryRange {
                after: after_seq,
                before: before_seq,
                limit: request::rows_wanted(limit),
                newest_first,
            };
            let text = conversation.to_string();
            let found = match request::may_read(user, &conversation) {
                true => store.history(&read.app, &text, range).await?,
                false => None,
            };
            let page = match &found {
                Some((latest, rows)) => request::history_page(conversation, rows, limit, *latest),
                None => request::UNKNOWN_CONVERSATION,
            };
            respond(read, &page, encoder, builder);
        }
        Request::Watermarks { conversation } => {
            let page = if request::may_read(user, &conversation) {
                let rows = store.watermarks(&read.app, &conversation.to_string()).await?;
                Response::WatermarksPage {
                    conversation,
                    members: request::member_watermarks(conversation, &rows),
                }
            } else {
                request::UNKNOWN_CONVERSATION
            };
            respond(read, &page, encoder, builder);
        }
        Request::Sync { .. } => {}
    }
    Ok(())
}
