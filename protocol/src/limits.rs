//! Every number of the wire format, in one place. Configuration may lower some of them, never raise them.

use std::time::Duration;

/// Version a client names in CONNECT. A server refuses others with `Close(unsupported_version)`.
pub const PROTOCOL_VERSION: u16 = 1;
/// Bytes of the fixed header.
pub const HEADER_BYTES: usize = 16;
/// Largest frame before CONNECT succeeded, header included: nobody unknown makes the server buffer more.
pub const FRAME_BYTES_MAX_BEFORE_CONNECT: usize = 4 * 1024;
/// Largest frame after CONNECT, header included, in both directions.
pub const FRAME_BYTES_MAX: usize = 64 * 1024;
/// Largest message body.
pub const BODY_BYTES_MAX: usize = 16 * 1024;
/// Largest number of messages in one page.
pub const PAGE_MESSAGES_MAX: usize = 200;
/// Page size when a request names none.
pub const PAGE_MESSAGES_DEFAULT: usize = 20;
/// Longest user, device, gateway or app id, in bytes.
pub const ID_BYTES_MAX: usize = 64;
/// Longest conversation id: `s:` + user + `:` + user.
pub const CONVERSATION_ID_BYTES_MAX: usize = 2 * ID_BYTES_MAX + 3;
/// Longest access or resume token.
pub const TOKEN_BYTES_MAX: usize = 2 * 1024;
/// Longest `client_name` of CONNECT.
pub const CLIENT_NAME_BYTES_MAX: usize = 64;
/// Longest human-readable `detail` of a refusal or close.
pub const DETAIL_BYTES_MAX: usize = 256;
/// Largest 64-bit number a peer may send (positions, sequence numbers, epochs): it fits a signed column of every store.
pub const NUMBER_MAX: u64 = i64::MAX as u64;
/// Sends a connection may have unanswered.
pub const INFLIGHT_SENDS_MAX: u16 = 64;
/// Requests a connection may have unanswered; further ones are refused `busy`.
pub const INFLIGHT_REQUESTS_MAX: u16 = 8;
/// Most per-conversation watermarks in one DELIVER_ACK.
pub const WATERMARKS_MAX: usize = 100;
/// Most members in one page of watermarks.
pub const WATERMARK_MEMBERS_MAX: usize = 200;

/// CONNECT must be complete this long after accept.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Without any byte from the client for this long, the connection is closed.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// A client pings after this long without sending anything.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(240);
/// An outbox that moved no byte for this long is closed as a slow consumer.
pub const SLOW_CONSUMER_TIMEOUT: Duration = Duration::from_secs(30);
/// A delivery that is not acknowledged for this long is followed by a hint.
pub const DELIVER_ACK_TIMEOUT: Duration = Duration::from_secs(4);
/// Hints sent for unacknowledged deliveries before waiting for the client's own digest.
pub const DELIVER_HINTS_MAX: u8 = 3;
/// At most one digest check per session and this interval goes to logic.
pub const DIGEST_INTERVAL: Duration = Duration::from_secs(30);

/// Depth of nested tables a verifier accepts.
pub const VERIFIER_DEPTH_MAX: usize = 16;
/// Tables in one payload a verifier accepts: a full page and its wrappers.
pub const VERIFIER_TABLES_MAX: usize = 256;
/// Apparent size (shared tables counted each time) over real size a verifier accepts.
pub const VERIFIER_APPARENT_SIZE_FACTOR: usize = 4;

const _: () =
    assert!(2 * BODY_BYTES_MAX < FRAME_BYTES_MAX, "every message fits a frame, and a page");
const _: () = assert!(PAGE_MESSAGES_MAX + 2 <= VERIFIER_TABLES_MAX);
const _: () = assert!(WATERMARKS_MAX < VERIFIER_TABLES_MAX);
const _: () = assert!(WATERMARK_MEMBERS_MAX + 2 <= VERIFIER_TABLES_MAX);
const _: () =
    assert!(HEADER_BYTES.is_multiple_of(8), "the payload starts 8-aligned when the frame does");
