//! Between payload bytes and typed frames: one reusable encoder, one verifying entry to the generated accessors.

use flatbuffers::{FlatBufferBuilder, Follow, Verifiable, VerifierOptions};

use crate::close_reason::CloseReason;
use crate::frame::{FrameKind, Header};
use crate::id::{ClientMsgId, IdError};
use crate::limits::{
    HEADER_BYTES, NUMBER_MAX, VERIFIER_APPARENT_SIZE_FACTOR, VERIFIER_DEPTH_MAX,
    VERIFIER_TABLES_MAX,
};

/// Why a payload is not a valid frame of its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// The FlatBuffers verifier refused it.
    #[error("the payload is not a valid FlatBuffer of this kind")]
    Malformed,
    /// A required field is missing.
    #[error("field {0} is missing")]
    Missing(&'static str),
    /// A field has a value outside its domain.
    #[error("field {0} is invalid")]
    Invalid(&'static str),
    /// An identifier is malformed.
    #[error("field {0}: {1}")]
    Id(&'static str, IdError),
}

impl From<PayloadError> for CloseReason {
    /// Whatever is wrong with a payload, the connection that sent it is closed for it.
    fn from(_: PayloadError) -> Self {
        Self::BadPayload
    }
}

/// Verifies `payload` and returns its root table.
pub(crate) fn root<'a, T>(payload: &'a [u8]) -> Result<T::Inner, PayloadError>
where
    T: Follow<'a> + Verifiable + 'a,
{
    let options = VerifierOptions {
        max_depth: VERIFIER_DEPTH_MAX,
        max_tables: VERIFIER_TABLES_MAX,
        max_apparent_size: payload.len().saturating_mul(VERIFIER_APPARENT_SIZE_FACTOR),
        ignore_missing_null_terminator: false,
    };
    flatbuffers::root_with_opts::<T>(&options, payload).map_err(|_| PayloadError::Malformed)
}

/// The root table of a payload of which only 64-bit numbers, or an id, are wanted. Every access is checked against the payload's end, so it
/// needs no verifier: for the most frequent frame, whose verification would cost more than all else that is done with it.
pub(crate) struct Numbers<'a> {
    /// From the table to the end.
    table: &'a [u8],
    vtable: &'a [u8],
}

impl<'a> Numbers<'a> {
    /// `None` when the payload does not have the form of a table.
    pub(crate) fn root(payload: &'a [u8]) -> Option<Self> {
        let at = u32::from_le_bytes(*payload.first_chunk()?) as usize;
        let table = payload.get(at..)?;
        let back = i32::from_le_bytes(*table.first_chunk()?);
        let vtable_at = i64::try_from(at).ok()? - i64::from(back);
        let vtable = payload.get(usize::try_from(vtable_at).ok()?..)?;
        let vtable_bytes = u16::from_le_bytes(*vtable.first_chunk()?);
        Some(Self { table, vtable: vtable.get(..usize::from(vtable_bytes))? })
    }

    /// The field with this offset in the vtable, 0 when it is absent; `None` when it lies outside.
    pub(crate) fn get(&self, field: u16) -> Option<u64> {
        let at = match self.vtable.get(usize::from(field)..usize::from(field) + 2) {
            Some(&[low, high]) => u16::from_le_bytes([low, high]),
            Some(_) | None => 0,
        };
        if at == 0 {
            return Some(0);
        }
        Some(u64::from_le_bytes(*self.table.get(usize::from(at)..)?.first_chunk()?))
    }

    /// A field that is a struct of bytes; `None` when it is absent or lies outside.
    pub(crate) fn bytes<const N: usize>(&self, field: u16) -> Option<[u8; N]> {
        let &[low, high] = self.vtable.get(usize::from(field)..usize::from(field) + 2)? else {
            return None;
        };
        let at = u16::from_le_bytes([low, high]);
        if at == 0 {
            return None;
        }
        self.table.get(usize::from(at)..)?.first_chunk().copied()
    }
}

pub(crate) fn required<'a>(
    field: &'static str,
    value: Option<&'a str>,
) -> Result<&'a str, PayloadError> {
    match value {
        Some(text) if !text.is_empty() => Ok(text),
        Some(_) | None => Err(PayloadError::Missing(field)),
    }
}

pub(crate) fn at_most(
    field: &'static str,
    text: &str,
    bytes_max: usize,
) -> Result<(), PayloadError> {
    if text.len() <= bytes_max { Ok(()) } else { Err(PayloadError::Invalid(field)) }
}

/// A position, sequence number or epoch: it has to fit the stores.
pub(crate) fn number(field: &'static str, value: u64) -> Result<u64, PayloadError> {
    if value <= NUMBER_MAX { Ok(value) } else { Err(PayloadError::Invalid(field)) }
}

pub(crate) fn client_msg_id(
    id: Option<&crate::generated::roost::wire::ClientMsgId>,
) -> Result<ClientMsgId, PayloadError> {
    id.map(|id| ClientMsgId(id.bytes().into())).ok_or(PayloadError::Missing("client_msg_id"))
}

/// Encodes frames, one after the other, reusing its memory.
#[derive(Default)]
pub struct Encoder {
    builder: FlatBufferBuilder<'static>,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Encoder")
    }
}

impl Encoder {
    /// An encoder without memory; it grows to the largest frame it encodes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Builds one payload with `build` and returns it. The slice lives until the next call.
    pub(crate) fn payload<T>(
        &mut self,
        build: impl FnOnce(&mut FlatBufferBuilder<'static>) -> flatbuffers::WIPOffset<T>,
    ) -> &[u8] {
        self.builder.reset();
        let root = build(&mut self.builder);
        self.builder.finish_minimal(root);
        self.builder.finished_data()
    }

    /// Appends header and payload to `out`.
    pub(crate) fn frame<T>(
        &mut self,
        out: &mut Vec<u8>,
        kind: FrameKind,
        correlation: u16,
        build: impl FnOnce(&mut FlatBufferBuilder<'static>) -> flatbuffers::WIPOffset<T>,
    ) {
        let payload = self.payload(build);
        let header = Header::new(kind, correlation, 0, payload.len());
        out.reserve(HEADER_BYTES + payload.len());
        out.extend_from_slice(&header.encode());
        out.extend_from_slice(payload);
    }
}
