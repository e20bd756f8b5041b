//! `roost tail`: a user's messages as they come, one line each. What is printed is acknowledged, nothing else.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use roost_client::{Client, Event, Message, Start};
use roost_protocol::frame::send::MessageKind;

use super::login::{self, Login};

/// Arguments of `roost tail`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    login: Login,
    /// Print JSON, one object a line.
    #[arg(long)]
    json: bool,
    /// Begin with the oldest message instead of the next one.
    #[arg(long)]
    from_start: bool,
    /// End after so many messages, with exit code 0.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// End after so many seconds, with exit code 3.
    #[arg(long, value_name = "S")]
    timeout: Option<f64>,
}

/// How the output ended.
enum End {
    Counted,
    Interrupted,
    /// Nobody reads any more.
    OutputClosed,
}

/// Prints until the count, the timeout, an interrupt or the reader's end.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let timeout = args.timeout.map(Duration::try_from_secs_f64).transpose();
    let timeout = timeout.map_err(|e| anyhow::anyhow!("--timeout: {e}"))?;
    login::block_on(async {
        let limit = async {
            match timeout {
                Some(timeout) => tokio::time::sleep(timeout).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(limit);
        let start = if args.from_start { Start::Saved } else { Start::Latest };
        let client = tokio::select! {
            client = args.login.open("tail", start) => client?,
            () = &mut limit => return Ok(ExitCode::from(3)),
        };
        let end = tokio::select! {
            end = print_all(args, &client) => Some(end?),
            interrupted = tokio::signal::ctrl_c() => {
                interrupted?;
                Some(End::Interrupted)
            }
            () = limit => None,
        };
        client.close().await;
        Ok(match end {
            Some(End::Counted | End::Interrupted | End::OutputClosed) => ExitCode::SUCCESS,
            None => ExitCode::from(3),
        })
    })
}

async fn print_all(args: &Args, client: &Client) -> anyhow::Result<End> {
    let mut left = args.count.unwrap_or(u64::MAX);
    let mut announced = false;
    while left > 0 {
        match client.next_event().await {
            Event::Message(message) => {
                match print(args.json, &message) {
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                        return Ok(End::OutputClosed);
                    }
                    printed => printed?,
                }
                left -= 1;
            }
            Event::Synced { inbox_seq } if !announced => {
                announced = true;
                eprintln!("tailing as {} from inbox position {inbox_seq}", args.login.user);
            }
            Event::Disconnected { reason, next } => {
                args.login.on_disconnected(client, &reason, next)?;
            }
            Event::Connected { .. }
            | Event::Acked(_)
            | Event::Refused { .. }
            | Event::Receipt(_)
            | Event::Synced { .. }
            | Event::History { .. }
            | Event::RequestRefused { .. } => {}
        }
    }
    Ok(End::Counted)
}

fn print(json: bool, message: &Message) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        let line = serde_json::json!({
            "conversation": &*message.conversation,
            "seq": message.seq,
            "message_id": message.message_id,
            "sender": &*message.sender,
            "client_msg_id": message.client_msg_id.to_string(),
            "text": String::from_utf8_lossy(&message.body),
            "server_time_ms": message.server_time_ms,
        });
        writeln!(out, "{line}")?;
    } else {
        let Message { conversation, seq, sender, .. } = message;
        writeln!(out, "{conversation} {seq} {sender} {}", text(message))?;
    }
    out.flush()
}

/// The body on one line: nothing a sender writes can forge a line or steer the terminal.
fn text(message: &Message) -> String {
    if message.kind != MessageKind::TEXT {
        return format!("[kind {}, {} bytes]", message.kind.0, message.body.len());
    }
    let mut line = String::new();
    for c in String::from_utf8_lossy(&message.body).chars() {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(kind: MessageKind, body: &'static [u8], expected: &str) {
        let message = Message {
            conversation: "s:alice:bob".into(),
            seq: 1,
            inbox_seq: 1,
            message_id: 1,
            sender: "alice".into(),
            client_msg_id: roost_protocol::ClientMsgId([0; 16]),
            kind,
            body: body.into(),
            server_time_ms: 1,
            from_this_device: false,
        };
        assert_eq!(text(&message), expected);
    }

    #[test]
    fn a_message_is_one_line() {
        check(MessageKind::TEXT, b"hello there", "hello there");
        check(MessageKind::TEXT, "h\u{e9}llo \u{1f44b}".as_bytes(), "h\u{e9}llo \u{1f44b}");
        check(MessageKind::TEXT, b"a\nb\x1b[2J", "a\\nb\\u{1b}[2J");
        check(MessageKind::TEXT, b"\xff", "\u{fffd}");
        check(MessageKind::CUSTOM, b"12345", "[kind 8, 5 bytes]");
    }
}
