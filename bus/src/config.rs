//! Configuration of the bus, the same for both tiers.

use std::time::Duration;

use lapin::uri::{AMQPScheme, AMQPUri};
use roost_config::{ConfigError, documented, milliseconds};
use roost_protocol::topology::{PARTITIONS_DEFAULT, PARTITIONS_MAX};

documented! {
    /// What connects the two tiers: RabbitMQ.
    pub struct BusConfig {
        /// Ordered shares of the conversations, handled side by side by logic workers. Fixed for the life of a cluster.
        partitions ("partitions"): u16 = PARTITIONS_DEFAULT;
        /// The broker, as amqp://HOST:PORT/VHOST; "/%2f" is the default virtual host. `roost dev` needs none.
        url ("url"): String = "amqp://127.0.0.1:5672/%2f".to_owned();
        /// User at the broker. Empty: the one in the url, else guest.
        user ("user"): String = String::new();
        /// Its password. Better given as the environment variable ROOST_BUS__PASSWORD than written here.
        password ("password"): String = String::new();
        /// How long connecting and declaring may take, in milliseconds.
        #[serde(with = "milliseconds")]
        connect_timeout ("connect_timeout_ms"): Duration = Duration::from_secs(10);
        /// A peer that says nothing for twice this time is taken for dead, in milliseconds; whole seconds.
        #[serde(with = "milliseconds")]
        heartbeat ("heartbeat_ms"): Duration = Duration::from_secs(10);
        /// A broker that confirms nothing for this long, without saying that it is blocked, is connected to anew. In milliseconds.
        #[serde(with = "milliseconds")]
        confirm_timeout ("confirm_timeout_ms"): Duration = Duration::from_secs(20);
        /// First pause before connecting again; it doubles up to the longest. In milliseconds.
        #[serde(with = "milliseconds")]
        reconnect_first ("reconnect_first_ms"): Duration = Duration::from_millis(50);
        /// Longest pause before connecting again, in milliseconds.
        #[serde(with = "milliseconds")]
        reconnect_max ("reconnect_max_ms"): Duration = Duration::from_secs(2);
        /// How long a start waits while its delivery queue belongs to another connection: of a predecessor that died without a word the
        /// broker knows after two heartbeats. Then the name counts as taken. In milliseconds.
        #[serde(with = "milliseconds")]
        name_wait ("name_wait_ms"): Duration = Duration::from_secs(25);
        /// Bodies in each direction that the broker may have unconfirmed; as many more may wait, then publishers are told that it is full.
        unconfirmed_max ("unconfirmed_max"): u16 = 256;
        /// Bodies of one partition that a worker holds unacknowledged: what one partition can do while a batch is on its way to the
        /// database and back to gateways. Bodies are small as long as the broker confirms them at once.
        inbound_prefetch ("inbound_prefetch"): u16 = 64;
        /// Bodies that a gateway holds and has not distributed yet.
        outbound_prefetch ("outbound_prefetch"): u16 = 64;
        /// How often a body may take its worker down before it is put into the queue roost.dead.
        delivery_limit ("delivery_limit"): u16 = 5;
    }
}

impl BusConfig {
    /// Says of the first value that cannot be used what to write instead.
    ///
    /// # Errors
    /// When a value cannot be used.
    pub fn check(&self) -> Result<(), ConfigError> {
        let wrong = |key, problem: String| Err(ConfigError { key, problem });
        if !(1..=PARTITIONS_MAX).contains(&self.partitions) {
            let problem = format!("is {}, allowed is 1 to {PARTITIONS_MAX}", self.partitions);
            return wrong("partitions", problem);
        }
        if let Err(problem) = self.uri() {
            return wrong("url", problem);
        }
        for (key, value) in [
            ("connect_timeout_ms", self.connect_timeout),
            ("confirm_timeout_ms", self.confirm_timeout),
            ("reconnect_first_ms", self.reconnect_first),
        ] {
            if value.is_zero() {
                return wrong(key, "is 0; write a time in milliseconds".to_owned());
            }
        }
        if self.reconnect_max < self.reconnect_first {
            let problem = "is shorter than reconnect_first_ms; write at least as much".to_owned();
            return wrong("reconnect_max_ms", problem);
        }
        let seconds = self.heartbeat.as_secs();
        if !self.heartbeat.subsec_nanos().eq(&0) || !(1..=600).contains(&seconds) {
            let problem = format!(
                "is {}; write whole seconds from 1000 to 600000",
                self.heartbeat.as_millis()
            );
            return wrong("heartbeat_ms", problem);
        }
        for (key, value) in [
            ("unconfirmed_max", self.unconfirmed_max),
            ("inbound_prefetch", self.inbound_prefetch),
            ("outbound_prefetch", self.outbound_prefetch),
            ("delivery_limit", self.delivery_limit),
        ] {
            if value == 0 {
                return wrong(key, "is 0; write at least 1".to_owned());
            }
        }
        Ok(())
    }

    /// The address with credentials and heartbeat; or what is wrong with the url.
    pub(crate) fn uri(&self) -> Result<AMQPUri, String> {
        let example = "write it as amqp://HOST:PORT/VHOST, e.g. amqp://127.0.0.1:5672/%2f";
        // The text may hold a password: it is not repeated.
        let mut uri: AMQPUri =
            self.url.parse().map_err(|error| format!("is no address ({error}); {example}"))?;
        if uri.scheme == AMQPScheme::AMQPS {
            return Err(format!("TLS to the broker is not supported yet; {example}"));
        }
        if !self.user.is_empty() {
            uri.authority.userinfo.username.clone_from(&self.user);
        }
        if !self.password.is_empty() {
            uri.authority.userinfo.password.clone_from(&self.password);
        }
        uri.query.heartbeat = u16::try_from(self.heartbeat.as_secs()).ok();
        Ok(uri)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl FnOnce(&mut BusConfig), key: &str) {
        let mut config = BusConfig::default();
        change(&mut config);
        assert_eq!(config.check().unwrap_err().key, key);
    }

    #[test]
    fn each_bad_value_is_named() {
        assert_eq!(BusConfig::default().check(), Ok(()));
        check(|c| c.partitions = 0, "partitions");
        check(|c| c.url = "http://broker".to_owned(), "url");
        check(|c| c.url = "amqps://broker".to_owned(), "url");
        check(|c| c.heartbeat = Duration::from_millis(1500), "heartbeat_ms");
        check(|c| c.reconnect_max = Duration::ZERO, "reconnect_max_ms");
        check(|c| c.inbound_prefetch = 0, "inbound_prefetch");
    }

    #[test]
    fn credentials_of_their_own_win_over_the_url() {
        let config = BusConfig {
            url: "amqp://a:b@broker/v".to_owned(),
            password: "secret".to_owned(),
            ..BusConfig::default()
        };
        let uri = config.uri().unwrap();
        let user = &uri.authority.userinfo;
        assert_eq!((user.username.as_str(), user.password.as_str()), ("a", "secret"));
        assert_eq!((uri.vhost.as_str(), uri.authority.port), ("v", 5672));
    }
}
