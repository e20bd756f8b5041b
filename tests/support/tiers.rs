//! Gateways and a logic process of their own, with accounts of the app "shop".

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use super::{roost, wait_for};

pub const SECRET: &str = "the secret of the shop's own server, long enough";
pub const API_KEY: &str = "the API key of the shop's own server, long enough";

/// A process of one tier, killed when the test ends.
pub struct Tier(Child);

impl Drop for Tier {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

impl Tier {
    /// SIGTERM, and its end.
    pub fn stop(mut self) {
        let told = Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status();
        assert!(told.expect("kill").success());
        let status = wait_for("the process to end", || self.0.try_wait().expect("wait"));
        assert!(status.success(), "{status}");
    }

    /// As `kill -SIGNAL`.
    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.0.id().to_string()]).status();
        assert!(status.expect("kill").success());
    }

    /// With any free port for the operator's endpoint of logic.
    pub fn start(tier: &str, config: &Path) -> Self {
        Self::start_with(tier, config, 0)
    }

    /// With this port for it.
    pub fn start_with(tier: &str, config: &Path, logic_admin: u16) -> Self {
        let mut command = roost();
        command.args([tier, "--config"]).arg(config).stdout(Stdio::piped());
        command.env("ROOST_LOGIC__ADMIN_LISTEN", format!("127.0.0.1:{logic_admin}"));
        let mut child = command.spawn().expect("roost starts");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let started = Self(child);
        let mut lines = output.lines().map_while(Result::ok);
        assert!(lines.any(|line| line == "ready"), "{tier} ended without being ready");
        started
    }
}

/// The configuration of the app and its key.
pub fn app() -> String {
    format!(
        "[[logic.apps]]\nid = \"shop\"\napi_keys = [{API_KEY:?}]\n[[logic.apps.keys]]\nid = \"shop-1\"\nalgorithm = \"HS256\"\nsecret = {SECRET:?}\n"
    )
}

pub fn register(http_port: u16, users: &[&str]) {
    for user in users {
        let account = serde_json::json!({"app": "shop", "user": user, "password": "correct horse"});
        let url = format!("http://127.0.0.1:{http_port}/v1/register");
        ureq::post(url).send_json(&account).expect("an account");
    }
}

pub fn token(user: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
    header.kid = Some("shop-1".to_owned());
    let claims = serde_json::json!({"app": "shop", "sub": user, "iat": now, "exp": now + 600});
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&header, &claims, &key).expect("a token")
}

/// The access token of POST /v1/login.
pub fn login(http_port: u16, user: &str) -> String {
    let account = serde_json::json!({"app": "shop", "user": user, "password": "correct horse"});
    let url = format!("http://127.0.0.1:{http_port}/v1/login");
    let mut answer = ureq::post(url).send_json(&account).expect("a login");
    let pair: serde_json::Value = answer.body_mut().read_json().expect("tokens");
    pair["access_token"].as_str().expect("an access token").to_owned()
}

/// `roost VERB --as USER --server SERVER REST`.
pub fn act(verb: &str, user: &str, server: &str, rest: &[&str]) -> Command {
    let mut command = roost();
    command.args([verb, "--as", user, "--server", server]).args(rest);
    command.env("ROOST_TOKEN", token(user));
    command
}
