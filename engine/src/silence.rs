//! Peers that are connected and say nothing: stopped, or stuck.
//!
//! In:     each frame for a peer and from a peer; a look at all of them, four times an election timeout.
//! Out:    whether a peer is silent, for the map that clients are given. Links and elections do not ask: they have
//!         their own timers, by group.
//! Cost:   per frame a store or a load of an atomic.
//! Fails:  never.
//! Source: RULES.md D4 (a process that is paused).
//!
//! A connection says only that the peer's kernel is there. A leader hears of its followers, and they of it, several times
//! an election timeout; two followers of a third node have nothing to say to each other. A peer is silent if frames were
//! sent to it in each of [`LOOKS_MAX`] looks and none has come since. Looks are counted, and not time: after a pause of
//! this node's own its peers are heard before they are judged.

use crate::NodeId;
use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
};

/// Two election timeouts.
const LOOKS_MAX: u32 = 2 * LOOKS_PER_ELECTION_TIMEOUT;
pub(crate) const LOOKS_PER_ELECTION_TIMEOUT: u32 = 4;

/// All peers of a node.
#[derive(Debug)]
pub(crate) struct Silence(BTreeMap<NodeId, Talk>);

#[derive(Debug, Default)]
struct Talk {
    /// A frame was sent since the last look.
    has_sent: AtomicBool,
    /// Looks before each of which a frame was sent, since one came.
    unanswered: AtomicU32,
}

impl Silence {
    pub(crate) fn of(peers: impl Iterator<Item = NodeId>) -> Self {
        Self(peers.map(|peer| (peer, Talk::default())).collect())
    }

    pub(crate) fn sent(&self, peer: NodeId) {
        if let Some(talk) = self.0.get(&peer) {
            talk.has_sent.store(true, Ordering::Relaxed);
        }
    }

    /// A frame came. True if the peer was silent.
    pub(crate) fn heard(&self, peer: NodeId) -> bool {
        self.0.get(&peer).is_some_and(|talk| {
            // Mostly there is nothing to change, and threads share the line.
            talk.unanswered.load(Ordering::Relaxed) > 0
                && talk.unanswered.swap(0, Ordering::Relaxed) >= LOOKS_MAX
        })
    }

    /// True if a peer has fallen silent.
    pub(crate) fn look(&self) -> bool {
        let asked = self.0.values().filter(|talk| talk.has_sent.swap(false, Ordering::Relaxed));
        let fell = |talk: &Talk| talk.unanswered.fetch_add(1, Ordering::Relaxed) + 1 == LOOKS_MAX;
        asked.fold(false, |any, talk| fell(talk) | any)
    }

    pub(crate) fn is_silent(&self, peer: NodeId) -> bool {
        let talk = self.0.get(&peer);
        talk.is_some_and(|talk| talk.unanswered.load(Ordering::Relaxed) >= LOOKS_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: NodeId = NodeId(2);

    #[test]
    fn a_peer_that_does_not_answer_is_silent_until_it_does() {
        let silence = Silence::of([PEER, NodeId(3)].into_iter());
        for look in 1..3 * LOOKS_MAX {
            assert_eq!(silence.is_silent(PEER), look > LOOKS_MAX);
            silence.sent(PEER);
            assert_eq!(silence.look(), look == LOOKS_MAX, "it is told once");
        }
        assert!(!silence.is_silent(NodeId(3)), "nothing was sent to it");
        assert!(silence.heard(PEER) && !silence.heard(PEER) && !silence.is_silent(PEER));
    }

    #[test]
    fn a_peer_that_answers_now_and_then_or_owes_nothing_is_not() {
        let silence = Silence::of(std::iter::once(PEER));
        for _ in 0..5 {
            for _ in 1..LOOKS_MAX {
                silence.sent(PEER);
                assert!(!silence.look());
            }
            assert!(!silence.heard(PEER));
        }
        assert!((0..5 * LOOKS_MAX).all(|_| !silence.look()), "nothing is sent");
    }
}
