//! REQUEST and RESPONSE: questions of a client to logic. The correlation in the header pairs them.

use crate::generated::roost::wire;
use crate::id::{ConversationId, UserId};
use crate::limits::{FRAME_BYTES_MAX, PAGE_MESSAGES_MAX};
use crate::payload::{Encoder, PayloadError, number, required, root};
use crate::refusal::RefusalCode;

use super::FrameKind;
use super::deliver::Message;

/// A question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request<'a> {
    /// The user's inbox after a position, ascending.
    Sync {
        /// Exclusive.
        after_inbox_seq: u64,
        /// 0: the default.
        limit: u16,
    },
    /// Messages of a conversation with `after_seq < seq < before_seq`.
    History {
        /// Which.
        conversation: ConversationId<'a>,
        /// Exclusive; 0: from the first.
        after_seq: u64,
        /// Exclusive; 0: to the newest.
        before_seq: u64,
        /// 0: the default.
        limit: u16,
        /// Take from the newest end; the page itself is in the asked order.
        newest_first: bool,
    },
    /// Delivered and read watermarks of a conversation's members.
    Watermarks {
        /// Which.
        conversation: ConversationId<'a>,
    },
}

impl<'a> Request<'a> {
    /// Appends the frame to `out`.
    pub fn encode(&self, encoder: &mut Encoder, correlation: u16, out: &mut Vec<u8>) {
        encoder.frame(out, FrameKind::Request, correlation, |b| {
            let (body_type, body) = match self {
                Self::Sync { after_inbox_seq, limit } => {
                    let args =
                        wire::SyncRequestArgs { after_inbox_seq: *after_inbox_seq, limit: *limit };
                    let body = wire::SyncRequest::create(b, &args).as_union_value();
                    (wire::RequestBody::SyncRequest, body)
                }
                Self::History { conversation, after_seq, before_seq, limit, newest_first } => {
                    let args = wire::HistoryRequestArgs {
                        conversation: Some(b.create_string(&conversation.to_string())),
                        after_seq: *after_seq,
                        before_seq: *before_seq,
                        limit: *limit,
                        newest_first: *newest_first,
                    };
                    let body = wire::HistoryRequest::create(b, &args).as_union_value();
                    (wire::RequestBody::HistoryRequest, body)
                }
                Self::Watermarks { conversation } => {
                    let conversation = Some(b.create_string(&conversation.to_string()));
                    let args = wire::WatermarksRequestArgs { conversation };
                    let body = wire::WatermarksRequest::create(b, &args).as_union_value();
                    (wire::RequestBody::WatermarksRequest, body)
                }
            };
            wire::Request::create(b, &wire::RequestArgs { body_type, body: Some(body) })
        });
    }

    /// Verifies and reads the payload.
    pub fn decode(payload: &'a [u8]) -> Result<Self, PayloadError> {
        let t = root::<wire::Request<'_>>(payload)?;
        if let Some(body) = t.body_as_sync_request() {
            return Ok(Self::Sync {
                after_inbox_seq: number("after_inbox_seq", body.after_inbox_seq())?,
                limit: body.limit(),
            });
        }
        if let Some(body) = t.body_as_history_request() {
            return Ok(Self::History {
                conversation: conversation(body.conversation())?,
                after_seq: number("after_seq", body.after_seq())?,
                before_seq: number("before_seq", body.before_seq())?,
                limit: body.limit(),
                newest_first: body.newest_first(),
            });
        }
        if let Some(body) = t.body_as_watermarks_request() {
            return Ok(Self::Watermarks { conversation: conversation(body.conversation())? });
        }
        Err(PayloadError::Invalid("body"))
    }
}

/// How far one member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemberWatermarks<'a> {
    /// Who.
    pub user: UserId<'a>,
    /// Stored by one of its devices, or its inbox.
    pub delivered_seq: u64,
    /// Read.
    pub read_seq: u64,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response<'a> {
    /// To [`Request::Sync`]: `(inbox_seq, message)` ascending.
    SyncPage {
        /// The entries.
        entries: Vec<(u64, Message<'a>)>,
        /// Newest position of the inbox.
        latest_inbox_seq: u64,
        /// Entries beyond this page exist.
        more: bool,
    },
    /// To [`Request::History`].
    HistoryPage {
        /// Which.
        conversation: ConversationId<'a>,
        /// In the order asked for.
        messages: Vec<Message<'a>>,
        /// Newest seq of the conversation.
        latest_seq: u64,
        /// Messages beyond this page exist in the asked direction.
        more: bool,
    },
    /// To [`Request::Watermarks`].
    WatermarksPage {
        /// Which.
        conversation: ConversationId<'a>,
        /// The members.
        members: Vec<MemberWatermarks<'a>>,
    },
    /// Not answered.
    Refused {
        /// Why; see [`RefusalCode::from_wire`] for codes this version does not know.
        code: RefusalCode,
        /// When to try again, for retryable codes.
        retry_after_ms: u32,
        /// For people.
        detail: &'a str,
    },
}

impl<'a> Response<'a> {
    /// The payload alone; the gateway writes the header with the request's correlation.
    pub fn payload<'e>(&self, encoder: &'e mut Encoder) -> &'e [u8] {
        encoder.payload(|b| {
            let args = match self {
                Self::SyncPage { entries, latest_inbox_seq, more } => {
                    let messages: Vec<_> = entries.iter().map(|(_, m)| m.create(b)).collect();
                    let seqs: Vec<u64> = entries.iter().map(|(seq, _)| *seq).collect();
                    let args = wire::SyncPageArgs {
                        inbox_seqs: Some(b.create_vector(&seqs)),
                        messages: Some(b.create_vector(&messages)),
                        latest_inbox_seq: *latest_inbox_seq,
                        more: *more,
                    };
                    let body = Some(wire::SyncPage::create(b, &args).as_union_value());
                    let body_type = wire::ResponseBody::SyncPage;
                    wire::ResponseArgs { body_type, body, ..Default::default() }
                }
                Self::HistoryPage { conversation, messages, latest_seq, more } => {
                    let messages: Vec<_> = messages.iter().map(|m| m.create(b)).collect();
                    let args = wire::HistoryPageArgs {
                        conversation: Some(b.create_string(&conversation.to_string())),
                        messages: Some(b.create_vector(&messages)),
                        latest_seq: *latest_seq,
                        more: *more,
                    };
                    let body = Some(wire::HistoryPage::create(b, &args).as_union_value());
                    let body_type = wire::ResponseBody::HistoryPage;
                    wire::ResponseArgs { body_type, body, ..Default::default() }
                }
                Self::WatermarksPage { conversation, members } => {
                    let members: Vec<_> = members
                        .iter()
                        .map(|m| {
                            let args = wire::MemberWatermarksArgs {
                                user: Some(b.create_string(m.user.as_str())),
                                delivered_seq: m.delivered_seq,
                                read_seq: m.read_seq,
                            };
                            wire::MemberWatermarks::create(b, &args)
                        })
                        .collect();
                    let args = wire::WatermarksPageArgs {
                        conversation: Some(b.create_string(&conversation.to_string())),
                        members: Some(b.create_vector(&members)),
                    };
                    let body = Some(wire::WatermarksPage::create(b, &args).as_union_value());
                    let body_type = wire::ResponseBody::WatermarksPage;
                    wire::ResponseArgs { body_type, body, ..Default::default() }
                }
                Self::Refused { code, retry_after_ms, detail } => wire::ResponseArgs {
                    code: *code as u16,
                    detail: (!detail.is_empty()).then(|| b.create_string(detail)),
                    retry_after_ms: *retry_after_ms,
                    ..Default::default()
                },
            };
            wire::Response::create(b, &args)
        })
    }

    /// Verifies and reads the payload.
    pub fn decode(payload: &'a [u8]) -> Result<Self, PayloadError> {
        let t = root::<wire::Response<'_>>(payload)?;
        if t.code() != 0 {
            return Ok(Self::Refused {
                code: RefusalCode::from_wire(t.code()),
                retry_after_ms: t.retry_after_ms(),
                detail: t.detail().unwrap_or(""),
            });
        }
        if let Some(body) = t.body_as_sync_page() {
            let messages = messages(body.messages())?;
            let seqs: Vec<u64> = body.inbox_seqs().map_or(Vec::new(), |s| s.iter().collect());
            if seqs.len() != messages.len() || !seqs.is_sorted_by(|a, b| a < b) {
                return Err(PayloadError::Invalid("inbox_seqs"));
            }
            return Ok(Self::SyncPage {
                entries: seqs.into_iter().zip(messages).collect(),
                latest_inbox_seq: body.latest_inbox_seq(),
                more: body.more(),
            });
        }
        if let Some(body) = t.body_as_history_page() {
            return Ok(Self::HistoryPage {
                conversation: conversation(body.conversation())?,
                messages: messages(body.messages())?,
                latest_seq: body.latest_seq(),
                more: body.more(),
            });
        }
        if let Some(body) = t.body_as_watermarks_page() {
            let mut members = Vec::new();
            for member in body.members().into_iter().flatten() {
                let user = required("user", member.user())?;
                members.push(MemberWatermarks {
                    user: UserId::new(user).map_err(|e| PayloadError::Id("user", e))?,
                    delivered_seq: member.delivered_seq(),
                    read_seq: member.read_seq(),
                });
            }
            return Ok(Self::WatermarksPage {
                conversation: conversation(body.conversation())?,
                members,
            });
        }
        Err(PayloadError::Invalid("body"))
    }
}

fn conversation(text: Option<&str>) -> Result<ConversationId<'_>, PayloadError> {
    ConversationId::parse(required("conversation", text)?)
        .map_err(|e| PayloadError::Id("conversation", e))
}

fn messages<'a>(
    list: Option<
        flatbuffers::Vector<
            'a,
            flatbuffers::ForwardsUOffset<crate::generated::roost::wire::Message<'a>>,
        >,
    >,
) -> Result<Vec<Message<'a>>, PayloadError> {
    list.into_iter().flatten().map(Message::from_table).collect()
}

/// Cuts a page before it would not fit one frame: `take` says whether one more message fits.
#[derive(Debug)]
pub struct PageBudget {
    messages_left: usize,
    bytes_left: usize,
}

impl PageBudget {
    /// A page of at most `limit` messages (0: the default), never more than [`PAGE_MESSAGES_MAX`].
    pub fn new(limit: u16) -> Self {
        let limit = match usize::from(limit) {
            0 => crate::limits::PAGE_MESSAGES_DEFAULT,
            n => n.min(PAGE_MESSAGES_MAX),
        };
        // Header, response, page table and its own fields stay under 1 KiB.
        Self { messages_left: limit, bytes_left: FRAME_BYTES_MAX - 1024 }
    }

    /// Messages that may still be taken.
    pub fn messages_left(&self) -> usize {
        self.messages_left
    }

    /// Counts a message in; `false`: it does not fit, the page ends before it.
    pub fn take(
        &mut self,
        conversation_bytes: usize,
        sender_bytes: usize,
        body_bytes: usize,
    ) -> bool {
        // Table, offsets, fixed fields, client_msg_id and padding: at most 128 bytes beside the three variable parts.
        let bytes = 128 + conversation_bytes + sender_bytes + body_bytes;
        if self.messages_left == 0 || bytes > self.bytes_left {
            return false;
        }
        self.messages_left -= 1;
        self.bytes_left -= bytes;
        true
    }
}
