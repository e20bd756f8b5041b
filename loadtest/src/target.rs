//! Which server a run is about, and how it is let in: from the options, or from a configuration file of the server.

use std::fs;

use anyhow::{Context, Result};
use toml::{Table, Value};

use crate::options::Common;

const SERVER: &str = "127.0.0.1:7401";
const HTTP: &str = "127.0.0.1:7400";

/// Addresses and keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Gateways to connect to, at least one; each may send a user to another.
    pub servers: Vec<String>,
    /// HTTP API.
    pub http: String,
    /// App of the users.
    pub app: String,
    /// Id of the HS256 key that signs their tokens.
    pub key_id: String,
    /// Its secret.
    pub key_secret: String,
    /// For creating users and reading back.
    pub api_key: String,
}

impl Target {
    /// What the options say; where they say nothing the configuration, else `roost dev`.
    ///
    /// # Errors
    /// When the configuration cannot be read or has no app with both keys.
    pub fn of(common: &Common) -> Result<Self> {
        let mut target = match &common.config {
            Some(file) => {
                let text = fs::read_to_string(file)
                    .with_context(|| format!("cannot read {}", file.display()))?;
                Self::of_config(&text).with_context(|| file.display().to_string())?
            }
            None => Self {
                servers: vec![SERVER.to_owned()],
                http: HTTP.to_owned(),
                app: common.app.clone(),
                key_id: common.key_id.clone(),
                key_secret: common.key_secret.clone(),
                api_key: common.api_key.clone(),
            },
        };
        if !common.server.is_empty() {
            target.servers.clone_from(&common.server);
        }
        if let Some(http) = &common.http {
            target.http.clone_from(http);
        }
        Ok(target)
    }

    fn of_config(text: &str) -> Result<Self> {
        let table: Table = text.parse()?;
        let at = |path: [&str; 2]| table.get(path[0]).and_then(|value| value.get(path[1]));
        let listed = |value: Option<&Value>| -> Vec<String> {
            let values = value.and_then(Value::as_array).into_iter().flatten();
            values.filter_map(|value| value.as_str().map(str::to_owned)).collect()
        };
        let mut servers: Vec<String> = listed(at(["cluster", "gateways"]))
            .iter()
            .filter_map(|gateway| Some(gateway.split_once('=')?.1.to_owned()))
            .collect();
        if servers.is_empty() {
            servers.push(SERVER.to_owned());
        }
        let http = at(["logic", "http_listen"]).and_then(Value::as_str).unwrap_or(HTTP).to_owned();
        let apps = at(["logic", "apps"]).and_then(Value::as_array).into_iter().flatten();
        let (app, key_id, key_secret, api_key) = { apps }
            .find_map(|app| {
                let keys = app.get("keys")?.as_array()?;
                let text = |value: &Value, key: &str| value.get(key)?.as_str().map(str::to_owned);
                let key = keys.iter().find(|k| text(k, "algorithm").as_deref() == Some("HS256"))?;
                let api_key = listed(app.get("api_keys")).into_iter().next()?;
                Some((text(app, "id")?, text(key, "id")?, text(key, "secret")?, api_key))
            })
            .context("no [[logic.apps]] has both api_keys and a key of algorithm HS256")?;
        Ok(Self { servers, http, app, key_id, key_secret, api_key })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"
        [cluster]
        gateways = ["gw-1=10.0.0.1:7401", "gw-2=10.0.0.2:7401"]
        [logic]
        http_listen = "10.0.0.3:7400"
        [[logic.apps]]
        id = "first"
        [[logic.apps]]
        id = "second"
        api_keys = ["of a server"]
        [[logic.apps.keys]]
        id = "ed"
        algorithm = "EdDSA"
        secret = "public"
        [[logic.apps.keys]]
        id = "hs"
        algorithm = "HS256"
        secret = "shared"
    "#;

    #[test]
    fn a_configuration_names_all_gateways_and_the_first_usable_app() {
        let target = Target::of_config(CONFIG).unwrap();
        assert_eq!(target.servers, ["10.0.0.1:7401", "10.0.0.2:7401"]);
        assert_eq!(target.http, "10.0.0.3:7400");
        let found = [&target.app, &target.key_id, &target.key_secret, &target.api_key];
        assert_eq!(found, ["second", "hs", "shared", "of a server"]);
    }

    #[test]
    fn a_configuration_without_keys_is_an_error_that_says_so() {
        let error = Target::of_config("[logic]\nhttp_listen = \"a:1\"").unwrap_err().to_string();
        assert!(error.contains("api_keys"), "{error}");
    }
}
