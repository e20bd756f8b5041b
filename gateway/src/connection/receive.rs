//! Bytes in: fed to the decoder, frame by frame, with what they lead to.
//!
//! Before CONNECT was accepted, CONNECT is the only frame there is. A session is registered in the directory before CONNECTED is
//! sent: a message committed after the client's first sync finds the route.
//!
//! When the way to logic is full, what is not handled yet stays in [`Active::held`](super::Active): the frame that could not go
//! and what came behind it. The connection is paused, so this is one receive buffer, and what the kernel had handed over before
//! it heard of the pause. A CONNECT that finds the way full waits likewise, within its timeout and 4 KiB: a gateway that cannot reach
//! logic would only collect sessions that get no answer.

use roost_protocol::decoder::RawFrame;
use roost_protocol::envelope::{ConnectionAddress, InboundKind};
use roost_protocol::frame::connect::{Connect, Connected as ConnectedFrame};
use roost_protocol::limits::{BODY_BYTES_MAX, FRAME_BYTES_MAX, FRAME_BYTES_MAX_BEFORE_CONNECT};
use roost_protocol::{CloseReason, FrameKind, UserId};

use crate::dispatcher::{self, Flow};
use crate::io::ConnectionKey;
use crate::session::SessionIdentity;
use crate::shard::context::Context;

use super::keepalive::jitter;
use super::{Connected, Connection, State};

/// Whether the connection is read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// Yes.
    Continue,
    /// Not until there is room on the way to logic.
    Pause,
}

impl Connection {
    /// Handles received bytes. `scratch` is memory for frames that were cut.
    ///
    /// # Errors
    /// Why the connection ends. Frames before the faulty one have taken effect.
    pub(crate) fn receive(
        &mut self,
        key: ConnectionKey,
        bytes: &[u8],
        scratch: &mut Vec<u8>,
        cx: &mut Context,
    ) -> Result<Reading, CloseReason> {
        match &mut self.state {
            State::Connected(connected) => {
                connected.meter.on_bytes(bytes.len(), &cx.limits.rate, cx.time.now_ms);
                if let Some(active) = &mut connected.active
                    && !active.held.is_empty()
                {
                    active.held.extend_from_slice(bytes);
                    return Ok(Reading::Pause);
                }
            }
            State::AwaitConnect { held, .. } if !held.is_empty() => {
                held.extend_from_slice(bytes);
                return check_held_connect(held).map(|()| Reading::Pause);
            }
            State::AwaitConnect { .. } | State::Free { .. } | State::Closing(_) => {}
        }
        self.handle_bytes(key, bytes, scratch, cx)
    }

    /// Handles what was held, as far as there is room now.
    ///
    /// # Errors
    /// Why the connection ends.
    pub(crate) fn receive_held(
        &mut self,
        key: ConnectionKey,
        scratch: &mut Vec<u8>,
        cx: &mut Context,
    ) -> Result<Reading, CloseReason> {
        let held = self.take_held();
        self.handle_bytes(key, &held, scratch, cx)
    }

    fn handle_bytes(
        &mut self,
        key: ConnectionKey,
        bytes: &[u8],
        scratch: &mut Vec<u8>,
        cx: &mut Context,
    ) -> Result<Reading, CloseReason> {
        let mut reading = Reading::Continue;
        let mut rest = bytes;
        loop {
            match &mut self.state {
                State::Connected(connected) => {
                    let Some(raw) = connected.decoder.next(&mut rest, scratch)? else {
                        return Ok(reading);
                    };
                    match dispatcher::dispatch(connected, raw, cx)? {
                        Flow::Continue => {}
                        Flow::Pause => reading = Reading::Pause,
                        Flow::Hold => {
                            hold(&mut connected.active().held, raw, rest);
                            return Ok(Reading::Pause);
                        }
                    }
                }
                State::AwaitConnect { decoder, held } => {
                    let Some(raw) = decoder.next(&mut rest, scratch)? else { return Ok(reading) };
                    if raw.header.kind == FrameKind::Connect && !cx.inbound.has_room() {
                        hold(held, raw, rest);
                        return check_held_connect(held).map(|()| Reading::Pause);
                    }
                    let decoder = std::mem::take(decoder);
                    let session = log_in(key, raw, cx)?;
                    let connected = Connected::new(session, decoder, cx.time.now_ms);
                    self.state = State::Connected(connected);
                    self.greet(key, cx);
                }
                // What a peer sends after the end is read and thrown away.
                State::Free { .. } | State::Closing(_) => return Ok(Reading::Continue),
            }
        }
    }

    /// CONNECTED, the first frame of a session.
    fn greet(&mut self, key: ConnectionKey, cx: &mut Context) {
        let Some(connected) = self.connected_mut() else { return };
        let Context { gateway, encoder, limits, time, counters, .. } = cx;
        let session = connected.session.clone();
        let Ok(user_id) = UserId::new(session.user()) else { return };
        let mut resume_token = String::new();
        let directory = &gateway.directory;
        gateway.handshake.issue_resume_token(&session, directory, time.wall_us, &mut resume_token);
        let earlier_ms = jitter(key, limits.heartbeat_interval_ms / 8);
        let frame = ConnectedFrame {
            session_epoch: session.epoch(),
            user_id,
            gateway: directory.gateway(),
            resume_token: &resume_token,
            server_time_ms: time.wall_us / 1000,
            heartbeat_interval_ms: limits.heartbeat_interval_ms - earlier_ms,
            idle_timeout_ms: limits.idle_timeout_ms,
            inflight_sends_max: limits.inflight_sends_max,
            frame_bytes_max: size(FRAME_BYTES_MAX),
            body_bytes_max: size(BODY_BYTES_MAX),
        };
        counters.count_frame_sent(FrameKind::Connected);
        connected.outbox().enqueue_always(|own| frame.encode(encoder, own));
    }
}

/// The session of an accepted CONNECT, in the directory and known to logic.
fn log_in(
    key: ConnectionKey,
    raw: RawFrame<'_>,
    cx: &mut Context,
) -> Result<SessionIdentity, CloseReason> {
    if raw.header.kind != FrameKind::Connect {
        return Err(CloseReason::ConnectExpected);
    }
    cx.counters.count_frame_received(FrameKind::Connect);
    if cx.is_draining {
        return Err(CloseReason::Draining);
    }
    let connect = Connect::decode(raw.payload)?;
    let wall_us = cx.time.wall_us;
    let directory = &cx.gateway.directory;
    let login = cx.gateway.handshake.authenticate(&connect, directory, wall_us)?;
    let placement = cx.gateway.placement.as_ref();
    if let Some(address) =
        placement.and_then(|p| p.elsewhere(directory.app_name(login.app), &login.user))
    {
        cx.redirect = Some(address);
        return Err(CloseReason::Redirected);
    }
    let address =
        ConnectionAddress { shard: cx.shard, index: key.index, generation: key.generation };
    let registered = directory.register(&login, address, wall_us)?;
    if let Some(older) = registered.superseded {
        if older.shard() == cx.shard {
            cx.superseded.push(older);
        } else {
            cx.inbound.close_elsewhere(older.address(), CloseReason::Superseded);
        }
    }
    let session = registered.session;
    if cx.report(&session, InboundKind::SessionOpened, connect.inbox_seq).is_err() {
        cx.gateway.directory.remove(&session);
        return Err(CloseReason::GatewayFull);
    }
    cx.counters.sessions.increment();
    Ok(session)
}

/// Before CONNECT succeeded nobody makes the gateway keep more than a CONNECT.
fn check_held_connect(held: &[u8]) -> Result<(), CloseReason> {
    if held.len() > FRAME_BYTES_MAX_BEFORE_CONNECT {
        return Err(CloseReason::GatewayFull);
    }
    Ok(())
}

/// Keeps a whole frame and what came behind it.
fn hold(held: &mut Vec<u8>, raw: RawFrame<'_>, rest: &[u8]) {
    held.extend_from_slice(&raw.header.encode());
    held.extend_from_slice(raw.payload);
    held.extend_from_slice(rest);
}

fn size(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
