//! The knowledge that a running node has of its peers' directories, for all its threads.
//!
//! In:     hellos of dialers, answers of acceptors.
//! Out:    how a peer is met, or the refusal, of which nothing is kept. A change is saved before it counts.
//! Cost:   a short lock; a synced write if anything changes.
//! Fails:  as `stores` says.
//! Source: RULES.md P6, P11, C7.

use crate::Hello;
use crate::handshake::{self, Answer, Refusal};
use crate::peer_log::PeerLog;
use crate::stores::{Meeting, PeerStores};
use logdrive_raft::NodeId;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// Keeps what [`PeerStores::encode`] gives, durably, in room that was made before.
pub type Save = Box<dyn Fn(&[u8]) -> io::Result<()> + Send + Sync>;

/// Is told of each peer whose largest command this node's segments do not hold, and of the bytes of that command, whenever
/// the peer is refused for it.
pub type OnTooLarge = Box<dyn Fn(NodeId, u32) + Send + Sync>;

/// How a dialer goes on after an answer.
///
/// Both ways the acceptor says that it remembers us, which [`Acquaintances::note`] must keep before anything else is done.
#[derive(Debug)]
pub enum Heard {
    /// The connection is open.
    Up(Hello),
    /// The acceptor did not remember us before: we must dial again.
    Introduced(Hello),
}

/// The [`PeerStores`] of a running node, for all its threads. Its readers never wait for a save.
pub struct Acquaintances {
    state: Mutex<PeerStores>,
    /// Held by whoever changes the state, from before it is read until after it is saved.
    changing: Mutex<()>,
    /// Held for each save by those that must not block a thread (see `saving`): they keep one thread of all runtimes.
    pub(crate) saving: Arc<tokio::sync::Mutex<()>>,
    save: Save,
    /// The largest command that this node's segments hold, in bytes.
    command_bytes_held: u32,
    on_too_large: OnTooLarge,
    /// The lines that were written of peers.
    pub(crate) log: PeerLog,
}

impl Acquaintances {
    /// Begins with `peers`, which are saved already.
    #[must_use]
    pub fn new(peers: PeerStores, save: Save) -> Self {
        Self {
            state: Mutex::new(peers),
            changing: Mutex::new(()),
            saving: Arc::default(),
            save,
            command_bytes_held: u32::MAX,
            on_too_large: Box::new(|_, _| {}),
            log: PeerLog::default(),
        }
    }

    /// Refuses peers whose directories were founded for larger commands than `bytes`, and tells `on_too_large` of them.
    /// Nothing of such a peer is kept: a peer that is set up wrongly must not harm the others.
    #[must_use]
    pub fn holding(self, bytes: u32, on_too_large: OnTooLarge) -> Self {
        Self { command_bytes_held: bytes, on_too_large, ..self }
    }

    /// For a process without a directory, which says that it is `store`: it remembers nothing past its end.
    #[must_use]
    pub fn forgetful(store: u128, incarnation: u64, peers: &[NodeId]) -> Self {
        let mut stores = PeerStores::default();
        stores.open(store, incarnation, peers.iter().copied(), &mut || 0);
        Self::new(stores, Box::new(|_| Ok(())))
    }

    /// `me`, with the proof that is for `peer`.
    #[must_use]
    pub fn present(&self, me: &Hello, peer: NodeId) -> Hello {
        Hello { proof: self.lock().proof(peer), ..me.clone() }
    }

    /// [`PeerStores::meet`] if it changes nothing that must be saved; else `None`, and [`Self::meet`] must be called.
    #[must_use]
    pub fn recognise(&self, hello: &Hello) -> Option<Result<Meeting, Refusal>> {
        let state = self.lock();
        if let Err(refusal) = self.check(&state, hello) {
            drop(state);
            return Some(Err(self.told(hello, refusal)));
        }
        let mut next = state.clone();
        let met = next.meet(hello);
        (next == *state).then_some(met)
    }

    /// [`PeerStores::meet`], saved. Blocks for the time of a synced write.
    ///
    /// # Errors
    /// [`crate::NetError::Refused`], or [`crate::NetError::Io`] of the save: then nothing has changed.
    pub fn meet(&self, hello: &Hello) -> Result<Meeting, crate::NetError> {
        self.change(|next| {
            self.check(next, hello)
                .and_then(|()| next.meet(hello))
                .map_err(|refusal| crate::NetError::Refused(self.told(hello, refusal)))
        })
    }

    /// [`PeerStores::check`], and whether this node's segments hold the peer's commands.
    fn check(&self, state: &PeerStores, hello: &Hello) -> Result<(), Refusal> {
        state.check(hello)?;
        if hello.command_bytes_founded > self.command_bytes_held {
            return Err(Refusal::SmallSegments);
        }
        Ok(())
    }

    /// Tells of a peer whose commands are too large. To be called without the lock of the state.
    fn told(&self, hello: &Hello, refusal: Refusal) -> Refusal {
        if refusal == Refusal::SmallSegments {
            (self.on_too_large)(hello.node, hello.command_bytes_founded);
        }
        refusal
    }

    /// Judges the answer to the hello `me`, which was for `peer`.
    ///
    /// # Errors
    /// The connection must be closed. [`crate::NetError::RefusedByPeer`] is said by the peer as it is known here, or by
    /// one that was never confirmed.
    pub fn hear(&self, me: &Hello, peer: NodeId, answer: &[u8]) -> Result<Heard, crate::NetError> {
        let check = |hello: &Hello| {
            let checked = self.check(&self.lock(), hello);
            checked.map_err(|refusal| crate::NetError::Refused(self.told(hello, refusal)))
        };
        match handshake::judge_answer(me, peer, answer)? {
            Answer::Welcome(hello) => check(&hello).map(|()| Heard::Up(hello)),
            Answer::Introduced(hello) => check(&hello).map(|()| Heard::Introduced(hello)),
            Answer::Refused { refusal, store } => {
                let is_believed = !refusal.is_for_good() || self.lock().may_be(peer, store);
                Err(match is_believed {
                    true => crate::NetError::RefusedByPeer(refusal),
                    false => crate::NetError::Refused(Refusal::OtherStore),
                })
            }
        }
    }

    /// True if [`Self::note`] would change nothing.
    #[must_use]
    pub fn has_noted(&self, acceptor: &Hello) -> bool {
        let state = self.lock();
        !state.clone().note(acceptor)
    }

    /// [`PeerStores::note`], saved. Blocks for the time of a synced write if that changes anything.
    ///
    /// # Errors
    /// That of the save: then nothing has changed.
    pub fn note(&self, acceptor: &Hello) -> Result<(), crate::NetError> {
        self.change(|next| {
            next.note(acceptor);
            Ok(())
        })
    }

    /// Takes over what `step` makes of the state, once it is saved.
    fn change<T>(
        &self,
        step: impl FnOnce(&mut PeerStores) -> Result<T, crate::NetError>,
    ) -> Result<T, crate::NetError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.lock().clone();
        let mut next = before.clone();
        let done = step(&mut next)?;
        if next != before {
            if !logdrive_raft::bug!("introduced_without_saving") {
                (self.save)(&next.encode())?;
            }
            *self.lock() = next;
        }
        Ok(done)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, PeerStores> {
        // Nothing is changed before it is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Acquaintances {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.lock().fmt(f)
    }
}
