//! The two calls of the HTTP API that the load test makes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::{Store, Stored};

pub(super) fn serve(listener: &TcpListener, store: &Arc<Mutex<Store>>) {
    for stream in listener.incoming().map_while(Result::ok) {
        let store = Arc::clone(store);
        std::thread::spawn(move || answer(stream, &store));
    }
}

fn answer(mut stream: TcpStream, store: &Mutex<Store>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut lines = reader.by_ref().lines().map_while(Result::ok);
    let Some(request) = lines.next() else { return };
    let headers: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let header = |name: &str| {
        let mut pairs = headers.iter().filter_map(|line| line.split_once(": "));
        pairs.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    };
    let size = header("content-length").and_then(|n| n.parse().ok()).unwrap_or(0);
    let mut body = vec![0; size];
    reader.read_exact(&mut body).unwrap();
    let path = request.split(' ').nth(1).unwrap();
    let answer = if request.starts_with("POST /v1/users ") {
        let users: Value = serde_json::from_slice(&body).unwrap();
        json!({ "created": users["users"].as_array().unwrap().len() })
    } else {
        page(path, &store.lock().unwrap())
    };
    let text = answer.to_string();
    let _ = write!(
        stream,
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{text}",
        text.len()
    );
}

/// `/v1/conversations/{id}/messages?after=N&limit=N`
fn page(path: &str, store: &Store) -> Value {
    let (path, query) = path.split_once('?').unwrap();
    let name = path.split('/').nth(3).unwrap().replace("%3A", ":");
    let number = |key: &str| -> u64 {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(k, _)| *k == key).unwrap().1.parse().unwrap()
    };
    let (after, limit) = (number("after"), number("limit") as usize);
    let empty = Vec::new();
    let log = store.conversations.get(&name).unwrap_or(&empty);
    let json_of = |stored: &Stored| {
        json!({
            "seq": stored.seq,
            "sender": stored.sender,
            "client_msg_id": format!("{:032x}", u128::from_be_bytes(stored.client_msg_id.0)),
            "text": String::from_utf8_lossy(&stored.body),
        })
    };
    let messages: Vec<Value> = log
        .iter()
        .filter(|stored| stored.seq > after)
        .filter(|stored| !store.lost.contains(&(name.clone(), stored.seq)))
        .take(limit)
        .map(json_of)
        .collect();
    json!({ "messages": messages })
}
