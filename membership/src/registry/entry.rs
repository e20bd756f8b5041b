//! What a gateway enters in a registry: JSON under PREFIX/gateways/NAME.

use serde::{Deserialize, Serialize};

use crate::ring::{Member, Ring};

/// A gateway's entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) name: String,
    /// `host:port` for clients.
    pub(crate) address: String,
    /// 0 until it accepts clients, and when it leaves: it has the name, and no users.
    pub(crate) weight: u16,
    /// Another one for each process, so that a process knows its own entry.
    pub(crate) incarnation: String,
}

impl Entry {
    pub(crate) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and a number")
    }

    /// What stands under a name. `None` for what is no entry of that name: it is left out, and does not spoil the list.
    pub(crate) fn decode(name: &str, bytes: &[u8]) -> Option<Self> {
        let entry: Self = serde_json::from_slice(bytes).ok()?;
        let is_usable = entry.name == name && Ring::new(vec![entry.member()]).is_ok();
        is_usable.then_some(entry)
    }

    pub(crate) fn member(&self) -> Member {
        Member {
            name: self.name.as_str().into(),
            address: self.address.as_str().into(),
            weight: self.weight,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_survive_and_damage_is_none() {
        let text =
            r#"{"name":"gw-1","address":"h:1","weight":2,"incarnation":"1f","since":"later"}"#;
        let entry = Entry::decode("gw-1", text.as_bytes()).unwrap();
        assert_eq!(Entry::decode("gw-1", &entry.encode()), Some(entry));
        let damaged = [
            ("gw-2", text.to_owned()),
            ("gw-1", r#"{"name":"gw-1"}"#.to_owned()),
            ("gw-1", text.replace("h:1", "nowhere")),
        ];
        for (name, text) in damaged {
            assert_eq!(Entry::decode(name, text.as_bytes()), None, "{text}");
        }
    }
}
