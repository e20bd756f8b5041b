//! A client's end of a simulated socket that checks what the gateway sends: whole frames, good headers, nothing after CLOSE.

use std::net::{IpAddr, Ipv4Addr};

use roost_gateway::io::simulated::{PeerId, PeerRead, SimulatedNetwork};
use roost_protocol::frame::SentBy;
use roost_protocol::frame::connect::{Connect, Credential, DeviceClass};
use roost_protocol::limits::PROTOCOL_VERSION;
use roost_protocol::{CloseReason, Decoder, DeviceId, Encoder, Frame, FrameKind, Header};

/// See the module text.
pub(crate) struct Peer {
    pub(crate) id: PeerId,
    decoder: Decoder,
    /// Not yet sent for want of room.
    unsent: Vec<u8>,
    /// Headers received, oldest first.
    pub(crate) received: Vec<Header>,
    pub(crate) closed: Option<CloseReason>,
    pub(crate) is_ended: bool,
    /// Payloads may be anything, where the target itself made them up.
    pub(crate) checks_payloads: bool,
}

impl Peer {
    pub(crate) fn connect(network: &SimulatedNetwork) -> Self {
        let mut decoder = Decoder::new();
        decoder.set_connected();
        Self {
            id: network.connect(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            decoder,
            unsent: Vec::new(),
            received: Vec::new(),
            closed: None,
            is_ended: false,
            checks_payloads: true,
        }
    }

    /// Sends as much as fits, the rest at the next call.
    pub(crate) fn send(&mut self, network: &SimulatedNetwork, bytes: &[u8]) {
        self.unsent.extend_from_slice(bytes);
        let taken = network.send(self.id, &self.unsent);
        self.unsent.drain(..taken);
    }

    /// Reads and checks what is there.
    pub(crate) fn read(&mut self, network: &SimulatedNetwork) {
        let mut scratch = Vec::new();
        loop {
            let bytes = match network.receive(self.id) {
                PeerRead::Bytes(bytes) => bytes,
                PeerRead::WouldBlock => return,
                PeerRead::EndOfStream => {
                    self.is_ended = true;
                    return;
                }
            };
            let mut rest = &bytes[..];
            while let Some(raw) = self.decoder.next(&mut rest, &mut scratch).expect("good frames") {
                assert_eq!(self.closed, None, "a frame after CLOSE");
                assert_ne!(raw.header.kind.sent_by(), SentBy::Client);
                self.received.push(raw.header);
                let frame = Frame::decode(raw.header.kind, raw.payload);
                assert!(frame.is_ok() || !self.checks_payloads, "{:?}: {frame:?}", raw.header);
                if let Ok(Frame::Close(close)) = frame {
                    self.closed = Some(close.reason);
                }
            }
        }
    }

    pub(crate) fn has(&self, kind: FrameKind, correlation: u16) -> bool {
        self.received.iter().any(|h| h.kind == kind && h.correlation == correlation)
    }
}

/// A CONNECT with this resume token.
pub(crate) fn connect_frame(token: &str, device: &str, inbox_seq: u64) -> Vec<u8> {
    let connect = Connect {
        protocol_version: PROTOCOL_VERSION,
        credential: Credential::Resume(token),
        device_id: DeviceId::new(device).expect("an id"),
        device_class: DeviceClass::Desktop,
        client_name: "fuzz",
        last_session_epoch: 0,
        inbox_seq,
    };
    let mut bytes = Vec::new();
    connect.encode(&mut Encoder::new(), &mut bytes);
    bytes
}
