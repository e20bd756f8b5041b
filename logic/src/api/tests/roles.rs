//! Who may do what: every operation on the conversation of alice and bob, by every role.

use super::*;
use crate::config::AppConfig;

const OTHER_API_KEY: &str = "a-secret-of-a-server-of-another-app";

/// `(operation, [anonymous, forged, alice, carol, own server, other app's server])`, as HTTP status. Carol is a stranger to the
/// conversation; the other app has users of the same names and no conversation.
const MATRIX: [(&str, [u16; 6]); 11] = [
    ("GET /v1/conversations/s:alice:bob/messages", [401, 401, 200, 404, 200, 404]),
    ("GET /v1/conversations/s:alice:bob/watermarks", [401, 401, 200, 404, 200, 200]),
    ("POST /v1/conversations/s:alice:bob/receipts {\"seq\":1}", [401, 401, 202, 404, 400, 400]),
    (
        "POST /v1/conversations/s:alice:bob/receipts {\"seq\":1,\"user\":\"alice\"}",
        [401, 401, 202, 403, 202, 202],
    ),
    ("GET /v1/users/alice/inbox", [401, 401, 200, 403, 200, 200]),
    ("POST /v1/users {\"users\":[\"dave\"]}", [401, 401, 403, 403, 200, 200]),
    ("GET /v1/locate", [401, 401, 200, 200, 400, 400]),
    ("GET /v1/locate?user=alice", [401, 401, 200, 403, 200, 200]),
    ("GET /v1/me", [401, 401, 200, 200, 400, 400]),
    ("POST /v1/messages as alice to bob", [401, 401, 200, 403, 200, 200]),
    ("POST /v1/messages into s:alice:bob", [401, 401, 200, 404, 400, 400]),
];

fn body(text: &str, id: usize) -> Vec<u8> {
    let mut message = json!({"client_msg_id": format!("{id:032x}"), "text": "x"});
    if text == "as alice to bob" {
        message["sender"] = json!("alice");
        message["to_user"] = json!("bob");
    } else if text == "into s:alice:bob" {
        message["conversation"] = json!("s:alice:bob");
    } else {
        return text.as_bytes().to_vec();
    }
    message.to_string().into_bytes()
}

#[tokio::test]
async fn every_operation_by_every_role() {
    let server = Server::with(|config| {
        let api_keys = vec![OTHER_API_KEY.to_owned()];
        config.apps.push(AppConfig { id: "other".to_owned(), api_keys, ..AppConfig::default() });
    })
    .await;
    let register = |user| {
        let body = json!({"app": "demo", "user": user, "password": "correct horse"});
        async { server.post("/v1/register", "", body).await.body["access_token"].clone() }
    };
    let (alice, carol) = (register("alice").await, register("carol").await);
    server.add_users(&["bob"]).await;
    let others = json!({"users": ["alice", "bob"]});
    server.post("/v1/users", OTHER_API_KEY, others).await;
    let first = message(Some("alice"), "bob", 1, "hello");
    assert_eq!(server.post("/v1/messages", dev::API_KEY, first).await.status, StatusCode::OK);
    let mut forged = text(&carol).to_owned();
    forged.replace_range(forged.len() - 6.., "AAAAAA");
    let roles = ["", &forged, text(&alice), text(&carol), dev::API_KEY, OTHER_API_KEY];
    for (row, (operation, expected)) in MATRIX.iter().enumerate() {
        let mut parts = operation.splitn(3, ' ');
        let method: Method = parts.next().unwrap().parse().unwrap();
        let (path, text) = (parts.next().unwrap(), parts.next().unwrap_or_default());
        let mut statuses = [0; 6];
        for (column, role) in roles.iter().enumerate() {
            let body = body(text, 100 + 10 * row + column);
            statuses[column] = server.raw(method.clone(), path, role, body).await.status.as_u16();
        }
        assert_eq!(statuses, *expected, "{operation}");
    }
    let (theirs, ours) = (
        server.get("/v1/users/alice/inbox", OTHER_API_KEY).await,
        server.get("/v1/users/alice/inbox", dev::API_KEY).await,
    );
    assert_eq!(theirs.body["latest_inbox_seq"], 1, "apps are apart");
    assert_eq!(ours.body["latest_inbox_seq"], 4);
}
