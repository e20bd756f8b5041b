//! Questions to etcd over HTTP: the next endpoint when one does not answer, a new token when the old one is not known any more.

use std::time::Duration;

use reqwest::header::AUTHORIZATION;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::registry::RegistryError;
use crate::registry::config::MembershipConfig;

/// Codes of gRPC, as etcd uses them.
const UNAVAILABLE: u64 = 14;
const UNAUTHENTICATED: u64 = 16;
/// A line of a watch that is longer is none of a list of gateways.
const LINE_BYTES_MAX: usize = 16 << 20;

#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    endpoints: Vec<String>,
    /// The one that answered last.
    current: usize,
    credentials: Option<(String, String)>,
    token: Option<String>,
    timeout: Duration,
}

/// Why one endpoint did not do what it was asked.
enum Failure {
    Unreachable(String),
    TokenUnknown,
    Refused(String),
}

impl Client {
    pub(super) fn new(config: &MembershipConfig) -> Result<Self, RegistryError> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .connect_timeout(config.response_timeout)
            .build()
            .map_err(|error| RegistryError::Refused(format!("no HTTP client: {error}")))?;
        let has_credentials = !config.user.is_empty();
        Ok(Self {
            http,
            endpoints: config
                .endpoints
                .iter()
                .map(|e| e.trim_end_matches('/').to_owned())
                .collect(),
            current: 0,
            credentials: has_credentials.then(|| (config.user.clone(), config.password.clone())),
            token: None,
            timeout: config.response_timeout,
        })
    }

    /// One question, one answer.
    pub(super) async fn ask(&mut self, path: &str, body: &Value) -> Result<Value, RegistryError> {
        let mut stream = self.open(path, body).await?;
        match timeout(self.timeout, stream.next()).await {
            Ok(answer) => answer,
            Err(_) => Err(RegistryError::Unreachable(self.silence())),
        }
    }

    /// One question, and answers for as long as the stream is kept.
    pub(super) async fn open(&mut self, path: &str, body: &Value) -> Result<Stream, RegistryError> {
        let mut unreachable = Vec::new();
        let mut is_renewed = false;
        while unreachable.len() < self.endpoints.len() {
            let result = match self.authenticate().await {
                Ok(()) => self.post(path, body).await,
                Err(failure) => Err(failure),
            };
            match result {
                Ok(stream) => return Ok(stream),
                Err(Failure::Refused(problem)) => return Err(RegistryError::Refused(problem)),
                Err(Failure::TokenUnknown) if self.credentials.is_some() && !is_renewed => {
                    self.token = None;
                    is_renewed = true;
                }
                Err(Failure::TokenUnknown) => {
                    return Err(RegistryError::Refused(
                        "it refuses the token it gave; its accounts may just have changed"
                            .to_owned(),
                    ));
                }
                Err(Failure::Unreachable(problem)) => {
                    unreachable.push(problem);
                    self.current = (self.current + 1) % self.endpoints.len();
                }
            }
        }
        Err(RegistryError::Unreachable(unreachable.join("; ")))
    }

    async fn authenticate(&mut self) -> Result<(), Failure> {
        let (None, Some((name, password))) = (&self.token, &self.credentials) else {
            return Ok(());
        };
        let question = json!({ "name": name, "password": password });
        let mut stream = self.post("auth/authenticate", &question).await?;
        let answer = timeout(self.timeout, stream.next()).await;
        let answer = answer.map_err(|_| Failure::Unreachable(self.silence()))?;
        let answer = answer.map_err(|error| Failure::Unreachable(error.to_string()))?;
        self.token = answer["token"].as_str().map(str::to_owned);
        Ok(())
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Stream, Failure> {
        let endpoint = &self.endpoints[self.current];
        let mut request = self.http.post(format!("{endpoint}/v3/{path}")).json(body);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token);
        }
        let answer = timeout(self.timeout, request.send()).await;
        let answer = answer.map_err(|_| Failure::Unreachable(self.silence()))?;
        let answer = answer
            .map_err(|error| Failure::Unreachable(format!("{endpoint}: {}", innermost(&error))))?;
        let status = answer.status();
        let mut stream = Stream { answer, held: Vec::new(), endpoint: endpoint.clone() };
        if status.is_success() {
            return Ok(stream);
        }
        let refusal = timeout(self.timeout, stream.next()).await;
        let refusal = refusal.map_err(|_| Failure::Unreachable(self.silence()))?;
        Err(match refusal {
            Ok(refusal) => classify(endpoint, &refusal, self.credentials.is_some()),
            Err(_) => Failure::Refused(format!(
                "{endpoint} answers {status} to what etcd 3.4 and later understand: check that it is the address for clients of an etcd"
            )),
        })
    }

    fn silence(&self) -> String {
        format!("{}: no answer in {:?}", self.endpoints[self.current], self.timeout)
    }
}

fn classify(endpoint: &str, refusal: &Value, has_credentials: bool) -> Failure {
    // etcd 3.4 writes both, 3.5 the second one.
    let text = refusal["error"].as_str().or(refusal["message"].as_str());
    let text = text.unwrap_or("an error without a text");
    let code = refusal["code"].as_u64().unwrap_or(0);
    let is_old_token = text.contains("revision of auth store is old");
    if code == UNAUTHENTICATED || is_old_token {
        return Failure::TokenUnknown;
    }
    if code == UNAVAILABLE || text.contains("no leader") || text.contains("timed out") {
        return Failure::Unreachable(format!("{endpoint}: {text}"));
    }
    let advice = if text.contains("user name is empty") {
        ": it wants credentials, set membership.user and membership.password"
    } else if text.contains("authentication failed") {
        ": check membership.user and membership.password"
    } else if text.contains("authentication is not enabled") && has_credentials {
        ": it knows no users, leave membership.user and membership.password empty"
    } else if text.contains("permission denied") {
        ": give membership.user the right to read and write all keys that begin with membership.prefix"
    } else {
        ""
    };
    Failure::Refused(format!("{endpoint} refuses: {text}{advice}"))
}

/// What the layers of an HTTP client wrap.
fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// Answers, one JSON value a line.
#[derive(Debug)]
pub(super) struct Stream {
    answer: reqwest::Response,
    held: Vec<u8>,
    endpoint: String,
}

impl Stream {
    /// The next one. May be dropped at any time.
    pub(super) async fn next(&mut self) -> Result<Value, RegistryError> {
        let lost =
            |endpoint: &str, what: &str| RegistryError::Unreachable(format!("{endpoint}: {what}"));
        loop {
            if let Some(end) = self.held.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.held.drain(..=end).collect();
                return self.parse(&line);
            }
            match self.answer.chunk().await {
                Ok(Some(bytes)) => self.held.extend_from_slice(&bytes),
                Ok(None) if self.held.is_empty() => {
                    return Err(lost(&self.endpoint, "the answer ended"));
                }
                // A single answer has no end of line.
                Ok(None) => {
                    let line = std::mem::take(&mut self.held);
                    return self.parse(&line);
                }
                Err(error) => return Err(lost(&self.endpoint, &innermost(&error))),
            }
            if self.held.len() > LINE_BYTES_MAX {
                return Err(lost(&self.endpoint, "an endless answer"));
            }
        }
    }

    fn parse(&self, line: &[u8]) -> Result<Value, RegistryError> {
        serde_json::from_slice(line).map_err(|_| {
            RegistryError::Refused(format!("{} does not answer like an etcd", self.endpoint))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_etcd_writes_errors_its_own_way() {
        let text = "etcdserver: authentication is not enabled";
        for refusal in [
            serde_json::json!({ "error": text, "message": text, "code": 9 }),
            serde_json::json!({ "code": 9, "message": text }),
        ] {
            let Failure::Refused(text) = classify("e", &refusal, true) else { panic!("{refusal}") };
            assert!(text.contains("not enabled: it knows no users"), "{text}");
        }
    }
}
