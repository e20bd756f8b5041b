//! Members in etcd: keys PREFIX/gateways/NAME under a lease, and a watch that says when to look again.
//!
//! It speaks the JSON gateway that every etcd from 3.4 on serves beside gRPC: the same operations over HTTP, without protoc at build
//! time. Numbers of 64 bits are strings there, keys and values base64.

mod client;

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::registry::RegistryError;
use crate::registry::config::MembershipConfig;
use crate::registry::entry::Entry;

use client::{Client, Stream};

/// See the module text.
#[derive(Debug)]
pub(crate) struct Etcd {
    client: Client,
    /// All keys begin so.
    prefix: String,
    lease_s: u64,
    /// Granted, and not known to be over.
    lease: Option<String>,
    /// The entry was made under `lease`.
    has_claim: bool,
    watch: Option<Stream>,
}

impl Etcd {
    pub(crate) fn new(config: &MembershipConfig) -> Result<Self, RegistryError> {
        Ok(Self {
            client: Client::new(config)?,
            prefix: format!("{}/gateways/", config.prefix),
            lease_s: config.lease.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX),
            lease: None,
            has_claim: false,
            watch: None,
        })
    }

    pub(crate) fn lease(&self) -> Duration {
        Duration::from_secs(self.lease_s)
    }

    pub(crate) fn has_claim(&self) -> bool {
        self.has_claim
    }

    pub(crate) async fn renew(&mut self) -> Result<(), RegistryError> {
        let Some(lease) = &self.lease else { return Ok(()) };
        let answer = self.client.ask("lease/keepalive", &json!({ "ID": lease })).await?;
        if number(&answer["result"]["TTL"]) == 0 {
            self.lease = None;
            self.has_claim = false;
            return Err(RegistryError::LeaseOver);
        }
        Ok(())
    }

    pub(crate) async fn entries(&mut self) -> Result<Vec<Entry>, RegistryError> {
        let range = json!({ "key": encode(&self.prefix), "range_end": encode(&self.range_end()) });
        let answer = self.client.ask("kv/range", &range).await?;
        if self.watch.is_none() {
            let from = number(&answer["header"]["revision"]) + 1;
            let watch = json!({ "create_request": {
                "key": range["key"], "range_end": range["range_end"], "start_revision": from.to_string(),
            } });
            self.watch = Some(self.client.open("watch", &watch).await?);
        }
        let pairs = answer["kvs"].as_array().into_iter().flatten();
        Ok(pairs.filter_map(|pair| self.entry(pair)).collect())
    }

    fn entry(&self, pair: &Value) -> Option<Entry> {
        let key = String::from_utf8(decode(&pair["key"])?).ok()?;
        Entry::decode(key.strip_prefix(&self.prefix)?, &decode(&pair["value"])?)
    }

    /// Compare and create: the key is ours when it was not there, or when what is there was made by this process under another lease.
    pub(crate) async fn claim(&mut self, entry: &Entry) -> Result<(), RegistryError> {
        let (existing, revision) = match self.put(entry, "CREATE", "create_revision", 0).await? {
            None => return Ok(()),
            Some(existing) => existing,
        };
        let other = Entry::decode(&entry.name, &existing);
        if other.as_ref().is_some_and(|other| other.incarnation == entry.incarnation)
            && self.put(entry, "MOD", "mod_revision", revision).await?.is_none()
        {
            return Ok(());
        }
        let address = other.map_or_else(|| "an unknown address".to_owned(), |other| other.address);
        Err(RegistryError::NameTaken { name: entry.name.clone(), address })
    }

    /// `None`: done. Else what is there, and its revision.
    async fn put(
        &mut self,
        entry: &Entry,
        target: &str,
        field: &str,
        revision: u64,
    ) -> Result<Option<(Vec<u8>, u64)>, RegistryError> {
        let lease = self.granted().await?;
        let key = encode(&format!("{}{}", self.prefix, entry.name));
        let value = BASE64_STANDARD.encode(entry.encode());
        let transaction = json!({
            "compare": [{ "key": key, "target": target, "result": "EQUAL", field: revision.to_string() }],
            "success": [{ "request_put": { "key": key, "value": value, "lease": lease } }],
            "failure": [{ "request_range": { "key": key } }],
        });
        let answer = self.client.ask("kv/txn", &transaction).await?;
        if answer["succeeded"] == true {
            self.has_claim = true;
            return Ok(None);
        }
        let there = &answer["responses"][0]["response_range"]["kvs"][0];
        Ok(Some((decode(&there["value"]).unwrap_or_default(), number(&there["mod_revision"]))))
    }

    async fn granted(&mut self) -> Result<String, RegistryError> {
        if let Some(lease) = &self.lease {
            return Ok(lease.clone());
        }
        let wanted = json!({ "TTL": self.lease_s.to_string() });
        let answer = self.client.ask("lease/grant", &wanted).await?;
        let lease = answer["ID"].as_str().unwrap_or_default().to_owned();
        self.lease = Some(lease.clone());
        Ok(lease)
    }

    pub(crate) async fn changed(&mut self) -> Result<(), RegistryError> {
        let Some(watch) = &mut self.watch else { return std::future::pending().await };
        loop {
            let line = match watch.next().await {
                Ok(line) if line["result"]["canceled"] != true && line["error"].is_null() => line,
                Ok(line) => {
                    self.watch = None;
                    return Err(RegistryError::Unreachable(format!("the watch ended: {line}")));
                }
                Err(error) => {
                    self.watch = None;
                    return Err(error);
                }
            };
            if line["result"]["events"].is_array() {
                return Ok(());
            }
        }
    }

    /// The entry goes with its lease.
    pub(crate) async fn leave(&mut self) -> Result<(), RegistryError> {
        self.watch = None;
        self.has_claim = false;
        if let Some(lease) = self.lease.take() {
            self.client.ask("lease/revoke", &json!({ "ID": lease })).await?;
        }
        Ok(())
    }

    /// The first key behind all that begin with the prefix: `0` follows `/`.
    fn range_end(&self) -> String {
        format!("{}0", self.prefix.trim_end_matches('/'))
    }
}

fn encode(text: &str) -> String {
    BASE64_STANDARD.encode(text)
}

fn decode(value: &Value) -> Option<Vec<u8>> {
    BASE64_STANDARD.decode(value.as_str()?).ok()
}

/// Zero is left out.
fn number(value: &Value) -> u64 {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or(0)
}
