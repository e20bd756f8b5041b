//! Accounts, tokens, and messages of both kinds of callers.

use std::sync::atomic::Ordering;

use super::*;

/// Register, log in, use the token, refresh, log out.
#[tokio::test]
async fn an_account_lives() {
    let server = Server::start().await;
    let registered = server.register("carol").await;
    let me = server.get("/v1/me", text(&registered["access_token"])).await;
    assert_eq!((me.status, &me.body["user"]), (StatusCode::OK, &json!("carol")));
    let changed = server
        .raw(
            Method::PUT,
            "/v1/me",
            text(&registered["access_token"]),
            json!({"display_name": "Carol"}).to_string().into_bytes(),
        )
        .await;
    assert_eq!(changed.body["display_name"], "Carol");
    let again =
        server.post("/v1/register", "", json!({"user": "carol", "password": "other horse"})).await;
    assert_eq!((again.status, &again.body["code"]), (StatusCode::CONFLICT, &json!("conflict")));
    let login = server
        .post("/v1/login", "", json!({"app": "demo", "user": "carol", "password": "correct horse"}))
        .await;
    assert_eq!(login.status, StatusCode::OK);
    for (user, password) in [("carol", "wrong horse"), ("nobody", "correct horse")] {
        let body = json!({"user": user, "password": password});
        let refused = server.post("/v1/login", "", body).await;
        assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
        assert_eq!(refused.body["code"], "wrong_credentials");
    }
    let refresh_token = json!({"refresh_token": login.body["refresh_token"]});
    let out = server.post("/v1/logout", "", refresh_token.clone()).await;
    assert_eq!(out.status, StatusCode::NO_CONTENT);
    let refused = server.post("/v1/refresh", "", refresh_token).await;
    assert_eq!(refused.body["code"], "refresh_invalid");
}

/// A repeat within the grace gives the same successor; later the whole login is revoked.
#[tokio::test]
async fn refresh_tokens_rotate_with_a_grace() {
    let server = Server::start().await;
    let first = server.register("carol").await["refresh_token"].clone();
    let refresh = |token: &Value| {
        let body = json!({"refresh_token": token});
        async { server.post("/v1/refresh", "", body).await }
    };
    let second = refresh(&first).await;
    assert_eq!(second.status, StatusCode::OK);
    server.time.fetch_add(59_000, Ordering::Relaxed);
    let repeated = refresh(&first).await;
    assert_eq!(repeated.body["refresh_token"], second.body["refresh_token"], "the same successor");
    let third = refresh(&second.body["refresh_token"]).await;
    assert_eq!(third.status, StatusCode::OK);
    server.time.fetch_add(2_000, Ordering::Relaxed);
    let reused = refresh(&first).await;
    assert_eq!(
        (reused.status, &reused.body["code"]),
        (StatusCode::UNAUTHORIZED, &json!("refresh_reused"))
    );
    let revoked = refresh(&third.body["refresh_token"]).await;
    assert_eq!(revoked.body["code"], "refresh_invalid", "the family is revoked");
}

#[tokio::test]
async fn tokens_expire() {
    let server = Server::start().await;
    let tokens = server.register("carol").await;
    let path = "/v1/me";
    server.time.fetch_add(15 * 60_000 + 30_000, Ordering::Relaxed);
    let expired = server.get(path, text(&tokens["access_token"])).await;
    assert_eq!(
        (expired.status, &expired.body["code"]),
        (StatusCode::UNAUTHORIZED, &json!("token_expired"))
    );
    server.time.fetch_add(30 * 24 * 3_600_000, Ordering::Relaxed);
    let body = json!({"refresh_token": tokens["refresh_token"]});
    assert_eq!(server.post("/v1/refresh", "", body).await.body["code"], "refresh_invalid");
}

/// A server sends for a user, a user for itself; the repeat is the same answer; both find the message.
#[tokio::test]
async fn messages_go_through_the_bus() {
    let server = Server::start().await;
    server.add_users(&["alice", "bob"]).await;
    server.add_users(&["alice", "bob", "dave"]).await;
    let carol = server.register("carol").await;
    let carol = text(&carol["access_token"]);
    let sent =
        server.post("/v1/messages", dev::API_KEY, message(Some("alice"), "bob", 1, "hello")).await;
    assert_eq!((sent.status, &sent.body["seq"]), (StatusCode::OK, &json!(1)), "{}", sent.body);
    let again =
        server.post("/v1/messages", dev::API_KEY, message(Some("alice"), "bob", 1, "hello")).await;
    assert_eq!(again.body, sent.body, "the same answer");
    let reuse =
        server.post("/v1/messages", dev::API_KEY, message(Some("alice"), "bob", 1, "other")).await;
    assert_eq!((reuse.status, &reuse.body["code"]), (StatusCode::CONFLICT, &json!("id_reuse")));
    let own = server.post("/v1/messages", carol, message(None, "alice", 2, "from carol")).await;
    assert_eq!(own.body["conversation"], "s:alice:carol");
    let forged = server.post("/v1/messages", carol, message(Some("bob"), "alice", 3, "x")).await;
    assert_eq!(forged.status, StatusCode::FORBIDDEN);
    let nobody = server.post("/v1/messages", carol, message(None, "nobody", 4, "x")).await;
    assert_eq!(
        (nobody.status, &nobody.body["code"]),
        (StatusCode::NOT_FOUND, &json!("unknown_user"))
    );

    let page =
        server.get("/v1/conversations/s:alice:bob/messages?after=0&limit=10", dev::API_KEY).await;
    assert_eq!(page.body["messages"][0]["text"], "hello");
    assert_eq!((&page.body["latest_seq"], &page.body["more"]), (&json!(1), &json!(false)));
    let inbox = server.get("/v1/users/alice/inbox?after=0", dev::API_KEY).await;
    assert_eq!(inbox.body["entries"].as_array().unwrap().len(), 2);
    assert_eq!(inbox.body["entries"][1]["sender"], "carol");
}

/// What a user may read is what it is a member of; absent and forbidden look the same.
#[tokio::test]
async fn users_read_what_is_theirs() {
    let server = Server::start().await;
    server.add_users(&["alice", "bob"]).await;
    let carol = server.register("carol").await;
    let carol = text(&carol["access_token"]);
    server.post("/v1/messages", dev::API_KEY, message(Some("alice"), "bob", 1, "hello")).await;
    for path in [
        "/v1/conversations/s:alice:bob/messages",
        "/v1/conversations/s:bob:nobody/messages",
        "/v1/conversations/s:alice:bob/watermarks",
    ] {
        let refused = server.get(path, carol).await;
        assert_eq!(
            (refused.status, &refused.body["code"]),
            (StatusCode::NOT_FOUND, &json!("unknown_conversation"))
        );
    }
    assert_eq!(server.get("/v1/users/alice/inbox", carol).await.status, StatusCode::FORBIDDEN);
    assert_eq!(server.get("/v1/users/carol/inbox", carol).await.status, StatusCode::OK);
    assert_eq!(
        server.post("/v1/users", carol, json!({"users": []})).await.status,
        StatusCode::FORBIDDEN
    );
    let receipt = json!({"user": "bob", "seq": 1});
    let told = server.post("/v1/conversations/s:alice:bob/receipts", dev::API_KEY, receipt).await;
    assert_eq!(told.status, StatusCode::ACCEPTED);
    let path = "/v1/conversations/s:alice:bob/watermarks";
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        let page = server.get(path, dev::API_KEY).await;
        let bob = page.body["members"][1].clone();
        if bob == json!({"user": "bob", "delivered_seq": 0, "read_seq": 1}) {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{bob}");
        tokio::task::yield_now().await;
    }
}

/// To its members a single chat is there before its first message; a stranger cannot tell it from one that is not.
#[tokio::test]
async fn a_chat_without_messages_is_empty_for_its_members() {
    let server = Server::start().await;
    server.add_users(&["alice"]).await;
    let (carol, dave) = (server.register("carol").await, server.register("dave").await);
    let (carol, dave) = (text(&carol["access_token"]), text(&dave["access_token"]));
    let path = "/v1/conversations/s:alice:carol/messages";
    let page = server.get(path, carol).await;
    let empty = json!({
        "conversation": "s:alice:carol", "messages": [], "latest_seq": 0, "more": false
    });
    assert_eq!((page.status, page.body), (StatusCode::OK, empty));
    let before = server.get(path, dave).await;
    server.post("/v1/messages", carol, message(None, "alice", 1, "hello")).await;
    assert_eq!(server.get(path, carol).await.body["latest_seq"], 1);
    let after = server.get(path, dave).await;
    assert_eq!((before.status, after.status), (StatusCode::NOT_FOUND, StatusCode::NOT_FOUND));
    assert_eq!(before.body, after.body, "absent and forbidden look the same");
}

#[tokio::test]
async fn a_user_is_located() {
    let server = Server::start().await;
    let carol = server.register("carol").await;
    let located = server.get("/v1/locate", text(&carol["access_token"])).await;
    assert_eq!(located.body, json!({"gateway": "gw-1", "address": "127.0.0.1:7401"}));
    assert_eq!(server.get("/v1/locate?user=bob", dev::API_KEY).await.status, StatusCode::OK);
}
