//! One node whose power fails with writes in flight: the simulated disk must not be kinder than a real one.
//!
//! An earlier simulator dropped a node's log before it told its disk of the crash, and a log that is dropped waits for
//! its writes: whatever was in flight was durable after all, and no unsynced write was ever lost.

use super::{
    machine::{Operation, Registers, SERIAL_BYTES},
    network::Network,
    node::{SimNode, World},
    random::Random,
    shape::Shape,
};
use crate::{Completions, LogIndex, Outcome};
use bytes::BytesMut;
use logdrive_raft::{Role, Status};
use std::{cell::RefCell, rc::Rc, sync::Arc};

struct Nobody;

impl Completions for Nobody {
    fn complete(&self, _: &mut Vec<(u64, Outcome)>) {}
}

/// A node alone, and its world.
struct Alone {
    world: Rc<RefCell<World>>,
    shape: Shape,
    node: SimNode,
    serial: u64,
}

impl Alone {
    fn new(seed: u64) -> Self {
        let mut shape = Shape::draw(seed, Some(1), Some(1));
        (shape.log_bytes_max, shape.resume_steps_max) = (None, 0);
        let mut random = Random::stream(seed, 3);
        let node = SimNode::new(shape.nodes[0], 1, &mut random);
        let network = Network::new(shape.weather, 0, None);
        let world = World { now: 0, random, network, seen: Vec::new(), openings: 0 };
        Self { world: Rc::new(RefCell::new(world)), shape, node, serial: 0 }
    }

    /// Starts the node; gives the number of entries that its log opens with.
    fn start(&mut self) -> u64 {
        let found = self.node.start(&self.world, &self.shape).expect("its own log");
        let factory = |_, _, _| -> Box<dyn crate::StateMachine> { Box::<Registers>::default() };
        self.node.resume_groups(self.world.borrow().now, &self.shape, &factory);
        self.turn(0);
        found[0].1.as_ref().expect("nothing is fenced").log.len() as u64
    }

    fn status(&self) -> Status {
        self.node.status(self.shape.groups[0]).expect("it runs")
    }

    fn turn(&mut self, proposals: u64) {
        let now = {
            let mut world = self.world.borrow_mut();
            world.now += 1;
            world.seen.clear();
            world.now
        };
        let process = self.node.process.as_ref().expect("started");
        let group = process.node.groups.running(self.shape.groups[0]).expect("it runs");
        let sink: Arc<dyn Completions> = Arc::new(Nobody);
        for _ in 0..proposals {
            self.serial += 1;
            let command = Operation::Put { key: 1, value: self.serial }.encode(600);
            let mut payload = BytesMut::with_capacity(SERIAL_BYTES + command.len());
            payload.extend_from_slice(&self.serial.to_le_bytes());
            payload.extend_from_slice(&command);
            group.submit(&sink, self.serial, payload.freeze()).expect("it leads");
        }
        assert!(!self.node.turn(0, now, &self.shape).0.has_stopped, "its log works");
    }

    /// Turns with a disk that works, until it leads and all is durable.
    fn settle(&mut self) {
        for _ in 0..1000 {
            self.node.complete_some(self.world.borrow().now);
            self.turn(0);
            let status = self.status();
            let is_idle = self.node.logs[0].platter.writes_in_flight() == 0;
            if status.role == Role::Leader && status.durable == status.last_log.index && is_idle {
                return;
            }
        }
        panic!("{:?}", self.status());
    }
}

/// Ends the node with writes in flight. Gives the numbers of entries durable before, written, and found after.
fn end_with_writes_in_flight(seed: u64, power: bool) -> (u64, u64, u64) {
    let mut alone = Alone::new(seed);
    assert_eq!(alone.start(), 0);
    alone.settle();
    for _ in 0..20 {
        alone.turn(1);
        alone.settle();
    }
    let durable = alone.status().durable;
    assert!(durable > LogIndex(20), "{durable:?}");
    alone.turn(4);
    assert!(alone.node.logs[0].platter.writes_in_flight() > 0, "the disk has not answered");
    let written = alone.status().last_log.index;
    alone.node.stop(power);
    let found = alone.start();
    // The state that was found is durable now: it is found again.
    alone.node.stop(true);
    assert_eq!(alone.start(), found, "seed {seed}");
    (durable.get(), written.get(), found)
}

/// RULES.md W1.
#[test]
fn what_is_in_flight_when_the_power_fails_is_lost_more_often_than_not_and_nothing_else() {
    let mut lost = 0;
    for seed in 0..50 {
        let (durable, written, found) = end_with_writes_in_flight(seed, true);
        assert!(durable <= found && found <= written, "seed {seed}: {durable} {found} {written}");
        lost += u64::from(found < written);
    }
    assert!(lost > 25, "of 50 nodes whose power failed only {lost} lost unsynced entries");
}

/// RULES.md W1.
#[test]
fn what_is_in_flight_when_the_process_ends_may_be_lost_and_nothing_else() {
    let mut lost = 0;
    for seed in 0..50 {
        let (durable, written, found) = end_with_writes_in_flight(seed, false);
        assert!(durable <= found && found <= written, "seed {seed}: {durable} {found} {written}");
        lost += u64::from(found < written);
    }
    assert!(lost > 25, "of 50 processes that ended only {lost} lost unsynced entries");
}
