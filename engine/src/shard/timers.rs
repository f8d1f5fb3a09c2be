//! Ticks by wheel: a group is touched when its deadline comes, never once per tick.
//!
//! In:     a slot and the tick it wants to be woken at.
//! Out:    the slots whose tick has come, each perhaps more than once and perhaps too early: the
//!         caller asks the group for its true deadline and schedules it anew.
//! Cost:   O(1) to schedule; a tick costs its bucket. Moving a deadline later costs nothing.
//! Fails:  never.
//! Source: Varghese and Lauck 1987, scheme 4 (one wheel, what is beyond it goes round again).

use super::Slot;
use logdrive_raft::Ticks;

/// Buckets of one tick each. A deadline further away is looked at once per turn of the wheel.
const BUCKETS: usize = 256;

/// Slots by the tick they want to be woken at.
#[derive(Debug)]
pub(super) struct Wheel {
    buckets: Vec<Vec<Slot>>,
    now: Ticks,
}

impl Wheel {
    pub(super) fn new(now: Ticks) -> Self {
        Self { buckets: vec![Vec::new(); BUCKETS], now }
    }

    /// Wakes `slot` at `at`, or at the wheel's edge if that is nearer, or at the next tick if `at`
    /// has passed. Says which tick it will be.
    pub(super) fn schedule(&mut self, slot: Slot, at: Ticks) -> Ticks {
        let edge = self.now.after(BUCKETS as u64 - 1);
        let at = at.clamp(self.now.after(1), edge);
        self.buckets[bucket(at)].push(slot);
        at
    }

    /// Moves to `now` and gives out every slot whose tick has come.
    pub(super) fn advance(&mut self, now: Ticks, due: &mut Vec<Slot>) {
        if now.since(self.now) >= BUCKETS as u64 {
            self.buckets.iter_mut().for_each(|bucket| due.append(bucket));
            self.now = now;
            return;
        }
        while self.now < now {
            self.now = self.now.after(1);
            due.append(&mut self.buckets[bucket(self.now)]);
        }
    }
}

fn bucket(at: Ticks) -> usize {
    usize::try_from(at.get() % BUCKETS as u64).expect("below BUCKETS")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_woken_at_its_tick_and_not_before() {
        let mut wheel = Wheel::new(Ticks(1000));
        let mut due = Vec::new();
        assert_eq!(wheel.schedule(Slot::behind(7), Ticks(1003)), Ticks(1003));
        wheel.advance(Ticks(1002), &mut due);
        assert!(due.is_empty(), "woken early: {due:?}");
        wheel.advance(Ticks(1003), &mut due);
        assert_eq!(due, [Slot::behind(7)]);
    }

    #[test]
    fn a_tick_beyond_the_edge_is_looked_at_once_a_turn() {
        let mut wheel = Wheel::new(Ticks(0));
        let mut due = Vec::new();
        assert_eq!(wheel.schedule(Slot::behind(1), Ticks(10_000)), Ticks(255));
        wheel.advance(Ticks(255), &mut due);
        assert_eq!(due, [Slot::behind(1)]);
    }

    #[test]
    fn a_tick_that_has_passed_comes_next() {
        let mut wheel = Wheel::new(Ticks(50));
        let mut due = Vec::new();
        assert_eq!(wheel.schedule(Slot::behind(1), Ticks(3)), Ticks(51));
        wheel.advance(Ticks(51), &mut due);
        assert_eq!(due, [Slot::behind(1)]);
    }

    #[test]
    fn a_jump_over_a_whole_turn_loses_nobody() {
        let mut wheel = Wheel::new(Ticks(0));
        let mut due = Vec::new();
        for (slot, at) in Slot::all(300).zip(1..) {
            let _ = wheel.schedule(slot, Ticks(at));
        }
        wheel.advance(Ticks(5_000), &mut due);
        due.sort_unstable();
        assert_eq!(due, Slot::all(300).collect::<Vec<_>>());
    }
}
