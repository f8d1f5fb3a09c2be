//! Placeholder.
/// How the log reaches the disk.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum DriverChoice {
    /// io_uring if the system allows it, else portable.
    #[default]
    Auto,
    /// io_uring or an error.
    Uring,
    /// Plain system calls.
    Portable,
}
/// Placeholder.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {}
/// Placeholder.
#[derive(Debug, thiserror::Error)]
pub enum WalError {}
