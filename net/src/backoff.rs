//! When a lane is dialled again. No clock: the pauses are for the caller to wait.
//!
//! In:     how the last attempt, or the last connection, ended.
//! Out:    the pause before the next attempt.
//! Cost:   nothing.
//! Fails:  never.
//! Source: RULES.md N10 (flaps), I6 (no retry storm).

use crate::{Hello, Settings};
use logdrive_raft::NodeId;
use std::time::Duration;

/// Pauses that double, each shortened at random by up to a half.
#[derive(Debug)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    pause: Duration,
    random: u64,
}

impl Backoff {
    /// For the lane on which a node says `me` of itself to `peer`. Different for every lane of every shard, so that
    /// they do not all dial at once. Panics if `backoff_min` is above `backoff_max`.
    #[must_use]
    pub fn new(settings: &Settings, me: &Hello, peer: NodeId) -> Self {
        let seed = [me.node.get(), u64::from(me.shard), peer.get(), me.lane as u64]
            .into_iter()
            .fold(settings.seed, |seed, part| mix(seed ^ part));
        Self::seeded(settings, seed)
    }

    fn seeded(settings: &Settings, seed: u64) -> Self {
        let (min, max) = (settings.backoff_min, settings.backoff_max);
        assert!(min <= max, "backoff of {min:?} to {max:?}");
        Self { min, max, pause: min, random: seed }
    }

    /// The pause after the loss of a connection that was up for so long.
    pub fn after_loss(&mut self, lasted: Duration) -> Duration {
        // Only a connection that lasted earns a quick redial; one that flaps does not.
        if lasted >= self.max {
            self.pause = self.min;
        }
        self.next()
    }

    /// The pause after an attempt that did not come up. The longest if either end `refused` the other.
    pub fn after_failure(&mut self, refused: bool) -> Duration {
        if refused {
            self.pause = self.max;
        }
        self.next()
    }

    fn next(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(self.max);
        self.random = mix(self.random);
        let shorter_by = u32::try_from(self.random % 512).expect("below 512");
        pause - pause * shorter_by / 1024
    }
}

/// One step of SplitMix64 (Steele, Lea, Flood 2014).
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_bound_and_are_at_least_half_of_it() {
        let settings = Settings::default();
        let mut backoff = Backoff::seeded(&settings, 7);
        let mut full = settings.backoff_min;
        for _ in 0..20 {
            let pause = backoff.after_failure(false);
            assert!(pause <= full && pause > full / 2, "{pause:?} of {full:?}");
            full = (full * 2).min(settings.backoff_max);
        }
        let flapped = backoff.after_loss(settings.backoff_max - Duration::from_nanos(1));
        assert!(flapped > settings.backoff_max / 2);
        assert!(backoff.after_loss(settings.backoff_max) <= settings.backoff_min);
        assert!(backoff.after_failure(true) > settings.backoff_max / 2);
    }

    #[test]
    fn pauses_differ_between_seeds() {
        let settings = Settings::default();
        let pauses = |seed| {
            let mut backoff = Backoff::seeded(&settings, seed);
            (0..8).map(|_| backoff.next()).collect::<Vec<_>>()
        };
        assert_eq!(pauses(1), pauses(1));
        assert_ne!(pauses(1), pauses(2));
    }
}
