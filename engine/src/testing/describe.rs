//! How commands and replies look in a history and in a failure.
//!
//! In:     bytes; if wanted, the embedder's own way to show them.
//! Out:    text.

use std::sync::Arc;

/// Bytes of a command or a reply that a line shows, unless the embedder shows them in another way.
const BYTES_SHOWN: usize = 48;

type AsText = dyn Fn(&[u8]) -> String + Send + Sync;

/// How commands and replies look in a line.
#[derive(Clone)]
pub(super) struct Describe {
    pub(super) command: Arc<AsText>,
    pub(super) reply: Arc<AsText>,
}

impl Default for Describe {
    fn default() -> Self {
        Self { command: Arc::new(escaped), reply: Arc::new(escaped) }
    }
}

impl Describe {
    pub(super) fn command(&self, command: &[u8]) -> String {
        (self.command)(command)
    }

    pub(super) fn reply(&self, reply: &[u8]) -> String {
        (self.reply)(reply)
    }
}

/// Bytes as text, the first of them if there are many.
pub(super) fn escaped(bytes: &[u8]) -> String {
    match bytes.get(..BYTES_SHOWN) {
        Some(first) if bytes.len() > BYTES_SHOWN => {
            format!("\"{}\"... of {} bytes", first.escape_ascii(), bytes.len())
        }
        _ => format!("\"{}\"", bytes.escape_ascii()),
    }
}
