//! Why a connection could not be made or did not last.

use crate::codec::CodecError;
use crate::frame::FrameError;
use crate::handshake::{HandshakeError, Refusal};
use std::io;

/// The error that ended a connection, or kept one from being made. Sending never fails with a `NetError`: a lane that
/// is down says [`crate::Sent::Dropped`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// The listening address cannot be had.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address asked for.
        address: String,
        /// The system's reason; `AddrInUse` if another process has it.
        source: io::Error,
    },
    /// The peer's name or address leads nowhere.
    #[error("cannot reach {address}: {source}")]
    Connect {
        /// The address dialled.
        address: String,
        /// The system's reason.
        source: io::Error,
    },
    /// Nothing was heard in time.
    #[error("no {0} in time")]
    Timeout(&'static str),
    /// The other end's first words make no sense.
    #[error("bad handshake: {0}")]
    Handshake(#[from] HandshakeError),
    /// We refused the other end.
    #[error("refused the peer: {0}")]
    Refused(Refusal),
    /// The other end refused us.
    #[error("the peer refused us: {0}")]
    RefusedByPeer(Refusal),
    /// A frame is not what it must be. Nothing of it was delivered.
    #[error("bad frame: {0}")]
    Frame(#[from] FrameError),
    /// A frame's body is not what it must be. Nothing of it was delivered.
    #[error("bad message: {0}")]
    Codec(#[from] CodecError),
    /// The acceptor of a lane sent bytes on it; lanes carry frames one way only.
    #[error("the peer sent bytes on a lane that is ours to send on")]
    Unexpected,
    /// A newer connection, or a newer incarnation of the peer, took this one's place.
    #[error("replaced by a newer connection of the peer")]
    Replaced,
    /// The other end closed the connection.
    #[error("closed by the peer")]
    Closed,
    /// The system ended the connection.
    #[error("connection lost: {0}")]
    Io(#[from] io::Error),
}
