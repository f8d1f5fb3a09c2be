//! Placeholder.
/// Placeholder.
#[derive(Debug, thiserror::Error)]
pub enum NetError {}
