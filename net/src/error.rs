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
    #[error("the time for the {0} ran out")]
    Timeout(&'static str),
    /// The other end's first words make no sense.
    #[error("the handshake is not one of a logdrive peer that this node understands: {0}")]
    Handshake(#[from] HandshakeError),
    /// We refused the other end.
    #[error("this node refused the peer: {0}")]
    Refused(Refusal),
    /// The other end refused us.
    #[error("the peer refused this node: {0}")]
    RefusedByPeer(Refusal),
    /// A frame is not what it must be. Nothing of it was delivered.
    #[error("the peer sent a frame that cannot be right: {0}")]
    Frame(#[from] FrameError),
    /// A frame's body is not what it must be. Nothing of it was delivered.
    #[error("the peer sent a message that cannot be right: {0}")]
    Codec(#[from] CodecError),
    /// The acceptor of a lane sent bytes on it; lanes carry frames one way only.
    #[error("the peer sent bytes on a lane on which only this node sends")]
    Unexpected,
    /// A newer connection, or a newer incarnation of the peer, took this one's place.
    #[error("a newer connection of the peer has replaced this one")]
    Replaced,
    /// The other end closed the connection.
    #[error("the peer closed the connection")]
    Closed,
    /// The system ended the connection.
    #[error("the connection was lost: {0}")]
    Io(#[from] io::Error),
}
