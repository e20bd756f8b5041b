//! The server's HTTP API as the load test uses it: creating users, reading back what is stored.
//!
//! The reading is complete or an error: the checker relies on it.

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use crate::checker::{ConversationId, History, Record, payload_hash};

/// Users in one request.
const USERS_PER_REQUEST: usize = 1000;
/// Messages in one page.
const PAGE_MESSAGES: usize = roost_protocol::limits::PAGE_MESSAGES_MAX;

/// Why the HTTP API could not be used.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Nobody answers.
    #[error("cannot reach the HTTP API at {address}: {cause}; is the server running?")]
    Unreachable {
        /// Host and port.
        address: String,
        /// Of the library.
        cause: String,
    },
    /// An answer that says no.
    #[error("{method} {path} was answered with status {status}: {body}")]
    Status {
        /// Method.
        method: &'static str,
        /// Path.
        path: String,
        /// Of HTTP.
        status: u16,
        /// Start of the body.
        body: String,
    },
    /// An answer that does not follow the API.
    #[error("the answer to {path} is not what the API promises: {cause}")]
    Unexpected {
        /// Path.
        path: String,
        /// What is wrong.
        cause: String,
    },
}

/// A client of the HTTP API.
#[derive(Clone)]
pub struct HttpClient {
    agent: ureq::Agent,
    address: String,
    api_key: String,
}

#[derive(Deserialize)]
struct Page {
    messages: Vec<StoredMessage>,
}

#[derive(Deserialize)]
struct StoredMessage {
    seq: u64,
    sender: String,
    client_msg_id: String,
    #[serde(default)]
    text: Option<String>,
}

impl HttpClient {
    /// A client of the API at `host:port`.
    #[must_use]
    pub fn new(address: &str, api_key: &str) -> Self {
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(60)))
            .http_status_as_error(false)
            .build()
            .new_agent();
        Self { agent, address: address.to_owned(), api_key: api_key.to_owned() }
    }

    /// Creates users, in as few requests as the API allows. Creating one again is no error.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses.
    pub fn create_users(&self, users: &[String]) -> Result<(), HttpError> {
        for some in users.chunks(USERS_PER_REQUEST) {
            let path = "/v1/users";
            let request = self
                .agent
                .post(self.url(path))
                .header("authorization", format!("Bearer {}", self.api_key));
            let answer = request.send_json(json!({ "users": some }));
            self.body_of("POST", path, answer)?;
        }
        Ok(())
    }

    /// Reads a conversation to its end and records it as one complete reading.
    ///
    /// # Errors
    /// When the server cannot be reached, refuses, or answers otherwise than the API promises.
    pub fn read_conversation(
        &self,
        history: &mut History,
        conversation: ConversationId,
        name: &str,
        (at_us, reading): (u64, u32),
    ) -> Result<u64, HttpError> {
        let (mut after, mut count) = (0, 0);
        loop {
            let path =
                format!("/v1/conversations/{name}/messages?after={after}&limit={PAGE_MESSAGES}");
            let unexpected = |cause: String| HttpError::Unexpected { path: path.clone(), cause };
            let request = self
                .agent
                .get(self.url(&path))
                .header("authorization", format!("Bearer {}", self.api_key));
            let body = match self.body_of("GET", &path, request.call()) {
                // A conversation begins with its first message.
                Err(HttpError::Status { status: 404, .. }) if after == 0 => break,
                other => other?,
            };
            let page: Page = serde_json::from_str(&body).map_err(|e| unexpected(e.to_string()))?;
            let Some(last) = page.messages.last().map(|message| message.seq) else { break };
            if last <= after {
                return Err(unexpected(format!("the page after {after} ends at {last}")));
            }
            count += page.messages.len() as u64;
            for message in page.messages {
                let id = u128::from_str_radix(&message.client_msg_id.replace('-', ""), 16)
                    .map_err(|e| unexpected(format!("client_msg_id: {e}")))?;
                let sender = history.user(&message.sender);
                let stored = Record::Stored {
                    conversation,
                    message: history.message(sender, id),
                    seq: message.seq,
                    hash: message.text.map_or(0, |text| payload_hash(text.as_bytes())),
                    reading,
                };
                history.record(at_us, stored);
            }
            after = last;
        }
        history.record(at_us, Record::ReadingEnd { conversation, reading });
        Ok(count)
    }

    /// How the server says it drives the kernel, from its admin port beside the HTTP port.
    #[must_use]
    pub fn driver(&self) -> Option<String> {
        const ADMIN_OFFSET: u16 = 9;
        let (host, port) = self.address.rsplit_once(':')?;
        let admin = port.parse::<u16>().ok()?.checked_add(ADMIN_OFFSET)?;
        let url = format!("http://{host}:{admin}/readyz?verbose");
        let text = self.agent.get(url).call().ok()?.body_mut().read_to_string().ok()?;
        let known = ["io_uring", "epoll", "simulated"];
        known.into_iter().find(|driver| text.contains(driver)).map(str::to_owned)
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn body_of(
        &self,
        method: &'static str,
        path: &str,
        answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<String, HttpError> {
        let unreachable = |e: ureq::Error| HttpError::Unreachable {
            address: self.address.clone(),
            cause: e.to_string(),
        };
        let mut response = answer.map_err(unreachable)?;
        let status = response.status();
        let body = response.body_mut().read_to_string().map_err(unreachable)?;
        if status.is_success() {
            return Ok(body);
        }
        let mut short = body;
        short.truncate(short.floor_char_boundary(300));
        Err(HttpError::Status {
            method,
            path: path.to_owned(),
            status: status.as_u16(),
            body: short,
        })
    }
}
