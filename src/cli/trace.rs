//! `roost trace`: where a message is and when it passed each hop, as all processes together remember it.

mod describe;
mod verdict;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use roost_protocol::ClientMsgId;
use roost_trace::http::Answer;
use roost_trace::{Passage, Wanted};

use super::dev::{PORT_ADMIN, PORT_BASE};
use crate::config::Config;
use describe::{Row, describe};
use verdict::{clocks_differ_by_ns, verdict};

/// An endpoint has this long to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Asks every process for what it saw of one message, and prints it in the order of time with a verdict in one line.
///
/// Each process remembers the newest passages of traced messages in memory (trace.sample, trace.passages_per_thread): what is older,
/// or from before a restart, is gone. Times are those of each process's clock: between hosts they differ by as much as the
/// clocks do. Exit codes: 0 found; 1 no process remembers it, or none answers; 2 a wrong command line.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The message: its message_id as `roost send` prints it, or its client_msg_id in 32 hexadecimal digits (`--json` of send and tail).
    #[arg(value_name = "MESSAGE_ID", value_parser = parse_wanted)]
    message: Wanted,
    /// Operator's endpoints to ask, separated by commas. Default: those of --config, else the one of `roost dev`, 127.0.0.1:7409.
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    admin: Vec<String>,
    /// Configuration of a process: gateway.admin_listen and logic.admin_listen in it are asked. Several times for several processes.
    #[arg(long, value_name = "FILE")]
    config: Vec<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

fn parse_wanted(text: &str) -> Result<Wanted, String> {
    let expected = "expected a message_id (a number) or a client_msg_id (32 hexadecimal digits)";
    Wanted::parse(text).ok_or_else(|| expected.to_owned())
}

/// What an endpoint said.
struct Reply {
    endpoint: String,
    said: Result<Answer, String>,
}

/// A passage and who saw it.
struct Seen {
    process: String,
    passage: Passage,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let endpoints = args.endpoints()?;
    let mut replies = ask_all(&endpoints, args.message);
    // Gateways do not know a message by its message_id: logic tells what it is called at its sender.
    let found = answers(&replies).find_map(|(_, answer)| answer.passages.first()).map(|p| p.id);
    if let (Wanted::Message(_), Some(id)) = (args.message, found) {
        replies = ask_all(&endpoints, Wanted::Client(id));
    }
    for Reply { endpoint, said } in &replies {
        if let Err(problem) = said {
            eprintln!("roost: {endpoint} did not answer: {problem}");
        }
    }
    let Some(id) = found else { bail!("{}", explain_nothing(args.message, &replies)) };
    let seen = seen(&replies);
    if args.json {
        println!("{}", json(id, &seen, &replies));
    } else {
        print!("{}", table(id, &seen));
    }
    Ok(ExitCode::SUCCESS)
}

impl Args {
    fn endpoints(&self) -> Result<Vec<String>> {
        let mut endpoints = self.admin.clone();
        for file in &self.config {
            let config = Config::load(file)?;
            let listens = [config.gateway.admin_listen, config.logic.admin_listen];
            endpoints.extend(listens.map(|listen| reachable(listen).to_string()));
        }
        if endpoints.is_empty() {
            endpoints.push(format!("127.0.0.1:{}", PORT_BASE + PORT_ADMIN));
        }
        let mut known = std::collections::HashSet::new();
        endpoints.retain(|endpoint| known.insert(endpoint.clone()));
        Ok(endpoints)
    }
}

/// An address that listens everywhere is asked on this host.
fn reachable(mut listen: SocketAddr) -> SocketAddr {
    if listen.ip().is_unspecified() {
        listen.set_ip(match listen {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        });
    }
    listen
}

fn ask_all(endpoints: &[String], wanted: Wanted) -> Vec<Reply> {
    let id = match wanted {
        Wanted::Client(id) => id.to_string(),
        Wanted::Message(id) => id.to_string(),
    };
    std::thread::scope(|scope| {
        let asked: Vec<_> = endpoints.iter().map(|to| scope.spawn(|| ask(to, &id))).collect();
        let said = asked
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err("the question failed".to_owned())));
        endpoints
            .iter()
            .cloned()
            .zip(said)
            .map(|(endpoint, said)| Reply { endpoint, said })
            .collect()
    })
}

fn ask(endpoint: &str, id: &str) -> Result<Answer, String> {
    let agent = ureq::Agent::config_builder().timeout_global(Some(ANSWER_WITHIN)).build();
    let url = format!("http://{endpoint}/trace/{id}");
    let answer = ureq::Agent::from(agent).get(url).call();
    let mut answer = answer.map_err(|error| {
        if let ureq::Error::StatusCode(404) = error {
            return "it knows no traces: is that the operator's endpoint (7409 of a gateway, 7408 of logic), of this version?".to_owned();
        }
        error.to_string()
    })?;
    answer.body_mut().read_json().map_err(|e| format!("not the answer of this version: {e}"))
}

fn answers(replies: &[Reply]) -> impl Iterator<Item = (&str, &Answer)> {
    replies.iter().filter_map(|reply| Some((reply.endpoint.as_str(), reply.said.as_ref().ok()?)))
}

/// Everything in the order of time; of one moment, in the order of hops.
fn seen(replies: &[Reply]) -> Vec<Seen> {
    let mut seen: Vec<Seen> = answers(replies)
        .flat_map(|(_, answer)| {
            let process = &answer.process;
            answer.passages.iter().map(|p| Seen { process: process.clone(), passage: *p })
        })
        .collect();
    seen.sort_by_key(|seen| (seen.passage.at_ns, seen.passage.hop));
    seen
}

fn explain_nothing(wanted: Wanted, replies: &[Reply]) -> String {
    if answers(replies).next().is_none() {
        return "no process answers: name their operator's endpoints with --admin HOST:PORT,... or --config FILE"
            .to_owned();
    }
    let mut text = String::from("no process remembers this message");
    for (_, answer) in answers(replies) {
        let ago_s = answer.now_ns.saturating_sub(answer.remembers_since_ns) / 1_000_000_000;
        let process = &answer.process;
        text.push_str(&match answer.is_traced {
            true => format!("\n{process} remembers everything of the last {ago_s} s"),
            false => format!("\n{process} does not trace it: trace.sample leaves it out"),
        });
    }
    if let Wanted::Message(_) = wanted {
        text.push_str(
            "\nA message_id is known to logic only: is every logic process among those asked (--admin, --config)?",
        );
    }
    text.push_str(
        "\nWhat is stored stays: the HTTP API shows it by conversation (GET /v1/conversations/{conversation}/messages), \
         `roost tail --from-start` by user. Neither finds a message by its id alone.",
    );
    text
}

fn message_id(seen: &[Seen]) -> Option<u64> {
    seen.iter().map(|seen| seen.passage.message_id).find(|id| *id != 0)
}

fn table(id: ClientMsgId, seen: &[Seen]) -> String {
    let mut text = match message_id(seen) {
        Some(message_id) => format!("message_id {message_id}, client_msg_id {id}\n"),
        None => format!("client_msg_id {id}\n"),
    };
    let rows: Vec<Row> = describe(seen);
    let heads = ["time (UTC)", "since first", "process", "hop"];
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row.0[column].chars().count());
        cells.chain([heads[column].len()]).max().unwrap_or_default()
    };
    let [time, delta, process, hop] = [0, 1, 2, 3].map(width);
    let line = |[a, b, c, d, detail]: [&str; 5]| {
        let line = format!("{a:time$}  {b:>delta$}  {c:process$}  {d:hop$}  {detail}");
        format!("{}\n", line.trim_end())
    };
    text.push_str(&line([heads[0], heads[1], heads[2], heads[3], "detail"]));
    for Row(cells) in &rows {
        text.push_str(&line([0, 1, 2, 3, 4].map(|cell| cells[cell].as_str())));
    }
    if let Some(ns) = clocks_differ_by_ns(seen) {
        let ms = ns as f64 / 1e6;
        text.push_str(&format!(
            "note: the clocks of these processes differ by {ms:.3} ms or more\n"
        ));
    }
    text.push_str(&format!("verdict: {}\n", verdict(seen)));
    text
}

fn json(id: ClientMsgId, seen: &[Seen], replies: &[Reply]) -> serde_json::Value {
    let passages: Vec<_> = seen
        .iter()
        .map(|seen| {
            let mut value = serde_json::json!(seen.passage);
            value["process"] = serde_json::json!(seen.process);
            value
        })
        .collect();
    let processes = answers(replies).map(|(endpoint, answer)| {
        serde_json::json!({
            "process": answer.process,
            "endpoint": endpoint,
            "now_ns": answer.now_ns,
            "remembers_since_ns": answer.remembers_since_ns,
        })
    });
    let silent = replies.iter().filter(|reply| reply.said.is_err()).map(|reply| &reply.endpoint);
    serde_json::json!({
        "client_msg_id": id.to_string(),
        "message_id": message_id(seen),
        "verdict": verdict(seen),
        "passages": passages,
        "processes": processes.collect::<Vec<_>>(),
        "unanswered": silent.collect::<Vec<_>>(),
    })
}
