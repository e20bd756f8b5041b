//! Our gateway as a subject: whole shards, sessions and control thread, beside a logic that
//! acknowledges everything and answers nothing. What is measured is local to the gateway: PING is
//! decoded, checked against its session, answered through the outbox and flushed.
//!
//! It differs from a gateway's defaults where those protect it from its users: no limit of frames a
//! second or of connections per address, and silence for an hour is allowed.

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use roost_bus::{InProcessBus, SharedBus};
use roost_gateway::config::{DriverChoice, GatewayConfig};
use roost_gateway::gateway::Gateway;
use roost_gateway::session::keys::VerificationKeys;
use roost_protocol::dev;

const PARTITIONS: u16 = 32;
const HOUR: Duration = Duration::from_secs(3600);

/// Serves on `shards` shards until the process is killed.
pub fn run(shards: u16, driver: DriverChoice) -> Result<()> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let mut config = GatewayConfig {
        name: "bench".to_owned(),
        listen: vec![address],
        admin_listen: address,
        shards,
        ..GatewayConfig::default()
    };
    config.io.driver = driver;
    config.limits.connections_per_ip_max = 0;
    config.limits.frames_per_second = 0;
    config.timeouts.idle = HOUR;
    config.timeouts.heartbeat_interval = HOUR / 2;
    let mut keys = VerificationKeys::new();
    keys.add_hs256(dev::KEY_ID, Some(dev::APP), dev::SECRET.as_bytes())?;

    let bus = InProcessBus::new(PARTITIONS).shared();
    let gateway = Gateway::start(config, keys, bus.clone())?;
    let address = gateway.addresses().first().context("one address was configured")?;
    let mut output = io::stdout().lock();
    writeln!(output, "listening {}", address.port())?;
    output.flush()?;
    drop(output);
    acknowledge_everything(&bus)
}

fn acknowledge_everything(bus: &SharedBus) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(async {
        let mut consumer = bus.consume_inbound().await?;
        while let Some(delivery) = consumer.next().await {
            delivery.acknowledge().await;
        }
        Ok(())
    })
}
