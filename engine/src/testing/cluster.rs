//! A cluster to be simulated: the simulator as embedders see it.
//!
//! In:     a seed; if wanted the sizes, a state machine, operations, a check of what clients saw.
//! Out:    [`Report`] or [`Failure`].

use super::{
    caught::caught,
    coverage::Coverage,
    describe::{Describe, escaped},
    determinism,
    event::Counts,
    excuses::EXCUSES,
    invariants::Broken,
    linearizable,
    machine::{Operation, Registers},
    machine_disk::MachineDisk,
    random::Random,
    run::{Finished, Run, schedule_of},
    setup::{Call, Setup},
    shape::Shape,
    trace::Trace,
};
use crate::{GroupId, NodeId, StateMachine};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

/// A cluster under simulation, all of it drawn from one seed.
///
/// A state machine of one's own, under crashes, partitions and failing disks:
///
/// ```
/// use logdrive::testing::Cluster;
/// use logdrive::{Committed, MachineError, Replies, StateMachine};
///
/// /// Adds numbers up; replies the sum.
/// #[derive(Default)]
/// struct Sum(u64);
///
/// impl StateMachine for Sum {
///     fn apply(&mut self, batch: &Committed<'_>, replies: &mut Replies) -> Result<(), MachineError> {
///         for command in batch.commands() {
///             self.0 += u64::from(command.bytes[0]);
///             replies.push(self.0.to_le_bytes().to_vec());
///         }
///         Ok(())
///     }
/// }
///
/// for seed in 0..5 {
///     let report = Cluster::new(seed)
///         .nodes(3)
///         .machine(|_node, _group| Box::<Sum>::default())
///         .operations(|random, _group| vec![1 + random.below(9) as u8].into())
///         .check(|calls| {
///             // Sums only grow: a call made after another was answered saw more.
///             for earlier in calls {
///                 for later in calls.iter().filter(|later| later.group == earlier.group) {
///                     let (Some((at, before)), Some((_, after))) = (&earlier.reply, &later.reply) else {
///                         continue;
///                     };
///                     let sum = |reply: &[u8]| u64::from_le_bytes(reply.try_into().unwrap());
///                     if later.called > *at && sum(after) <= sum(before) {
///                         return Err(format!("{later:?} saw less than {earlier:?}"));
///                     }
///                 }
///             }
///             Ok(())
///         })
///         .run()
///         .unwrap_or_else(|failure| panic!("{failure}"));
///     assert!(report.counts.acknowledged > 0);
/// }
/// ```
#[derive(Clone)]
pub struct Cluster(pub(super) Setup);

/// The outcome of a run.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// A hash over everything that happened, in order: equal for equal runs.
    pub trace: u64,
    /// The events of the run, in numbers.
    pub counts: Counts,
    /// Excuses that were made, and how often: [`EXCUSES`].
    pub excuses: BTreeMap<&'static str, u64>,
    /// The places in the code that the run reached.
    pub coverage: Coverage,
    /// The history, a line per event, if it was asked for.
    pub lines: Vec<String>,
}

/// A run that broke an invariant.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// The invariant, as `engine/RULES.md` names it; or the place of a panic.
    pub invariant: String,
    /// Both sides of the contradiction.
    pub what: String,
    /// The faults of the run, by number.
    pub faults: Vec<(usize, String)>,
    /// A hash over everything that happened until then, in order: equal for equal runs.
    pub trace: u64,
    /// The events of the run until then, in numbers.
    pub counts: Counts,
    /// The places in the code that the run reached.
    pub coverage: Coverage,
    /// The history, a line per event, if it was asked for.
    pub lines: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, invariant, what, trace, counts, .. } = self;
        write!(f, "seed {seed}, step {}, trace {trace:016x}: {invariant}: {what}", counts.steps)
    }
}

impl std::error::Error for Failure {}

impl Cluster {
    /// A cluster of a few registers, with clients whose history is checked to be linearizable. The seed determines
    /// sizes, weather and faults.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Setup {
            seed,
            nodes: None,
            groups: None,
            machine: Arc::new(move |_, group, disk| Box::new(registers(seed, group, disk))),
            operations: Arc::new(draw_operation),
            check: Arc::new(check_registers),
            describe: Describe {
                command: Arc::new(|command| {
                    Operation::decode(command)
                        .map_or_else(|| escaped(command), |operation| format!("{operation:?}"))
                }),
                reply: Arc::new(|reply| {
                    register_of(reply).map_or_else(|| escaped(reply), |value| value.to_string())
                }),
            },
            only: None,
            traced: false,
            strict: BTreeSet::new(),
        })
    }

    /// Sets the number of nodes, at most 9.
    #[must_use]
    pub fn nodes(self, nodes: u64) -> Self {
        assert!((1..=9).contains(&nodes), "a cluster of {nodes} nodes");
        Self(Setup { nodes: Some(nodes), ..self.0 })
    }

    /// Sets the number of groups.
    #[must_use]
    pub fn groups(self, groups: u64) -> Self {
        assert!(groups > 0, "a cluster without groups");
        Self(Setup { groups: Some(groups), ..self.0 })
    }

    /// Another state machine, that lives in memory: it is made anew for each group whenever a node starts. Replies of
    /// all replicas are compared, and the digests that [`StateMachine::digest`] gives. If a machine is not
    /// deterministic, the failure says so. The answers that clients see are then checked only if [`Cluster::check`]
    /// says how.
    #[must_use]
    pub fn machine(
        self,
        machine: impl Fn(NodeId, GroupId) -> Box<dyn StateMachine> + Send + Sync + 'static,
    ) -> Self {
        self.durable_machine(move |node, group, _| machine(node, group))
    }

    /// Another state machine, that is durable by itself: as [`Cluster::machine`], on a disk that outlives the process
    /// and loses unsynced writes if the power fails. Whenever a node starts, its machines are opened: each must be no
    /// further than it was given commands, not before the index that [`StateMachine::durable`] said, and have the
    /// state that the group's other machines have there.
    ///
    /// ```
    /// use logdrive::testing::{Cluster, MachineDisk};
    /// use logdrive::{AppliedAt, Committed, LogIndex, MachineError, Replies, StateMachine};
    ///
    /// /// Adds numbers up, and saves the sum beside the place in the log where it was.
    /// struct Sum {
    ///     disk: MachineDisk,
    ///     sum: u64,
    /// }
    ///
    /// impl StateMachine for Sum {
    ///     fn open(&mut self) -> Result<AppliedAt, MachineError> {
    ///         let Some(saved) = self.disk.read(b"sum") else { return Ok(AppliedAt::START) };
    ///         let number = |at| u64::from_le_bytes(saved[at..at + 8].try_into().unwrap());
    ///         self.sum = number(8);
    ///         Ok(AppliedAt(LogIndex(number(0))))
    ///     }
    ///
    ///     fn apply(&mut self, batch: &Committed<'_>, replies: &mut Replies) -> Result<(), MachineError> {
    ///         for command in batch.commands() {
    ///             self.sum += u64::from(command.bytes[0]);
    ///             replies.push(self.sum.to_le_bytes().to_vec());
    ///         }
    ///         // One value: a power loss leaves the place and the sum of one batch, never of two.
    ///         let numbers = [batch.last().get(), self.sum];
    ///         self.disk.write("sum", numbers.map(u64::to_le_bytes).concat());
    ///         Ok(())
    ///     }
    ///
    ///     fn digest(&self) -> Option<u64> {
    ///         Some(self.sum)
    ///     }
    /// }
    ///
    /// for seed in 0..5 {
    ///     Cluster::new(seed)
    ///         .durable_machine(|_node, _group, disk| Box::new(Sum { disk, sum: 0 }))
    ///         .operations(|random, _group| vec![1 + random.below(9) as u8].into())
    ///         .run()
    ///         .unwrap_or_else(|failure| panic!("{failure}"));
    /// }
    /// ```
    #[must_use]
    pub fn durable_machine(
        self,
        machine: impl Fn(NodeId, GroupId, MachineDisk) -> Box<dyn StateMachine> + Send + Sync + 'static,
    ) -> Self {
        let (check, describe) = (Arc::new(|_: &[Call]| Ok(())), Describe::default());
        Self(Setup { machine: Arc::new(machine), check, describe, ..self.0 })
    }

    /// The clients' commands.
    #[must_use]
    pub fn operations(
        self,
        operations: impl Fn(&mut Random, GroupId) -> Bytes + Send + Sync + 'static,
    ) -> Self {
        self.operations_after(move |random, group, _| operations(random, group))
    }

    /// The clients' commands, made of what clients have called before, in all groups, oldest first, and what they
    /// know by now: a reply, that it was refused, that its outcome is unknown, or nothing yet. So a command may say
    /// what it expects to find, and a client that does not know the outcome may try again under the same token.
    ///
    /// ```
    /// use logdrive::testing::Cluster;
    /// use logdrive::{Committed, MachineError, Replies, StateMachine};
    /// use std::collections::BTreeMap;
    ///
    /// /// Hands out tickets: one for each token, however often it is asked.
    /// #[derive(Default)]
    /// struct Tickets(BTreeMap<Vec<u8>, u64>);
    ///
    /// impl StateMachine for Tickets {
    ///     fn apply(&mut self, batch: &Committed<'_>, replies: &mut Replies) -> Result<(), MachineError> {
    ///         for command in batch.commands() {
    ///             let next = self.0.len() as u64;
    ///             let ticket = *self.0.entry(command.bytes.to_vec()).or_insert(next);
    ///             replies.push(ticket.to_le_bytes().to_vec());
    ///         }
    ///         Ok(())
    ///     }
    /// }
    ///
    /// for seed in 0..5 {
    ///     Cluster::new(seed)
    ///         .machine(|_node, _group| Box::<Tickets>::default())
    ///         .operations_after(|random, group, calls| {
    ///             let lost = calls.iter().rfind(|call| call.group == group && call.unknown);
    ///             match lost {
    ///                 Some(lost) if random.once_in(3) => lost.command.clone(),
    ///                 // The number of calls is a token that no call had before.
    ///                 _ => calls.len().to_le_bytes().to_vec().into(),
    ///             }
    ///         })
    ///         .check(|calls| {
    ///             let mut tickets = BTreeMap::new();
    ///             for call in calls {
    ///                 let Some((_, ticket)) = &call.reply else { continue };
    ///                 let first = tickets.entry((call.group, &call.command)).or_insert(ticket);
    ///                 if *first != ticket {
    ///                     return Err(format!("{call:?} had the ticket {first:?} before"));
    ///                 }
    ///             }
    ///             Ok(())
    ///         })
    ///         .run()
    ///         .unwrap_or_else(|failure| panic!("{failure}"));
    /// }
    /// ```
    #[must_use]
    pub fn operations_after(
        self,
        operations: impl Fn(&mut Random, GroupId, &[Call]) -> Bytes + Send + Sync + 'static,
    ) -> Self {
        let operations = move |random: &mut Random, group, _: &Shape, calls: &[Call]| {
            operations(random, group, calls)
        };
        Self(Setup { operations: Arc::new(operations), ..self.0 })
    }

    /// Sets how a command looks in a history and in a failure: without this, as escaped bytes. Call it after
    /// [`Cluster::machine`], which undoes it, as another machine has other commands.
    #[must_use]
    pub fn describe_commands(
        self,
        describe: impl Fn(&[u8]) -> String + Send + Sync + 'static,
    ) -> Self {
        let describe = Describe { command: Arc::new(describe), ..self.0.describe.clone() };
        Self(Setup { describe, ..self.0 })
    }

    /// Sets how a reply looks, likewise.
    #[must_use]
    pub fn describe_replies(
        self,
        describe: impl Fn(&[u8]) -> String + Send + Sync + 'static,
    ) -> Self {
        let describe = Describe { reply: Arc::new(describe), ..self.0.describe.clone() };
        Self(Setup { describe, ..self.0 })
    }

    /// Checks what all clients saw, when everything has healed.
    #[must_use]
    pub fn check(
        self,
        check: impl Fn(&[Call]) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        Self(Setup { check: Arc::new(check), ..self.0 })
    }

    /// Only these faults of the seed's schedule, by number.
    #[must_use]
    pub fn only(self, faults: Vec<usize>) -> Self {
        Self(Setup { only: Some(faults), ..self.0 })
    }

    /// Does not make this excuse ([`EXCUSES`]): the cases that it covers are failures then.
    ///
    /// # Panics
    /// If there is no such excuse.
    #[must_use]
    pub fn without_excuse(mut self, name: &str) -> Self {
        let known = EXCUSES.iter().find(|excuse| excuse.name == name);
        self.0.strict.insert(known.unwrap_or_else(|| panic!("no excuse {name:?}")).name);
        self
    }

    /// Keeps the history, a line per event.
    #[must_use]
    pub fn traced(self) -> Self {
        Self(Setup { traced: true, ..self.0 })
    }

    /// The faults that a run will see: number and name.
    #[must_use]
    pub fn faults(&self) -> Vec<(usize, String)> {
        let line = |planned: &super::schedule::Planned| {
            let text = format!("step {}: {} {:?}", planned.step, planned.fault.name, planned.args);
            (planned.number, text)
        };
        schedule_of(&self.0).iter().map(line).collect()
    }

    /// Runs the cluster.
    ///
    /// # Errors
    /// [`Failure`]: an invariant is broken, or something panicked.
    pub fn run(&self) -> Result<Report, Box<Failure>> {
        Coverage::begin();
        let mut finished = Finished::default();
        let run = caught(|| Run::new(&self.0).all(&mut finished));
        let coverage = Coverage::end();
        let seed = self.0.seed;
        let Finished { counts, excuses, trace: Trace { hash: trace, lines, .. }, commands } =
            finished;
        let lines = lines.unwrap_or_default();
        let Err(broken) = run else {
            return Ok(Report { seed, trace, counts, excuses, coverage, lines });
        };
        let Broken { invariant, what } = determinism::blame(&self.0, &commands, broken);
        let faults = self.faults();
        Err(Box::new(Failure { seed, invariant, what, faults, trace, counts, coverage, lines }))
    }
}

fn draw_operation(random: &mut Random, group: GroupId, shape: &Shape, calls: &[Call]) -> Bytes {
    let key = u8::try_from(random.below(shape.keys)).expect("a few keys");
    // Values are unique, so that an answer says which write it saw.
    let value = random.any();
    let operation = match random.below(5) {
        0 | 1 => Operation::Get { key },
        2 => {
            // Expects the value that the last answered operation left in the register, or the first value.
            let mut left =
                calls.iter().rev().filter(|call| call.group == group).filter_map(|call| {
                    let (_, reply) = call.reply.as_ref()?;
                    let operation = Operation::decode(&call.command).filter(|o| o.key() == key)?;
                    Some(operation.run(register_of(reply)?).after)
                });
            Operation::Swap { key, expected: left.next().unwrap_or(0), value }
        }
        _ => Operation::Put { key, value },
    };
    let padding = usize::try_from(random.below(shape.payload_max)).expect("small");
    operation.encode(padding)
}

fn check_registers(calls: &[Call]) -> Result<(), String> {
    let groups: std::collections::BTreeSet<GroupId> = calls.iter().map(|call| call.group).collect();
    for group in groups {
        let calls: Vec<linearizable::Call> = (calls.iter())
            .filter(|call| call.group == group && !call.refused)
            .map(|call| linearizable::Call {
                operation: Operation::decode(&call.command).expect("one of ours"),
                called: call.called,
                answer: call.reply.as_ref().map(|(at, reply)| linearizable::Answer {
                    at: *at,
                    said: register_of(reply).expect("a register's reply is a number"),
                }),
            })
            .collect();
        linearizable::check(&calls).map_err(|what| format!("{group:?}: {what}"))?;
    }
    Ok(())
}

/// The registers of half of the groups are durable by themselves.
fn registers(seed: u64, group: GroupId, disk: MachineDisk) -> Registers {
    match Random::stream(seed, 100 + group.get()).once_in(2) {
        true => Registers::durable(disk),
        false => Registers::default(),
    }
}

fn register_of(reply: &[u8]) -> Option<u64> {
    reply.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}
