//! Configuration of a gateway: every number an operator may change, with its default and its sentence.
//!
//! Each struct is declared once, with [`documented!`]: the fields, their defaults and their sentences.
//! Values are checked once, by [`GatewayConfig::check`]. Durations are spelled in milliseconds in TOML.

use std::net::SocketAddr;
use std::time::Duration;

use roost_config::{ConfigError, documented, milliseconds};
use roost_protocol::limits;

pub use crate::io::probe::DriverChoice;

documented! {
    /// A gateway.
    pub struct GatewayConfig {
        /// Name of this gateway: its delivery queue on the bus, and what clients see. 1-64 bytes of A-Z a-z 0-9 . _ @ -.
        /// Unique among the gateways of a cluster.
        name ("name"): String = "gw-1".to_owned();
        /// Addresses for client connections (TCP frames).
        listen ("listen"): Vec<SocketAddr> = vec![SocketAddr::from(([0, 0, 0, 0], 7401))];
        /// Address of /livez, /readyz, /metrics and /trace. Not for the public: there is no authentication.
        admin_listen ("admin_listen"): SocketAddr = SocketAddr::from(([127, 0, 0, 1], 7409));
        /// Shards: pinned threads with a ring each. 0: one per core this process may use.
        shards ("shards"): u16 = 0;
        /// Secret of resume tokens, at least 32 bytes, the same on all gateways of a cluster. Empty: random at each start,
        /// so that clients log in with their access token after a restart.
        resume_secret ("resume_secret"): String = String::new();
        @tables {
            /// How shards talk to the kernel.
            io ("io"): IoSettings;
            /// What one gateway, one address, one user and one connection may have and do.
            limits ("limits"): LimitSettings;
            /// When silence ends a connection.
            timeouts ("timeouts"): TimeoutSettings;
            /// What waits for one connection.
            outbox ("outbox"): OutboxSettings;
            /// Frames on their way to logic.
            inbound ("inbound"): InboundSettings;
            /// Leaving: what happens after SIGTERM.
            drain ("drain"): DrainSettings;
        }
    }
}

documented! {
    /// How shards talk to the kernel.
    pub struct IoSettings {
        /// auto, io_uring or epoll. The choice and its reason stand in the log, in /readyz?verbose and in /metrics.
        driver ("driver"): DriverChoice = DriverChoice::Auto;
        /// Submission queue entries of each ring; a power of two.
        submission_entries ("submission_entries"): u32 = 1024;
        /// Completion queue entries of each ring; a power of two, at least twice the submission entries.
        completion_entries ("completion_entries"): u32 = 8192;
        /// Receive buffers shared by all connections of a shard; a power of two up to 32768.
        receive_buffers ("receive_buffers"): u16 = 512;
        /// Bytes of each receive buffer.
        receive_buffer_bytes ("receive_buffer_bytes"): u32 = 4096;
        /// Pending connections the kernel keeps for each listener (also limited by net.core.somaxconn).
        listen_backlog ("listen_backlog"): u32 = 4096;
        /// Batches from logic that may wait for a shard; when full, the gateway takes no more from the bus.
        mailbox_capacity ("mailbox_capacity"): u32 = 4096;
    }
}

documented! {
    /// What one gateway, one address, one user and one connection may have and do.
    pub struct LimitSettings {
        /// Connections of this gateway; further clients wait in the kernel's listen queue. Each shard takes its share.
        connections_max ("connections_max"): u32 = 1_000_000;
        /// Connections from one address (IPv6: one /64), logged in or not. 0: no limit.
        connections_per_ip_max ("connections_per_ip_max"): u32 = 10_000;
        /// Sessions (devices) of one user. 0: no limit.
        sessions_per_user_max ("sessions_per_user_max"): u32 = 16;
        /// Sends of one connection without an answer yet, further ones are answered busy; at most 64.
        inflight_sends_max ("inflight_sends_max"): u16 = limits::INFLIGHT_SENDS_MAX;
        /// Frames a second of one connection, on average; more is answered busy, far more closes it. 0: no limit.
        frames_per_second ("frames_per_second"): u32 = 500;
        /// Frames a connection may send at once above the average.
        frames_burst ("frames_burst"): u32 = 1000;
        /// Bytes a second of one connection, on average. 0: no limit.
        bytes_per_second ("bytes_per_second"): u32 = 1024 * 1024;
        /// Bytes a connection may send at once above the average.
        bytes_burst ("bytes_burst"): u32 = 4 * 1024 * 1024;
    }
}

documented! {
    /// When silence ends a connection.
    pub struct TimeoutSettings {
        /// CONNECT must be complete this long after accept.
        #[serde(with = "milliseconds")]
        connect ("connect_ms"): Duration = limits::CONNECT_TIMEOUT;
        /// A connection that sent nothing for this long is closed.
        #[serde(with = "milliseconds")]
        idle ("idle_ms"): Duration = limits::IDLE_TIMEOUT;
        /// Clients are told to ping after this long without sending anything; shorter than idle_ms.
        #[serde(with = "milliseconds")]
        heartbeat_interval ("heartbeat_interval_ms"): Duration = limits::HEARTBEAT_INTERVAL;
        /// A connection whose outbox moved no byte for this long is closed as a slow consumer.
        #[serde(with = "milliseconds")]
        slow_consumer ("slow_consumer_ms"): Duration = limits::SLOW_CONSUMER_TIMEOUT;
        /// A delivery that the device did not acknowledge for this long is followed by a hint.
        #[serde(with = "milliseconds")]
        deliver_ack ("deliver_ack_ms"): Duration = limits::DELIVER_ACK_TIMEOUT;
        /// At most one digest check per session and this interval goes to logic.
        #[serde(with = "milliseconds")]
        digest_interval ("digest_interval_ms"): Duration = limits::DIGEST_INTERVAL;
        /// After CLOSE was sent, how long the peer may take to read it before the socket is closed.
        #[serde(with = "milliseconds")]
        close_linger ("close_linger_ms"): Duration = Duration::from_secs(2);
    }
}

documented! {
    /// What waits for one connection.
    pub struct OutboxSettings {
        /// Bytes waiting for one connection above which deliveries are replaced by hints (the client pulls them) and pages are
        /// answered busy. At twice as much of other frames it is closed as a slow consumer.
        bytes_max ("bytes_max"): u32 = 64 * 1024;
        /// Bytes below which deliveries are sent in full again, and a page always.
        bytes_low ("bytes_low"): u32 = 16 * 1024;
        /// Conversations with a hint waiting for one connection; more become one digest.
        hints_max ("hints_max"): u16 = 64;
    }
}

documented! {
    /// Frames on their way to logic.
    pub struct InboundSettings {
        /// Bytes of this gateway on their way to logic, not confirmed by the bus. Above it clients are answered busy and
        /// their connections are not read.
        bytes_max ("bytes_max"): u64 = 64 * 1024 * 1024;
        /// The same in messages.
        messages_max ("messages_max"): u32 = 65_536;
        /// Messages in one batch on the bus.
        batch_messages_max ("batch_messages_max"): u16 = 256;
        /// Bytes in one batch on the bus, unless one message alone is larger.
        batch_bytes_max ("batch_bytes_max"): u32 = 64 * 1024;
        /// A busy gateway publishes at most this often, in milliseconds; 0: whenever the bus is ready. What comes after a quiet time leaves
        /// at once. Rounds that carry more wake the broker, logic and the database less often.
        #[serde(with = "milliseconds")]
        publish_interval ("publish_interval_ms"): Duration = Duration::from_millis(2);
        /// How long an acknowledgement of a client (DELIVER_ACK) waits at most for a message of its partition that takes it along:
        /// without it there is up to a batch for each of them, and with 2,000 messages a second over 32 partitions half as many batches more.
        #[serde(with = "milliseconds")]
        acknowledgement_wait ("acknowledgement_wait_ms"): Duration = Duration::from_millis(50);
        /// How long a client answered busy is told to wait.
        #[serde(with = "milliseconds")]
        busy_retry_after ("busy_retry_after_ms"): Duration = Duration::from_millis(200);
        /// First pause after the bus refused a batch; doubled up to retry_max_ms.
        #[serde(with = "milliseconds")]
        retry_first ("retry_first_ms"): Duration = Duration::from_millis(5);
        /// Longest pause between two attempts to publish a batch.
        #[serde(with = "milliseconds")]
        retry_max ("retry_max_ms"): Duration = Duration::from_secs(1);
    }
}

documented! {
    /// Leaving: what happens after SIGTERM.
    pub struct DrainSettings {
        /// GO_AWAY goes to all connections evenly over this time.
        #[serde(with = "milliseconds")]
        go_away_window ("go_away_window_ms"): Duration = Duration::from_secs(5);
        /// Clients are told to reconnect after a random part of this time.
        #[serde(with = "milliseconds")]
        reconnect_after_max ("reconnect_after_max_ms"): Duration = Duration::from_secs(5);
        /// A connection that is still there this long after its GO_AWAY is closed with `draining`.
        #[serde(with = "milliseconds")]
        close_after ("close_after_ms"): Duration = Duration::from_secs(5);
        /// The process ends this long after the start of the drain, whatever is still connected.
        #[serde(with = "milliseconds")]
        deadline ("deadline_ms"): Duration = Duration::from_secs(20);
    }
}

impl GatewayConfig {
    /// Shards to run: the configured number, or one per core this process may use.
    pub fn shard_count(&self) -> u16 {
        if self.shards > 0 {
            return self.shards;
        }
        std::thread::available_parallelism().map_or(1, |n| u16::try_from(n.get()).unwrap_or(1))
    }

    /// Connections each shard may hold, so that all together hold `connections_max`, with room for an uneven moment.
    pub fn connections_per_shard_max(&self) -> u32 {
        self.limits.connections_max.div_ceil(u32::from(self.shard_count()))
    }

    /// Checks what types cannot say.
    ///
    /// # Errors
    /// The first value that cannot be used.
    pub fn check(&self) -> Result<(), ConfigError> {
        let fail = |key, problem: String| Err(ConfigError { key, problem });
        if let Err(error) = roost_protocol::id::check_id(&self.name) {
            return fail("name", format!("{error}: {:?}", self.name));
        }
        if self.listen.is_empty() {
            return fail("listen", "at least one address, e.g. [\"0.0.0.0:7401\"]".to_owned());
        }
        if !self.resume_secret.is_empty() && self.resume_secret.len() < 32 {
            return fail(
                "resume_secret",
                "at least 32 bytes, or empty for a random one".to_owned(),
            );
        }
        self.check_ranges()?;
        if self.outbox.bytes_low >= self.outbox.bytes_max {
            return fail("outbox.bytes_low", "must be below outbox.bytes_max".to_owned());
        }
        if self.timeouts.heartbeat_interval >= self.timeouts.idle {
            let problem =
                "must be below timeouts.idle_ms, else clients are closed while they are well";
            return fail("timeouts.heartbeat_interval_ms", problem.to_owned());
        }
        Ok(())
    }

    fn check_ranges(&self) -> Result<(), ConfigError> {
        let frame = limits::FRAME_BYTES_MAX as u64;
        let inflight = u64::from(limits::INFLIGHT_SENDS_MAX);
        let index_limit = u64::from(crate::io::CONNECTION_INDEX_LIMIT);
        let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let (io, limits, inbound) = (&self.io, &self.limits, &self.inbound);
        for (key, value, least, most) in [
            ("shards", u64::from(self.shards), 0, 1024),
            ("limits.connections_max", limits.connections_max.into(), 1, index_limit),
            ("limits.inflight_sends_max", limits.inflight_sends_max.into(), 1, inflight),
            ("outbox.bytes_max", self.outbox.bytes_max.into(), frame, 1 << 30),
            ("outbox.hints_max", self.outbox.hints_max.into(), 1, 4096),
            ("inbound.bytes_max", inbound.bytes_max, 4 * frame, 1 << 40),
            ("inbound.messages_max", inbound.messages_max.into(), 1, 1 << 30),
            ("inbound.batch_messages_max", inbound.batch_messages_max.into(), 1, 4096),
            ("inbound.batch_bytes_max", inbound.batch_bytes_max.into(), 1024, 16 << 20),
            ("inbound.publish_interval_ms", ms(inbound.publish_interval), 0, 100),
            ("inbound.acknowledgement_wait_ms", ms(inbound.acknowledgement_wait), 0, 1_000),
            ("io.mailbox_capacity", io.mailbox_capacity.into(), 16, 1 << 20),
            ("io.listen_backlog", io.listen_backlog.into(), 1, 1 << 20),
            ("io.receive_buffer_bytes", io.receive_buffer_bytes.into(), 256, 1 << 20),
            ("timeouts.connect_ms", ms(self.timeouts.connect), 10, 600_000),
            ("timeouts.idle_ms", ms(self.timeouts.idle), 100, 86_400_000),
            (
                "timeouts.heartbeat_interval_ms",
                ms(self.timeouts.heartbeat_interval),
                50,
                86_400_000,
            ),
            ("timeouts.slow_consumer_ms", ms(self.timeouts.slow_consumer), 100, 3_600_000),
            ("timeouts.deliver_ack_ms", ms(self.timeouts.deliver_ack), 100, 3_600_000),
            ("inbound.retry_first_ms", ms(inbound.retry_first), 1, 60_000),
            ("inbound.retry_max_ms", ms(inbound.retry_max), ms(inbound.retry_first), 600_000),
        ] {
            if value < least || value > most {
                let problem = format!("is {value}, allowed is {least} to {most}");
                return Err(ConfigError { key, problem });
            }
        }
        let powers = [
            ("io.submission_entries", io.submission_entries, 8, 32_768),
            ("io.completion_entries", io.completion_entries, 2 * io.submission_entries, 65_536),
            ("io.receive_buffers", io.receive_buffers.into(), 2, 32_768),
        ];
        for (key, value, least, most) in powers {
            if !value.is_power_of_two() || value < least || value > most {
                let problem =
                    format!("is {value}, allowed are powers of two from {least} to {most}");
                return Err(ConfigError { key, problem });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_usable() {
        assert_eq!(GatewayConfig::default().check(), Ok(()));
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut GatewayConfig), key: &str) {
        let mut config = GatewayConfig::default();
        change(&mut config);
        assert_eq!(config.check().map_err(|e| e.key), Err(key));
    }

    #[test]
    fn unusable_values_name_their_key() {
        check(|c| c.name = "a b".to_owned(), "name");
        check(|c| c.listen.clear(), "listen");
        check(|c| c.resume_secret = "short".to_owned(), "resume_secret");
        check(|c| c.limits.connections_max = 0, "limits.connections_max");
        check(|c| c.limits.inflight_sends_max = 65, "limits.inflight_sends_max");
        check(|c| c.outbox.bytes_low = c.outbox.bytes_max, "outbox.bytes_low");
        check(|c| c.timeouts.idle = Duration::from_secs(1), "timeouts.heartbeat_interval_ms");
        check(|c| c.io.receive_buffers = 100, "io.receive_buffers");
        check(
            |c| c.inbound.publish_interval = Duration::from_secs(1),
            "inbound.publish_interval_ms",
        );
        check(|c| c.io.completion_entries = c.io.submission_entries, "io.completion_entries");
    }

    #[test]
    fn unknown_keys_are_errors() {
        let text = r#"{"limits": {"connection_max": 5}}"#;
        let error = serde_json::from_str::<GatewayConfig>(text).unwrap_err();
        assert!(error.to_string().contains("connection_max"), "{error}");
        let text = r#"{"timeouts": {"idle_ms": 1500}, "io": {"driver": "io_uring"}}"#;
        let config: GatewayConfig = serde_json::from_str(text).unwrap();
        assert_eq!(config.timeouts.idle, Duration::from_millis(1500));
        assert_eq!(config.io.driver, DriverChoice::IoUring);
    }
}
