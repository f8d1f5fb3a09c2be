//! Stalls: a disk that does not answer, a shard's thread that takes no turn, a file that is not written, and what follows.
//!
//! In:     each shard's [`Pulse`], which its thread beats once a turn; the changes of the file of openings ([`Saves`]).
//! Out:    over `stall_warn` one line; over two election timeouts the shards of the node lead nothing and stand for
//!         nothing until the disk answers; over `stall_fatal` the node fails, and a second later the process ends.
//! Cost:   one thread per node that looks a few times a second; four relaxed stores a turn.
//! Fails:  lines are written on threads of their own: a standard error that is stuck on the same disk must not
//!         hold up the end.
//! Source: RULES.md rule 18, D3; RULES.md A3 (a live thread must not vouch for a stuck disk).
//!
//! Two places decide. Leaderships are given up by the shard's own turn, from its own count of the silence, so that the
//! simulator runs the same code; a shard also gives up when another of the node does, for they share the disk. Whether
//! the process must end is decided here, for a thread that sits in the kernel decides nothing. It ends by
//! `process::exit`: such a thread can be neither joined nor cancelled, and until it is gone its process neither serves
//! nor gives way. An embedder sees [`NodeError::Stalled`] first, from [`crate::Node::failure`], and may use the second
//! left, or choose that the process goes on (`Config::stall_ends_process`). While a log is being recovered its shard is
//! not watched yet, because a recovery may take long.

use crate::{
    NodeError,
    clock::{self, Nanos},
    pulse::{Pulse, Saves, Silence, StallLimits},
    shared::Shared,
};
use crossbeam_channel::{Receiver, RecvTimeoutError};
use std::time::Duration;

/// Watches until `stop`'s other end is gone.
pub(crate) fn run(node: &Shared, stop: &Receiver<()>) {
    let mut watchdog = Watchdog::new(node);
    let pause = Duration::from(node.stall_limits.look_distance());
    while let Err(RecvTimeoutError::Timeout) = stop.recv_timeout(pause) {
        for (whose, Finding { stage, what, time }) in watchdog.look(clock::now(), node) {
            let time = Duration::from(time);
            match stage {
                Stage::Quiet => tell(format!("{whose} goes on after a stall: {what}")),
                Stage::Slow => tell(format!("{whose}: {what} for {time:.1?}")),
                Stage::Resigned => {
                    tell(format!("{whose}: {what} for {time:.1?}: this node leads no group"));
                }
                Stage::Fatal if !node.stall_ends_process => {
                    tell(format!("{whose}: {what} for {time:.1?}: the node has failed"));
                }
                Stage::Fatal => {
                    tell(format!("{whose}: {what} for {time:.1?}: the process ends"));
                    end()
                }
            }
        }
    }
}

/// Looks at all shards of a node and at its file of openings, and decides what a silence costs. The simulator runs the same
/// code.
pub(crate) struct Watchdog {
    shards: Vec<Watch>,
    saves: SavesWatch,
}

impl Watchdog {
    pub(crate) fn new(node: &Shared) -> Self {
        let limits = &node.stall_limits;
        Self {
            shards: node.pulses.iter().map(|_| Watch::new(limits)).collect(),
            saves: SavesWatch { silence: Watch::silence(limits), stage: Stage::Quiet },
        }
    }

    /// Looks at everything; returns each new finding with the name of the shard or the file that it is about. A shard
    /// that is silent for too long first leads nothing, and at last its node fails. A file that is not written costs no
    /// leadership, because the logs may be well, but at last the node fails too: peers whose processes it has not met
    /// wait for that file.
    pub(crate) fn look(&mut self, now: Nanos, node: &Shared) -> Vec<(String, Finding)> {
        let mut found = Vec::new();
        if let Some(finding) = self.saves.look(now, &node.saves, &node.stall_limits) {
            let file = node.saves.file();
            if finding.stage == Stage::Fatal {
                let time = Duration::from(finding.time);
                node.fail(NodeError::StalledFile { file: file.to_owned(), time });
            }
            found.push((format!("the file {}", file.display()), finding));
        }
        for (shard, (watch, pulse)) in self.shards.iter_mut().zip(&node.pulses).enumerate() {
            let Some(finding) = watch.look(now, pulse, &node.stall_limits) else { continue };
            if finding.stage == Stage::Resigned {
                pulse.set_stalled();
            }
            if finding.stage == Stage::Fatal {
                let time = finding.time.into();
                let number = u32::try_from(shard).expect("shards are counted in u32");
                node.fail(NodeError::Stalled { shard: number, what: finding.what, time });
            }
            found.push((format!("shard {shard}"), finding));
        }
        found
    }
}

/// The node has failed, and its process ends with it.
fn end() -> ! {
    std::thread::sleep(GRACE);
    std::process::exit(1)
}

/// Writes a line without waiting for it to be written.
fn tell(line: String) {
    let _ = std::thread::Builder::new().name("logdrive-tell".to_owned()).spawn(move || {
        tracing::error!("{line}");
        if !tracing::dispatcher::has_been_set() {
            // Nobody takes lines: the process must not end without its reason.
            eprintln!("logdrive: {line}");
        }
    });
}

/// One shard, as the watchdog sees it.
struct Watch {
    disk: Silence,
    thread: Silence,
    stage: Stage,
}

/// How far a stall has come.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Stage {
    Quiet,
    Slow,
    Resigned,
    Fatal,
}

/// A stage that a shard has entered.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Finding {
    pub(crate) stage: Stage,
    what: &'static str,
    time: Nanos,
}

impl Finding {
    /// The groups of the shard lead nothing from now on.
    #[cfg(feature = "testing")]
    pub(crate) fn is_resignation(&self) -> bool {
        self.stage == Stage::Resigned
    }
}

impl Stage {
    /// Takes in the length of a silence. Returns the new finding, if there is one.
    fn enter(
        &mut self,
        time: Nanos,
        what: Said,
        limits: &StallLimits,
        resigns: bool,
    ) -> Option<Finding> {
        let stage = match time {
            _ if time >= limits.fatal => Self::Fatal,
            _ if time >= limits.resign && resigns => Self::Resigned,
            _ if time >= limits.warn => Self::Slow,
            _ => Self::Quiet,
        };
        let was = std::mem::replace(self, stage);
        (stage > was || (stage == Self::Quiet && was > stage)).then_some(Finding {
            stage,
            what: if stage == Self::Quiet { what.ended } else { what.silent },
            time,
        })
    }
}

/// The words for a silence, and for its end.
struct Said {
    silent: &'static str,
    ended: &'static str,
}

/// The file of openings, as the watchdog sees it.
struct SavesWatch {
    silence: Silence,
    stage: Stage,
}

impl SavesWatch {
    fn look(&mut self, now: Nanos, saves: &Saves, limits: &StallLimits) -> Option<Finding> {
        let time = self.silence.look(now, saves.is_owed(), saves.done());
        let said = Said { silent: NOT_WRITTEN, ended: WRITTEN };
        self.stage.enter(time, said, limits, false)
    }
}

impl Watch {
    fn new(limits: &StallLimits) -> Self {
        let silence = || Self::silence(limits);
        Self { disk: silence(), thread: silence(), stage: Stage::Quiet }
    }

    fn silence(limits: &StallLimits) -> Silence {
        Silence::new(limits.least(), limits.look_distance())
    }

    /// The new finding, if there is one.
    fn look(&mut self, now: Nanos, pulse: &Pulse, limits: &StallLimits) -> Option<Finding> {
        let is_alive = pulse.is_alive();
        let owed = is_alive && pulse.is_owed();
        let disk = self.disk.look(now, owed, pulse.answers());
        let thread = self.thread.look(now, is_alive, pulse.turns());
        let (time, silent) = if thread >= disk { (thread, NO_TURN) } else { (disk, NO_ANSWER) };
        self.stage.enter(time, Said { silent, ended: ANSWERS_AGAIN }, limits, true)
    }
}

const NO_ANSWER: &str = "the log's disk has not answered";
const NO_TURN: &str = "its thread has taken no turn";
const NOT_WRITTEN: &str = "it has not been written";
const WRITTEN: &str = "it is written";
const ANSWERS_AGAIN: &str = "its disk and its thread answer again";

/// Between the node's failure and the end of its process: for the answers, the line, and an embedder's last words.
const GRACE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: StallLimits = StallLimits {
        warn: Nanos::from_millis(160),
        resign: Nanos::from_millis(320),
        fatal: Nanos::from_millis(1_600),
    };

    /// Looks every 10 ms from `from` on, in ms, `looks` times; gives the stages entered and when.
    fn watch(watch: &mut Watch, pulse: &Pulse, from: u64, looks: u64) -> Vec<(u64, Stage)> {
        (1..=looks)
            .filter_map(|n| {
                let now = from + n * 10;
                watch.look(Nanos::from_millis(now), pulse, &LIMITS).map(|found| (now, found.stage))
            })
            .collect()
    }

    /// RULES.md D3.
    /// Less counted between two looks than passes between them: a fatal limit of 20 s took 40.
    #[test]
    fn a_small_limit_for_the_first_line_slows_no_other() {
        let limits = StallLimits { warn: Nanos::from_millis(1), ..LIMITS };
        let pulse = Pulse::default();
        pulse.beat(7, true, false);
        let mut shard = Watch::new(&limits);
        let looks_at = |n: u64| Nanos(n * limits.look_distance().get());
        let entered: Vec<_> = (1..2_000)
            .filter_map(|n| Some((n, shard.look(looks_at(n), &pulse, &limits)?.stage)))
            .collect();
        assert_eq!(entered, [(2, Stage::Slow), (321, Stage::Resigned), (1_601, Stage::Fatal)]);
    }

    /// RULES.md D3.
    #[test]
    fn a_silence_is_said_once_per_stage_and_ends_with_the_process() {
        let pulse = Pulse::default();
        pulse.beat(7, true, false);
        let mut shard = Watch::new(&LIMITS);
        assert_eq!(
            watch(&mut shard, &pulse, 0, 200),
            [(170, Stage::Slow), (330, Stage::Resigned), (1610, Stage::Fatal)]
        );
    }

    /// RULES.md D3.
    #[test]
    fn a_thread_that_takes_turns_does_not_vouch_for_its_disk() {
        let pulse = Pulse::default();
        let mut shard = Watch::new(&LIMITS);
        let mut stages = Vec::new();
        for n in 1..=200 {
            pulse.beat(7, true, false);
            stages.extend(
                shard.look(Nanos::from_millis(n * 10), &pulse, &LIMITS).map(|found| found.what),
            );
        }
        assert_eq!(stages, [NO_ANSWER; 3]);
    }

    #[test]
    fn an_answer_ends_a_stall_and_an_idle_disk_owes_none() {
        let pulse = Pulse::default();
        pulse.beat(7, true, false);
        let mut shard = Watch::new(&LIMITS);
        assert_eq!(watch(&mut shard, &pulse, 0, 18), [(170, Stage::Slow)]);
        pulse.beat(8, true, false);
        assert_eq!(watch(&mut shard, &pulse, 180, 1), [(190, Stage::Quiet)]);
        for n in 0..200 {
            pulse.beat(8, false, false);
            assert_eq!(watch(&mut shard, &pulse, 190 + 10 * n, 1), []);
        }
    }

    /// RULES.md D4.
    #[test]
    fn a_pause_of_the_whole_process_is_nobodys_silence() {
        let pulse = Pulse::default();
        pulse.beat(7, true, false);
        let mut shard = Watch::new(&LIMITS);
        assert_eq!(watch(&mut shard, &pulse, 0, 5), []);
        // Paused for longer than every limit; its thread and its disk answer a little after it goes on.
        assert_eq!(watch(&mut shard, &pulse, 1_000_000, 3), []);
        pulse.beat(8, true, false);
        assert_eq!(watch(&mut shard, &pulse, 1_000_030, 5), []);
    }

    /// RULES.md rule 18. The bug: nothing noticed a save that never ended, and all peers that had restarted waited for
    /// it for ever.
    #[test]
    fn a_file_that_is_never_written_is_said_and_ends_with_the_process_and_costs_no_leadership() {
        let saves = Saves::default();
        let mut file = SavesWatch { silence: Watch::silence(&LIMITS), stage: Stage::Quiet };
        let mut look = |ms: u64| {
            let found = file.look(Nanos::from_millis(ms), &saves, &LIMITS)?;
            Some((ms, found.stage, found.what))
        };
        assert!((1..=200).all(|n| look(n * 10).is_none()), "nothing is owed");
        saves.run(|| {
            let stages: Vec<_> = (201..=220).filter_map(|n| look(n * 10)).collect();
            assert_eq!(stages, [(2160, Stage::Slow, NOT_WRITTEN)]);
        });
        assert_eq!(look(2210), Some((2210, Stage::Quiet, WRITTEN)));
        saves.run(|| {
            // A later change waits for the first, and ends no silence.
            saves.run(|| {
                let stages: Vec<_> = (222..=400).filter_map(|n| look(n * 10)).collect();
                let expected = [(2370, Stage::Slow), (3810, Stage::Fatal)];
                assert_eq!(stages, expected.map(|(at, stage)| (at, stage, NOT_WRITTEN)));
            });
        });
    }

    #[test]
    fn who_has_not_begun_or_has_ended_is_not_watched() {
        let pulse = Pulse::default();
        let mut shard = Watch::new(&LIMITS);
        assert_eq!(watch(&mut shard, &pulse, 0, 200), []);
        pulse.beat(1, true, true);
        pulse.end();
        assert_eq!(watch(&mut shard, &pulse, 2_000, 200), []);
        assert!(!pulse.is_stalled());
    }
}
