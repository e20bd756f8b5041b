//! The fields of a frame as text, as the files of vectors list them: names of the schema, text as it is, numbers in decimal, bytes and
//! message ids in hexadecimal, `-` for nothing.

use std::fmt::Display;

use roost_protocol::Frame;
use roost_protocol::frame::connect::{Connect, Connected, Credential};
use roost_protocol::frame::deliver::Message;
use roost_protocol::frame::event::Event;
use roost_protocol::frame::request::{Request, Response};
use roost_protocol::frame::send::Target;

#[derive(Default)]
struct Fields(Vec<(String, String)>);

impl Fields {
    fn put(&mut self, name: &str, value: impl Display) -> &mut Self {
        let value = value.to_string();
        let value = if value.is_empty() { "-".to_owned() } else { value };
        self.0.push((name.to_owned(), value));
        self
    }

    fn message(&mut self, prefix: &str, m: &Message<'_>) {
        let mut put = |name: &str, value: &dyn Display| {
            self.put(&format!("{prefix}{name}"), value);
        };
        put("conversation", &m.conversation);
        put("seq", &m.seq);
        put("message_id", &m.message_id);
        put("sender", &m.sender);
        put("client_msg_id", &m.client_msg_id);
        put("kind", &m.kind.0);
        put("body", &hex(m.body));
        put("server_time_ms", &m.server_time_ms);
    }

    fn messages(&mut self, messages: &[Message<'_>]) {
        self.put("messages.length", messages.len());
        for (i, message) in messages.iter().enumerate() {
            self.message(&format!("messages[{i}]."), message);
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn of(frame: &Frame<'_>) -> Vec<(String, String)> {
    let mut fields = Fields::default();
    match frame {
        Frame::Connect(f) => connect_fields(&mut fields, f),
        Frame::Connected(f) => connected_fields(&mut fields, f),
        Frame::Ping(f) => {
            fields.put("client_time_us", f.client_time_us).put("inbox_seq", f.inbox_seq);
        }
        Frame::Pong(f) => {
            fields.put("client_time_us", f.client_time_us).put("server_time_ms", f.server_time_ms);
        }
        Frame::Send(f) => {
            match f.target {
                Target::Conversation(id) => fields.put("conversation", id).put("to_user", ""),
                Target::User(user) => fields.put("conversation", "").put("to_user", user),
            };
            fields.put("client_msg_id", f.client_msg_id).put("client_seq", f.client_seq);
            fields.put("kind", f.kind.0).put("body", hex(f.body));
        }
        Frame::SendAck(f) => {
            fields.put("client_msg_id", f.client_msg_id).put("conversation", f.conversation);
            fields.put("seq", f.seq).put("message_id", f.message_id);
            fields.put("server_time_ms", f.server_time_ms);
        }
        Frame::SendRefused(f) => {
            fields.put("client_msg_id", f.client_msg_id).put("code", f.code as u16);
            fields.put("retry_after_ms", f.retry_after_ms);
            fields.put("expected_client_seq", f.expected_client_seq).put("detail", f.detail);
        }
        Frame::Deliver(f) => fields.message("", f),
        Frame::DeliverAck(f) => {
            fields.put("inbox_seq", f.inbox_seq).put("watermarks.length", f.watermarks.len());
            for (i, (conversation, seq)) in f.watermarks.iter().enumerate() {
                fields.put(&format!("watermarks[{i}].conversation"), conversation);
                fields.put(&format!("watermarks[{i}].seq"), seq);
            }
        }
        Frame::Receipt(f) => {
            fields.put("conversation", f.conversation);
            fields.put("user", f.user.map_or("", |user| user.as_str()));
            fields.put("kind", f.kind as u8).put("seq", f.seq).put("by_server", f.by_server);
            fields.put("server_time_ms", f.server_time_ms);
        }
        Frame::Event(event) => event_fields(&mut fields, event),
        Frame::Request(request) => request_fields(&mut fields, request),
        Frame::Response(response) => response_fields(&mut fields, response),
        Frame::Redirect(f) => {
            fields.put("address", f.address);
        }
        Frame::GoAway(f) => {
            fields.put("reconnect_after_ms", f.reconnect_after_ms);
        }
        Frame::Close(f) => {
            fields.put("reason", f.reason as u16).put("detail", f.detail);
            fields.put("retry_after_ms", f.retry_after_ms);
        }
    }
    fields.0
}

fn connect_fields(fields: &mut Fields, f: &Connect<'_>) {
    let (token, resume) = match f.credential {
        Credential::Token(token) => (token, ""),
        Credential::Resume(token) => ("", token),
    };
    fields.put("protocol_version", f.protocol_version).put("token", token);
    fields.put("resume_token", resume).put("device_id", f.device_id);
    fields.put("device_class", f.device_class as u8).put("client_name", f.client_name);
    fields.put("last_session_epoch", f.last_session_epoch).put("inbox_seq", f.inbox_seq);
}

fn connected_fields(fields: &mut Fields, f: &Connected<'_>) {
    fields.put("session_epoch", f.session_epoch).put("user_id", f.user_id);
    fields.put("gateway", f.gateway).put("resume_token", f.resume_token);
    fields.put("server_time_ms", f.server_time_ms);
    fields.put("heartbeat_interval_ms", f.heartbeat_interval_ms);
    fields.put("idle_timeout_ms", f.idle_timeout_ms);
    fields.put("inflight_sends_max", f.inflight_sends_max);
    fields.put("frame_bytes_max", f.frame_bytes_max);
    fields.put("body_bytes_max", f.body_bytes_max);
}

fn event_fields(fields: &mut Fields, event: &Event<'_>) {
    match event {
        Event::Digest { inbox_seq } => {
            fields.put("kind", 1).put("inbox_seq", inbox_seq);
        }
        Event::Hint { conversation, seq, inbox_seq } => {
            fields.put("kind", 2).put("conversation", conversation);
            fields.put("seq", seq).put("inbox_seq", inbox_seq);
        }
        Event::Unknown(kind) => {
            fields.put("kind", kind);
        }
    }
}

fn request_fields(fields: &mut Fields, request: &Request<'_>) {
    match request {
        Request::Sync { after_inbox_seq, limit } => {
            fields.put("body_type", "SyncRequest");
            fields.put("after_inbox_seq", after_inbox_seq).put("limit", limit);
        }
        Request::History { conversation, after_seq, before_seq, limit, newest_first } => {
            fields.put("body_type", "HistoryRequest").put("conversation", conversation);
            fields.put("after_seq", after_seq).put("before_seq", before_seq);
            fields.put("limit", limit).put("newest_first", newest_first);
        }
        Request::Watermarks { conversation } => {
            fields.put("body_type", "WatermarksRequest").put("conversation", conversation);
        }
    }
}

fn response_fields(fields: &mut Fields, response: &Response<'_>) {
    match response {
        Response::SyncPage { entries, latest_inbox_seq, more } => {
            fields.put("code", 0).put("body_type", "SyncPage");
            let seqs: Vec<String> = entries.iter().map(|(seq, _)| seq.to_string()).collect();
            fields.put("inbox_seqs", seqs.join(" "));
            let messages: Vec<_> = entries.iter().map(|(_, message)| *message).collect();
            fields.messages(&messages);
            fields.put("latest_inbox_seq", latest_inbox_seq).put("more", more);
        }
        Response::HistoryPage { conversation, messages, latest_seq, more } => {
            fields.put("code", 0).put("body_type", "HistoryPage").put("conversation", conversation);
            fields.messages(messages);
            fields.put("latest_seq", latest_seq).put("more", more);
        }
        Response::WatermarksPage { conversation, members } => {
            fields.put("code", 0).put("body_type", "WatermarksPage");
            fields.put("conversation", conversation).put("members.length", members.len());
            for (i, member) in members.iter().enumerate() {
                fields.put(&format!("members[{i}].user"), member.user);
                fields.put(&format!("members[{i}].delivered_seq"), member.delivered_seq);
                fields.put(&format!("members[{i}].read_seq"), member.read_seq);
            }
        }
        Response::Refused { code, retry_after_ms, detail } => {
            fields.put("code", *code as u16).put("retry_after_ms", retry_after_ms);
            fields.put("detail", detail);
        }
    }
}
