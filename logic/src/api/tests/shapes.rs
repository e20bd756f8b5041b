//! The shape of errors, and that the document tells the truth about the routes.

use super::*;

/// Every error is a problem document with a stable code and a hint.
#[tokio::test]
async fn errors_are_problem_documents() {
    let server = Server::with(|config| {
        config.http.logins_per_minute = 1;
        config.http.body_bytes_max = 2_000;
    })
    .await;
    server.register("carol").await;
    let long = json!({"users": ["x".repeat(3_000)]});
    for (answer, status, code) in [
        (server.get("/v1/nothing", "").await, 404, "not_found"),
        (server.get("/v1/login", "").await, 405, "method_not_allowed"),
        (server.get("/v1/me", "").await, 401, "unauthorized"),
        (server.get("/v1/me", "no.such.token").await, 401, "unauthorized"),
        (server.get("/v1/me", dev::API_KEY).await, 400, "invalid"),
        (
            server.post("/v1/login", "", json!({"user": "carol", "password": "x"})).await,
            429,
            "rate_limited",
        ),
        (server.post("/v1/users", dev::API_KEY, json!({"user": []})).await, 400, "invalid"),
        (server.post("/v1/users", dev::API_KEY, json!({"users": ["a b"]})).await, 400, "invalid"),
        (server.post("/v1/users", dev::API_KEY, long).await, 413, "body_too_large"),
        (server.raw(Method::POST, "/v1/refresh", "", b"{".to_vec()).await, 400, "invalid"),
        (server.get("/v1/conversations/nonsense/messages", dev::API_KEY).await, 400, "invalid"),
        (
            server.get("/v1/conversations/s:a:b/messages?limit=201", dev::API_KEY).await,
            400,
            "invalid",
        ),
        (server.get("/v1/conversations/s:a:b/messages?lim=2", dev::API_KEY).await, 400, "invalid"),
        (
            server.get("/v1/conversations/s:a:b/messages", dev::API_KEY).await,
            404,
            "unknown_conversation",
        ),
        (
            server.post("/v1/messages", dev::API_KEY, json!({"client_msg_id": "1"})).await,
            400,
            "invalid",
        ),
    ] {
        assert_eq!(
            (answer.status.as_u16(), &answer.body["code"]),
            (status, &json!(code)),
            "{}",
            answer.body
        );
        assert_eq!(answer.headers[header::CONTENT_TYPE], "application/problem+json");
        assert_eq!(answer.body["status"], status);
        assert_eq!(answer.body["type"], format!("urn:roost:problem:{code}"));
        assert!(!text(&answer.body["title"]).is_empty() && !text(&answer.body["hint"]).is_empty());
        assert_eq!(status == 429, answer.headers.contains_key(header::RETRY_AFTER));
    }
}

/// The document lists every route of the router with its methods, and nothing else.
#[tokio::test]
async fn the_document_lists_every_route() {
    let server = Server::start().await;
    let document = server.get("/v1/openapi.json", "").await.body;
    assert!(text(&document["openapi"]).starts_with("3."));
    let source = include_str!("../../api.rs");
    let mut routed: Vec<String> = Vec::new();
    for line in source.lines().filter_map(|line| line.trim().strip_prefix(".route(\"")) {
        let (path, rest) = line.split_once('"').unwrap();
        for method in ["get", "put", "post", "delete"] {
            if rest.contains(&format!("{method}(")) {
                routed.push(format!("{method} {path}"));
            }
        }
    }
    let mut listed: Vec<String> = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        listed.extend(item.as_object().unwrap().keys().map(|method| format!("{method} {path}")));
    }
    routed.sort();
    listed.sort();
    assert_eq!(routed, listed);
    assert!(routed.len() > 12);
    assert_eq!(document["components"]["securitySchemes"]["bearer"]["scheme"], "bearer");
}

#[tokio::test]
async fn the_key_set_is_public() {
    let server = Server::start().await;
    let keys = server.get("/.well-known/jwks.json", "").await.body;
    assert_eq!(keys["keys"][0]["alg"], "EdDSA");
    assert_eq!(keys["keys"].as_array().unwrap().len(), 1, "no secret of an app");
}
