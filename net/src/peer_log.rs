//! Lines in the log about a peer's lanes: one for each trouble, because all lanes of all shards meet the same one at once.
//!
//! In:     each lane that comes up, and each that is lost or cannot be had, with the cause.
//! Out:    whether a line is news; how many others it stands for.
//! Cost:   a lock held for a moment, when a lane changes.
//! Fails:  never; of more causes than [`CAUSES_MAX`] the oldest is forgotten, and told again.
//! Source: RULES.md I6.

use crate::NetError;
use logdrive_raft::NodeId;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// The lines that a node has written of its peers.
#[derive(Debug, Default)]
pub(crate) struct PeerLog(Mutex<BTreeMap<NodeId, Told>>);

#[derive(Debug, Default)]
struct Told {
    /// A lane came up, and none was told to be down since.
    is_up: bool,
    causes: Vec<Cause>,
}

#[derive(Debug)]
struct Cause {
    text: String,
    open_again: Instant,
    /// Lines kept back since the last one.
    more: u64,
}

impl PeerLog {
    /// True if a lane that has come up is news.
    pub(crate) fn is_news_up(&self, peer: NodeId) -> bool {
        !std::mem::replace(&mut self.lock().entry(peer).or_default().is_up, true)
    }

    /// `Some` if a lane that is down is news: the lines of this cause that were kept back since the last one.
    pub(crate) fn is_news_down(&self, peer: NodeId, error: &NetError, now: Instant) -> Option<u64> {
        let text = error.to_string();
        let mut peers = self.lock();
        let told = peers.entry(peer).or_default();
        let open_again = now + LOG_PERIOD;
        let more = match told.causes.iter_mut().find(|cause| cause.text == text) {
            Some(cause) if now < cause.open_again => {
                cause.more += 1;
                return None;
            }
            Some(cause) => {
                cause.open_again = open_again;
                std::mem::take(&mut cause.more)
            }
            None => {
                if told.causes.len() == CAUSES_MAX {
                    let oldest = (0..CAUSES_MAX).min_by_key(|at| told.causes[*at].open_again);
                    told.causes.swap_remove(oldest.expect("there are some"));
                }
                told.causes.push(Cause { text, open_again, more: 0 });
                0
            }
        };
        told.is_up = false;
        Some(more)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Told>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The least time between two lines of one peer and one cause.
const LOG_PERIOD: Duration = Duration::from_secs(5);
/// Causes that are told apart, per peer.
const CAUSES_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    /// RULES.md I6.
    #[test]
    fn one_line_tells_of_all_lanes_of_a_peer_that_have_one_trouble() {
        let (log, now) = (PeerLog::default(), Instant::now());
        let (one, two) = (NodeId(1), NodeId(2));
        // Of eight shards.
        let up = (0..16).filter(|_| log.is_news_up(one)).count();
        let down = |error: &NetError, now| {
            (0..16).filter_map(|_| log.is_news_down(one, error, now)).collect::<Vec<_>>()
        };
        assert_eq!((up, down(&NetError::Closed, now)), (1, vec![0]));
        assert_eq!(down(&NetError::Unexpected, now), [0], "another cause");
        assert_eq!(log.is_news_down(two, &NetError::Closed, now), Some(0), "another peer");
        assert_eq!(down(&NetError::Closed, now + LOG_PERIOD), [15], "and those kept back");
        // The last line tells how the peer is.
        assert!(log.is_news_up(one) && !log.is_news_up(one));
        assert!(down(&NetError::Unexpected, now + LOG_PERIOD) == [15] && log.is_news_up(one));
        // However many causes there are.
        for n in 0..100 {
            let error = NetError::Io(std::io::Error::other(n.to_string()));
            assert_eq!(log.is_news_down(one, &error, now), Some(0));
        }
        assert_eq!(log.lock()[&one].causes.len(), CAUSES_MAX);
    }
}
