//! The bug bank: mutations compiled in by the feature `bug-bank`, each of which the simulator must catch.
//!
//! In:     a mutation's name; seeds.
//! Out:    the first seed that fails with it, and by which invariant.
//! Cost:   a run per seed.
//! Fails:  a mutation that no seed catches is a hole in the simulator.
//! Source: RULES.md T3.
//!
//! To add one: `bug!("name")` at its place, and a line in [`ALL`]. `engine/BUGS.md` is made by
//! `LOGDRIVE_BUGS=write cargo test -p logdrive --features bug-bank --test bug_bank`.

use super::{Cluster, caught::caught, invariants::Broken};

/// A mutation.
#[derive(Clone, Copy, Debug)]
pub struct Bug {
    /// As in `bug!`.
    pub name: &'static str,
    /// The bug's effect, and the rule that the bug breaks.
    pub what: &'static str,
    /// The seed from which on it is hunted.
    pub first: u64,
    /// Seeds within which it must be caught.
    pub seeds: u64,
}

const fn bug(name: &'static str, seeds: u64, what: &'static str) -> Bug {
    Bug { name, what, first: 0, seeds }
}

/// A bug that does harm so rarely that its hunt begins at a seed close to one that shows it.
const fn rare_bug(name: &'static str, first: u64, seeds: u64, what: &'static str) -> Bug {
    Bug { name, what, first, seeds }
}

/// All of them.
pub const ALL: &[Bug] = &[
    bug("ack_before_durable", 10, "a follower acknowledges what is not on its disk yet (rule 10)"),
    bug("heartbeat_acks_last", 10, "a heartbeat's answer acknowledges the log's end (M13)"),
    bug(
        "ack_last_not_match",
        60,
        "an append's answer acknowledges the log's end, not what was compared",
    ),
    bug("vote_before_durable", 10, "a vote leaves before it is on disk (rule 11)"),
    bug("vote_not_saved", 10, "a vote for another is never written (rule 11)"),
    bug("votes_twice", 60, "a second candidate of a term gets a vote too"),
    bug("vote_forgotten_on_restart", 200, "a restart forgets whom it voted for"),
    bug(
        "vote_requests_before_durable",
        10,
        "a candidate asks before its own vote is on disk (rule 11)",
    ),
    bug(
        "own_vote_before_durable",
        400,
        "a candidate counts its own vote before it is on disk (rule 11)",
    ),
    bug("vote_for_any_log", 60, "a candidate's log is not looked at (paper §5.4.1)"),
    bug(
        "earlier_term_by_counting",
        60,
        "entries of an earlier term are committed by counting (M11)",
    ),
    bug(
        "leader_counts_itself_at_once",
        60,
        "a leader counts its own log before it is on disk (M12)",
    ),
    bug("half_is_a_majority", 60, "half of an even number of voters is enough"),
    bug("heartbeats_after_quorum_loss", 60, "a leader without a majority goes on (N2, N5)"),
    bug("heartbeat_commit_unclamped", 60, "a heartbeat tells a commit index past what was matched"),
    bug("commit_past_match", 200, "an append's commit index is taken up to the log's end"),
    bug(
        "prev_log_by_index_only",
        60,
        "an append is taken without comparing the term before it (paper §5.3)",
    ),
    bug("shorter_append_truncates", 60, "a late, shorter append takes back what follows it"),
    bug("promise_outlives_its_term", 400, "a promise of an earlier term leaves with a later one's"),
    bug("unknown_never_told", 60, "whoever waits when leadership moves is never answered"),
    bug("apply_before_durable", 60, "an entry is applied before it is on this disk (rule 16)"),
    bug("window_never_full", 60, "a leader appends however much is in flight to a follower"),
    bug("uncommitted_never_full", 60, "a leader takes commands however much is not committed"),
    bug(
        "failed_machine_passed_over",
        60,
        "a group goes on without what its machine failed at (P9)",
    ),
    bug(
        "failed_machine_stops_its_shard",
        120,
        "a failed machine stops every group of its shard (P9)",
    ),
    bug(
        "restarted_where_the_failed_machine_was",
        120,
        "a group with another machine goes on where the failed one was, not where that one opens (P9)",
    ),
    bug(
        "restarted_group_refuses_commands",
        120,
        "the handles of a group with another machine still say that it has stopped (P9)",
    ),
    bug(
        "foundings_not_compared",
        120,
        "replicas that were founded with other members take each other for members (M14)",
    ),
    bug(
        "tail_kept_for_a_slow_peer",
        120,
        "a group keeps all that a slow peer lacks in memory (B3)",
    ),
    bug(
        "tails_of_all_groups_unbounded",
        120,
        "each group keeps as much for slow peers as if it were alone on its shard (B3)",
    ),
    bug(
        "reopened_machine_starts_over",
        60,
        "a machine that is durable by itself is given the commands before its place again",
    ),
    bug(
        "reopened_machine_misses_a_command",
        60,
        "a machine that is durable by itself is not given the first entry behind its place",
    ),
    bug(
        "command_past_a_turns_bound_dropped",
        200,
        "a turn that has as many commands as it may takes one more out, and forgets it (A4)",
    ),
    bug(
        "machines_of_a_turn_unbounded",
        60,
        "a turn hands all that is committed to the machines, whatever its bound (A4)",
    ),
    bug(
        "group_past_a_turns_machines_forgotten",
        200,
        "a group whose entries are past a turn's bound is never handed them (A4)",
    ),
    bug("unknown_told_as_no", 60, "a proposal in the log is told as refused when leadership moves"),
    bug(
        "durable_by_any_completion",
        60,
        "any finished write vouches for those before it (rule 10)",
    ),
    bug("held_write_overtaken", 600, "a write overtakes one of its group that waits for room"),
    bug(
        "full_follower_fed",
        60,
        "a follower that has said that it has no room is sent entries (W9)",
    ),
    bug(
        "full_peer_not_asked_again",
        600,
        "a peer whose word that it has room again is lost is sent nothing more (B2)",
    ),
    bug(
        "withdrawn_without_the_leadership",
        600,
        "a leader withdraws entries of its term and leads on (W9)",
    ),
    bug(
        "never_told_overdue",
        1_000,
        "who waits for what no majority has room for waits for ever (W10)",
    ),
    bug(
        "entries_held_for_want_of_room",
        1500,
        "a vote waits behind entries for which there is no room (W10)",
    ),
    bug("failed_write_taken_for_done", 60, "a failed write counts as done (rule 17)"),
    bug("sync_retried", 60, "a failed sync is tried once more, and believed (rule 17, W7)"),
    bug(
        "page_cache_believed_by_an_open",
        800,
        "an open counts what it read through the page cache, and nobody knew durable, as it stands (W7)",
    ),
    bug(
        "start_record_before_what_it_moves",
        600,
        "an open's first batch is written at once: its start record may land without what it stands for (W3)",
    ),
    bug(
        "segment_before_the_last_is_durable",
        60,
        "a segment is begun before the last one is durable (rule 8)",
    ),
    bug(
        "damage_cut_as_a_tail",
        400,
        "damage below a durable offset is cut off as a torn tail, in mid-log too (rule 21)",
    ),
    bug("damage_passed_over", 400, "a damaged batch is left out, and its groups go on (rule 24)"),
    bug("batch_checksum_not_looked_at", 60, "recovery takes a batch whose body fails its checksum"),
    rare_bug("old_terms_ack_counts", 900, 400, "an acknowledgement of an earlier term is counted"),
    bug("vote_by_durable_log", 900, "votes are decided by the durable log (rule 10)"),
    rare_bug(
        "aba_completion",
        1400,
        400,
        "a finished write vouches for an entry that was replaced and put back (W14)",
    ),
    bug(
        "marked_replica_votes",
        600,
        "a replica that knows it lost what it acknowledged votes (C3)",
    ),
    bug(
        "readmitted_without_every_word",
        200,
        "a marked replica is readmitted before every other voter has stated its term (B6)",
    ),
    bug("recovery_keeps_the_first_vote", 60, "recovery takes the first hard state, not the last"),
    bug(
        "timers_before_frames",
        200,
        "a turn's timers fire before its frames are heard: two steps of the turn swapped (D5)",
    ),
    bug(
        "answers_before_the_end",
        200,
        "a turn's answers leave before its shard's end is known: two steps of the turn swapped",
    ),
    bug(
        "forwarded_to_the_wrong_shard",
        60,
        "a frame is forwarded to a shard that does not own its group",
    ),
    bug(
        "copy_let_in",
        400,
        "an old copy of a peer's directory, or an earlier life of the peer, is let in (C7, N8)",
    ),
    bug(
        "introduced_without_saving",
        400,
        "a peer is answered before it is remembered durably (C7)",
    ),
    bug(
        "old_connections_frames_delivered",
        200,
        "frames of a replaced connection are delivered beside those of the new one (N8)",
    ),
    bug(
        "earlier_processes_frames_heard",
        60,
        "a frame that waited while its peer restarted is heard after one of the new process (M14, N8)",
    ),
    bug(
        "commit_saved_past_its_entries",
        500,
        "a saved commit index covers entries that land later than it does (B1)",
    ),
    bug(
        "buffered_writes_in_flight_together",
        60,
        "several writes through the page cache are in flight at once (W7)",
    ),
    bug(
        "restart_keeps_its_segment",
        120,
        "an open leaves the last segment as it is, however little is in it (W17)",
    ),
    bug(
        "no_room_told_once",
        1500,
        "a disk that has said once that it has no room does not say so again (W9)",
    ),
    bug(
        "forwarded_bytes_unbounded",
        300,
        "frames are forwarded to a shard whatever waits for it (B4)",
    ),
    bug(
        "frames_are_never_many",
        60,
        "a shard reads its connections on, whatever waits for its turn (B4)",
    ),
    bug("turn_takes_every_message", 60, "a turn takes in every message there is (A4)"),
    bug(
        "hard_state_behind_its_entries",
        60,
        "a write is split at the wrong place: its entries land before its hard state (rule 11)",
    ),
];

/// Mutations of the log that its own histories catch: `wal/tests/model.rs`, which gives space back.
pub const OF_THE_LOG: &[Bug] = &[
    bug(
        "space_without_carrying_the_vote",
        60,
        "a segment goes with the latest vote in it (invariant 22)",
    ),
    bug(
        "space_before_its_copies_are_durable",
        60,
        "a segment goes before what was carried from it is on disk (invariant 22)",
    ),
    bug("tombstone_dropped_early", 200, "a segment goes with a destroyed group's tombstone in it"),
    bug(
        "no_segment_id_in_the_checksum",
        60,
        "bytes of a file's earlier life pass for its own (rule 2, W12)",
    ),
    bug(
        "segments_too_small_for_old_records",
        60,
        "a record from larger segments is carried into one of the usual size (W18)",
    ),
    bug("index_keeps_its_memory", 60, "the index keeps the memory of what was released (W20)"),
    bug(
        "manifest_takes_room",
        200,
        "giving a segment up takes room for a new manifest, of which a full disk has none (W9)",
    ),
    bug(
        "votes_reserve_not_renewed",
        60,
        "on a full disk votes end when their reserve is used up (W16)",
    ),
    bug("directory_not_synced", 200, "the maker skips the directory's sync (rule 7)"),
    bug("new_file_not_synced", 200, "the maker skips the sync of files it makes (rule 7)"),
];

/// How a mutation was caught.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Caught {
    /// Runs it took.
    pub seeds: u64,
    /// The invariant, or where an assertion stands.
    pub by: String,
    /// Both sides of the contradiction.
    pub what: String,
}

/// Runs the cluster of each seed with the mutation `name` on, until one fails.
#[must_use]
pub fn hunt(name: &'static str, seeds: std::ops::Range<u64>) -> Option<Caught> {
    let run =
        |seed| Cluster::new(seed).run().map(drop).map_err(|f| (f.invariant.clone(), f.to_string()));
    hunt_with(name, seeds, run)
}

/// The first of `seeds` for which `run` fails with the mutation `name` on: the invariant that caught it, and why.
#[must_use]
pub fn hunt_with(
    name: &'static str,
    seeds: std::ops::Range<u64>,
    run: impl Fn(u64) -> Result<(), (String, String)>,
) -> Option<Caught> {
    let first = seeds.start;
    with(name, || {
        seeds
            .map(|seed| (seed - first + 1, run(seed)))
            .find_map(|(seeds, result)| result.err().map(|(by, what)| Caught { seeds, by, what }))
    })
}

/// Runs something with the mutation `name` on.
pub fn with<T>(name: &'static str, run: impl FnOnce() -> T) -> T {
    logdrive_raft::hooks::switch_on(Some(name));
    let result = run();
    logdrive_raft::hooks::switch_on(None);
    result
}

/// Runs something that panics if it finds a mutation.
///
/// # Errors
/// The place of the assertion that failed, and its text.
pub fn guard(run: impl FnOnce()) -> Result<(), (String, String)> {
    caught(run).map_err(|Broken { invariant, what }| (invariant, what))
}
