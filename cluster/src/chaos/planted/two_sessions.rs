//! Two sessions of one device at two gateways, as while a ring changes: what the older one says late must not be placed after what the newer
//! one said.
//!
//! ```text
//!   older ── connects to gw-1, which then hears nothing ── sends "first" ................... arrives ── stale
//!   newer ──────────────────────────────────── connects to gw-2, sends "second": acknowledged
//! ```
//! A client that sends again in order never needs the rule, because its late copies are known already: this device lost its send queue.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Parser as _;
use roost_client::core::SendTo;
use roost_client::core::config::Config;
use roost_client::core::event::{Acked, Event};
use roost_client::tokio_client::Client;
use roost_loadtest::checker::{
    Expectations, History, Record, Verdict, answer_digest, judge, payload_hash,
};
use roost_loadtest::clock::RunClock;
use roost_loadtest::credential::TokenMint;
use roost_loadtest::http::HttpClient;
use roost_loadtest::options::{Command, Options};
use roost_loadtest::target::Target;
use roost_protocol::ClientMsgId;
use roost_protocol::frame::send::MessageKind;

use super::super::partition::Cut;
use super::super::schedule::Way;
use crate::cluster::{Cluster, Service};

const DEVICE: &str = "phone";
const WITHIN: Duration = Duration::from_secs(20);

/// Plays it and judges what was recorded.
pub(super) fn play(cluster: &Cluster) -> Result<Verdict> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match tokio::time::timeout(WITHIN, record(cluster)).await {
            Ok(history) => {
                let expected = Expectations { acks_min: 1, ..Expectations::default() };
                Ok(judge(&history?, &expected))
            }
            Err(_) => bail!("the two sessions got no answer within {WITHIN:?}"),
        }
    })
}

async fn record(cluster: &Cluster) -> Result<History> {
    let target = target(cluster)?;
    let (sender, receiver) = (name(), name());
    let http = HttpClient::new(&target.http, &target.api_key);
    http.create_users(&[sender.clone(), receiver.clone()])?;
    let (clock, mut history) = (RunClock::start(), History::new());
    let conversation = history.single_chat(&sender, &receiver);
    let user = history.user(&sender);
    let device = history.device(user, DEVICE);

    let mut send = |client: &Client, body: &'static str| -> Result<ClientMsgId> {
        let id = client.send(SendTo::User(&receiver), MessageKind::TEXT, body)?;
        let (hash, at_us) = (payload_hash(body.as_bytes()), clock.now_us());
        let message = history.message(user, u128::from_be_bytes(id.0));
        let record = Record::Send { device, conversation, message, hash, intended_us: at_us };
        history.record(at_us, record);
        Ok(id)
    };
    let older = connect(&target, &sender, 0).await?;
    let cut = Cut::make(cluster.port_of(Service::Gateway(0)), Way::To)?;
    send(&older, "first")?;
    let newer = connect(&target, &sender, 1).await?;
    let second = send(&newer, "second")?;
    let mut answers = vec![("second", answer(&newer).await.context("the newer one was refused")?)];
    anyhow::ensure!(answers[0].1.client_msg_id == second, "another message was acknowledged");
    // The kernel repeats what was dropped.
    drop(cut);
    answers.extend(answer(&older).await.map(|acked| ("first", acked)));
    // Before it comes back as a newer session itself.
    drop(older);
    for (body, acked) in answers {
        let record = Record::Ack {
            device,
            conversation,
            message: history.message(user, u128::from_be_bytes(acked.client_msg_id.0)),
            hash: payload_hash(body.as_bytes()),
            seq: acked.seq,
            answer: answer_digest(acked.message_id, acked.server_time_ms),
        };
        history.record(clock.now_us(), record);
    }
    let name = format!("s:{}:{}", (&sender).min(&receiver), (&sender).max(&receiver));
    http.read_conversation(&mut history, conversation, &name, (clock.now_us(), 1))?;
    Ok(history)
}

/// Names and keys as a load has them.
fn target(cluster: &Cluster) -> Result<Target> {
    let config = format!("--config={}", cluster.client_file().display());
    let line = ["roost-load", "chat", "--users=2", "--rate=1", &config];
    match Options::try_parse_from(line)?.command {
        Command::Chat(chat) => Target::of(&chat.common),
        Command::Idle(_) | Command::Judge(_) => bail!("it is a chat"),
    }
}

fn name() -> String {
    format!("two-{:016x}", fastrand::u64(..))
}

/// A session of the device at the gateway `index`.
async fn connect(target: &Target, user: &str, index: usize) -> Result<Client> {
    let mut config = Config::new(user, DEVICE, &target.servers[index], fastrand::u128(..));
    let mint = TokenMint::new(&target.app, &target.key_id, &target.key_secret);
    config.token = Some(mint.token(user));
    let client = Client::connect(config)?;
    loop {
        match client.next_event().await {
            Event::Connected { .. } => return Ok(client),
            Event::Disconnected { reason, .. } => bail!("gateway {index}: {reason}"),
            Event::Acked(_)
            | Event::Refused { .. }
            | Event::Message(_)
            | Event::Receipt(_)
            | Event::Synced { .. }
            | Event::History { .. }
            | Event::RequestRefused { .. } => {}
        }
    }
}

/// The acknowledgement, or none when the session is over.
async fn answer(client: &Client) -> Option<Acked> {
    loop {
        match client.next_event().await {
            Event::Acked(acked) => return Some(acked),
            Event::Disconnected { .. } | Event::Refused { .. } => return None,
            Event::Connected { .. }
            | Event::Message(_)
            | Event::Receipt(_)
            | Event::Synced { .. }
            | Event::History { .. }
            | Event::RequestRefused { .. } => {}
        }
    }
}
