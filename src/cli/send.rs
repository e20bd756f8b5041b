//! `roost send`: one message, and the acknowledgement that it is stored.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail};
use roost_client::core::event::Acked;
use roost_client::{Client, Event, SendTo, Start};
use roost_protocol::RefusalCode;
use roost_protocol::frame::send::MessageKind;

use super::login::{self, Login};

/// Arguments of `roost send`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    login: Login,
    /// The user who gets the message.
    #[arg(long, value_name = "USER")]
    to: String,
    /// Print the acknowledgement as a JSON object.
    #[arg(long)]
    json: bool,
    /// Give up waiting for the acknowledgement after this.
    #[arg(long, value_name = "S", default_value_t = 30)]
    timeout: u64,
    /// What to say.
    text: String,
}

/// Sends and waits. Exit code 0: stored; 3: no acknowledgement in time, the outcome is unknown.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    login::block_on(async {
        let client = args.login.open("send", Start::Latest).await?;
        let limit = Duration::from_secs(args.timeout);
        let outcome = tokio::time::timeout(limit, send(args, &client)).await;
        client.close().await;
        match outcome {
            Ok(acked) => {
                let (acked, latency) = acked?;
                print(args.json, &acked, latency);
                Ok(ExitCode::SUCCESS)
            }
            Err(_) => {
                eprintln!(
                    "error: no acknowledgement within {} s: the message may or may not be stored. The server's log and \
                     /readyz say whether its store works.",
                    args.timeout
                );
                Ok(ExitCode::from(3))
            }
        }
    })
}

async fn send(args: &Args, client: &Client) -> anyhow::Result<(Acked, Duration)> {
    let begin = Instant::now();
    let text = args.text.clone().into_bytes();
    let id = client
        .send(SendTo::User(&args.to), MessageKind::TEXT, text)
        .map_err(|e| anyhow!("the message cannot be sent to {}: {e}", args.to))?;
    loop {
        match client.next_event().await {
            Event::Acked(acked) if acked.client_msg_id == id => {
                return Ok((acked, begin.elapsed()));
            }
            Event::Refused { client_msg_id, code, detail, .. } if client_msg_id == id => {
                bail!("{}", explain(args, code, &detail))
            }
            Event::Disconnected { reason, next } => {
                args.login.on_disconnected(client, &reason, next)?;
            }
            Event::Connected { .. }
            | Event::Acked(_)
            | Event::Refused { .. }
            | Event::Message(_)
            | Event::Receipt(_)
            | Event::Synced { .. }
            | Event::History { .. }
            | Event::RequestRefused { .. } => {}
        }
    }
}

fn explain(args: &Args, code: RefusalCode, detail: &str) -> String {
    let what = format!("the message to {} was refused: {code} ({detail})", args.to);
    if code != RefusalCode::UnknownUser {
        return what;
    }
    format!(
        "{what}\nUsers are made by POST /v1/register, or by your server with its API key at POST /v1/users; `roost dev` has \
         alice and bob."
    )
}

fn print(json: bool, acked: &Acked, latency: Duration) {
    let Acked { client_msg_id, conversation, seq, message_id, .. } = acked;
    let latency_ms = latency.as_secs_f64() * 1000.0;
    if json {
        let latency_ms = (latency_ms * 100.0).round() / 100.0;
        let line = serde_json::json!({
            "conversation": &**conversation,
            "seq": seq,
            "message_id": message_id,
            "client_msg_id": client_msg_id.to_string(),
            "latency_ms": latency_ms,
        });
        println!("{line}");
    } else {
        println!(
            "acked conversation={conversation} seq={seq} message_id={message_id} latency_ms={latency_ms:.2}"
        );
    }
}
