//! The record that nodes keep of each other's directories: by it a node that lost its directory, or came back with an
//! old copy of it, is told from the node that its peers know. No I/O; each change is kept by the owner's `save`.
//!
//! In:     the [`Hello`]s of both directions, and one call per opening of the directory.
//! Out:    [`Meeting`] or the [`Refusal`] of a peer; the proofs that our own hellos carry.
//! Cost:   per peer and opening one write at each end for the peer to be remembered, one for it to be noted; what
//!         changes nothing writes nothing.
//! Fails:  what could not be saved counts for nothing: the connection ends with the error.
//! Source: RULES.md P6, C7, rule 27.
//!
//! A *store* is a directory, by a number drawn when it was made. Each *opening* of it draws a nonce for each peer, known
//! to these two alone, and lasts until the process ends. The acceptor remembers of each peer the opening that it last
//! *confirmed* and one that is only *introduced*; the dialer notes which of its openings the acceptor remembers:
//!
//! ```text
//! dialer, opening 7, noted 6        acceptor, has confirmed 6
//!   hello: I am 7, you know 6   ->    7 is introduced, saved
//!   noted 7, saved              <-    introduced: I am ...
//!   hello: I am 7, you know 7   ->    7 is confirmed, saved; 6 is forgotten
//!   frames                      <-    welcome
//! ```
//!
//! So no frame is delivered before both ends hold what tells them apart from a copy: a copy of the dialer's directory
//! from before it noted 7 names 6, which the acceptor no longer takes. A crash between any two of the steps leaves the
//! dialer with a name that the acceptor takes. Of two copies that are both run, each acceptor goes on with one.
//!
//! The dialer notes, at each connection, only what an acceptor says that it knows or has yet to meet, and keeps with it
//! which store said so last: to another store it is as new as to one that it never dialled. A refusal that is for good counts only if its store is
//! the one that the peer was confirmed with, or if the peer never was confirmed; so a directory made anew, or another
//! cluster of the same name, at a peer's address does not end a node that has met the peer.
//!
//! The record cannot tell a copy that is put back without the directory having been opened since it was taken; and a
//! peer which had not met the later opening goes on with the earlier one. A copy that is put back, takes a peer's hello
//! and ends before the peer has met it leaves that peer with a name that the original does not know: then the original
//! refuses the peer's dials ([`Refusal::Forgotten`]), nothing is lost, and one of the two must be founded anew. Until
//! peers prove their names by keys, whoever gets to a node before a peer was ever confirmed there can take that peer's
//! name; afterwards nobody who has not read the peer's directory or its connections can. A store's number is no secret: that
//! a refusal names it guards against accidents at an address, not against somebody who holds the address and the number.

pub use crate::acquaintances::{Acquaintances, Heard, OnTooLarge, Save};

use crate::Hello;
use crate::handshake::Refusal;
use bytes::{Buf, BufMut};
use logdrive_raft::NodeId;
use std::collections::BTreeMap;

/// One opening of a directory, as one peer knows it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Opening {
    /// The how-manieth it is, from 1. A copy of the directory counts on by itself.
    pub incarnation: u64,
    /// Drawn for this opening and this peer.
    pub nonce: u64,
}

/// The part of a hello that is about the directory of its sender.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Proof {
    /// The directory's number.
    pub store: u128,
    /// Of the opening with the hello's incarnation.
    pub nonce: u64,
    /// The latest opening that the receiver is known to remember.
    pub noted: Option<Opening>,
    /// The receiver's directory that remembered it; 0 if none has.
    pub noted_by: u128,
}

impl Hello {
    fn opening(&self) -> Opening {
        Opening { incarnation: self.incarnation, nonce: self.proof.nonce }
    }
}

/// How a peer's hello was taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Meeting {
    /// It is the peer as it was confirmed.
    Known,
    /// It is the peer as it was introduced, and is confirmed from now on.
    Confirmed,
    /// It is the peer in an opening that was not known, or that the peer has not noted: it must note it and dial again.
    Introduced,
}

/// A node's record of its peers' directories, and of the openings of its own that they remember.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PeerStores {
    /// The node's own directory.
    store: u128,
    peers: BTreeMap<NodeId, Peer>,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Peer {
    /// This opening of our own directory.
    ours: Option<Opening>,
    /// The latest of ours that the peer surely remembers.
    noted: Option<Opening>,
    /// The peer's directory that does.
    noted_by: u128,
    theirs: Option<Theirs>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Theirs {
    store: u128,
    /// The latest opening that the peer has surely noted. Frames are delivered of this one only.
    confirmed: Option<Opening>,
    /// A later one, which the peer may have noted or not.
    introduced: Option<Opening>,
}

impl Theirs {
    fn remembers(&self, opening: Opening) -> bool {
        Some(opening) == self.confirmed || Some(opening) == self.introduced
    }
}

impl PeerStores {
    /// The directory `store` is opened for the `incarnation`th time, by a node that knows `peers`; `draw` gives random
    /// numbers.
    pub fn open(
        &mut self,
        store: u128,
        incarnation: u64,
        peers: impl IntoIterator<Item = NodeId>,
        draw: &mut dyn FnMut() -> u64,
    ) {
        self.store = store;
        for peer in peers {
            let opening = Opening { incarnation, nonce: draw() };
            self.peers.entry(peer).or_default().ours = Some(opening);
        }
    }

    /// The proof that a hello of ours carries to `peer`.
    pub(crate) fn proof(&self, peer: NodeId) -> Proof {
        let known = self.peers.get(&peer).copied().unwrap_or_default();
        let nonce = known.ours.map_or(0, |opening| opening.nonce);
        Proof { store: self.store, nonce, noted: known.noted, noted_by: known.noted_by }
    }

    /// The opening that a peer names as remembered here, if it means this directory.
    fn noted_here(&self, hello: &Hello) -> Option<Opening> {
        hello.proof.noted.filter(|_| hello.proof.noted_by == self.store)
    }

    /// Says whether the hello of a peer, by either end, is of the directory and the opening that this node knows of it.
    ///
    /// # Errors
    /// The [`Refusal`].
    pub fn check(&self, hello: &Hello) -> Result<(), Refusal> {
        let noted = hello.proof.noted;
        // Nobody has noted an opening that is still to come, or another one of the same number.
        let is_possible = hello.incarnation > 0
            && noted.is_none_or(|noted| {
                noted.incarnation < hello.incarnation || noted == hello.opening()
            });
        if !is_possible {
            return Err(Refusal::Malformed);
        }
        let is_of_another = noted.is_some() && hello.proof.noted_by != self.store;
        let noted = self.noted_here(hello);
        let is_new = || if noted.is_none() { Ok(()) } else { Err(Refusal::Forgotten) };
        let Some(theirs) = self.peers.get(&hello.node).and_then(|peer| peer.theirs) else {
            return is_new();
        };
        if theirs.store != hello.proof.store {
            // Nothing was ever delivered of a store that was not confirmed: its directory may be made anew.
            return if theirs.confirmed.is_none() { is_new() } else { Err(Refusal::OtherStore) };
        }
        if theirs.remembers(hello.opening()) || logdrive_raft::bug!("copy_let_in") {
            return Ok(());
        }
        let follows = match noted {
            Some(noted) => theirs.remembers(noted),
            None => theirs.confirmed.is_none(),
        };
        match noted {
            _ if follows && Some(hello.incarnation) > theirs.latest() => Ok(()),
            // It was sent before what this node has heard since, or is one of two copies, of which one has the name so far.
            _ if follows => Err(Refusal::EarlierLife),
            // The peer was confirmed here, and has since been with another directory of this node.
            _ if is_of_another => Err(Refusal::Forgotten),
            // The peer names a later opening than this node has ever heard of: this node has forgotten.
            Some(noted) if Some(noted.incarnation) > theirs.latest() => Err(Refusal::Forgotten),
            _ => Err(Refusal::Copy),
        }
    }

    /// A peer dials. Unless it is [`Meeting::Known`], the change must be saved before the peer is answered.
    ///
    /// # Errors
    /// As [`Self::check`]; nothing has changed.
    pub fn meet(&mut self, hello: &Hello) -> Result<Meeting, Refusal> {
        self.check(hello)?;
        let (opening, store, noted) = (hello.opening(), hello.proof.store, self.noted_here(hello));
        let peer = self.peers.entry(hello.node).or_default();
        let before = peer.theirs.filter(|theirs| theirs.store == store);
        let theirs = before.unwrap_or(Theirs { store, confirmed: None, introduced: None });
        let mut next = theirs;
        // A peer always names the opening that it has noted last: nothing older is needed any more.
        if theirs.introduced.is_some() && theirs.introduced == noted {
            next = Theirs { confirmed: theirs.introduced, introduced: None, ..theirs };
        }
        let meeting = if next.confirmed != Some(opening) {
            // It never goes back: an earlier opening that is still remembered is one whose hello comes late.
            if next.latest() >= Some(opening.incarnation) && next.introduced != Some(opening) {
                return Err(Refusal::EarlierLife);
            }
            next.introduced = Some(opening);
            Meeting::Introduced
        } else if next == theirs {
            Meeting::Known
        } else {
            Meeting::Confirmed
        };
        peer.theirs = Some(next);
        Ok(meeting)
    }

    /// An acceptor that [`Self::check`] takes says that it remembers this opening of ours. True if that is news, and must
    /// be saved before another hello.
    pub fn note(&mut self, acceptor: &Hello) -> bool {
        let peer = self.peers.entry(acceptor.node).or_default();
        let before = (peer.noted, peer.noted_by);
        (peer.noted, peer.noted_by) = (peer.ours, acceptor.proof.store);
        before != (peer.noted, peer.noted_by)
    }

    /// False if `peer` was confirmed with another directory than `store`.
    pub(crate) fn may_be(&self, peer: NodeId, store: u128) -> bool {
        let theirs = self.peers.get(&peer).and_then(|peer| peer.theirs);
        theirs.is_none_or(|theirs| theirs.confirmed.is_none() || theirs.store == store)
    }

    /// The bytes that [`Self::decode`] reads; never more than [`PEER_STORES_BYTES_MAX`] for [`PEERS_MAX`] peers.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.peers.len() * PEER_BYTES);
        for (node, peer) in &self.peers {
            let theirs = peer.theirs;
            bytes.put_u64_le(node.get());
            bytes.put_u128_le(theirs.map_or(0, |theirs| theirs.store));
            bytes.put_u8(u8::from(theirs.is_some()));
            bytes.put_u128_le(peer.noted_by);
            let of_theirs =
                [theirs.and_then(|theirs| theirs.confirmed), theirs.and_then(|t| t.introduced)];
            for opening in [peer.ours, peer.noted].into_iter().chain(of_theirs) {
                put_opening(&mut bytes, opening);
            }
        }
        bytes
    }

    /// Reads the bytes that [`Self::encode`] wrote; no bytes stand for a node that knows no peer. `None` for other bytes.
    #[must_use]
    pub fn decode(mut bytes: &[u8]) -> Option<Self> {
        if !bytes.len().is_multiple_of(PEER_BYTES) || bytes.len() > PEER_STORES_BYTES_MAX {
            return None;
        }
        let mut peers = BTreeMap::new();
        while bytes.has_remaining() {
            let node = NodeId(bytes.get_u64_le());
            let store = bytes.get_u128_le();
            let is_known = bytes.get_u8() != 0;
            let noted_by = bytes.get_u128_le();
            let [ours, noted, confirmed, introduced] = [(); 4].map(|()| get_opening(&mut bytes));
            let theirs = is_known.then_some(Theirs { store, confirmed, introduced });
            peers.insert(node, Peer { ours, noted, noted_by, theirs });
        }
        Some(Self { store: 0, peers })
    }

    /// How many peers it remembers.
    #[must_use]
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// True if it remembers none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }
}

impl Theirs {
    fn latest(&self) -> Option<u64> {
        let openings = [self.confirmed, self.introduced];
        openings.into_iter().flatten().map(|opening| opening.incarnation).max()
    }
}

/// An opening on the wire and on disk: 16 bytes, zeros for none.
pub(crate) fn put_opening(bytes: &mut Vec<u8>, opening: Option<Opening>) {
    let Opening { incarnation, nonce } = opening.unwrap_or(Opening { incarnation: 0, nonce: 0 });
    bytes.put_u64_le(incarnation);
    bytes.put_u64_le(nonce);
}

/// Takes 16 bytes, which must be there.
pub(crate) fn get_opening(bytes: &mut &[u8]) -> Option<Opening> {
    let (incarnation, nonce) = (bytes.get_u64_le(), bytes.get_u64_le());
    (incarnation > 0).then_some(Opening { incarnation, nonce })
}

/// Peers that a node's directory has room to remember.
pub const PEERS_MAX: usize = 128;
/// Bytes of [`PeerStores::encode`], at most.
pub const PEER_STORES_BYTES_MAX: usize = PEERS_MAX * PEER_BYTES;
const PEER_BYTES: usize = 8 + 16 + 1 + 16 + 4 * 16;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::{Arc, Barrier, Mutex};

    /// A node's directory, as it can be copied, and what a process of it says.
    #[derive(Clone, Debug)]
    struct Directory {
        node: NodeId,
        store: u128,
        incarnation: u64,
        peers: PeerStores,
    }

    impl Directory {
        fn made(node: u64, store: u128) -> Self {
            let peers = PeerStores::default();
            Self { node: NodeId(node), store, incarnation: 0, peers }
        }

        fn open(&mut self, nonce: u64) {
            self.incarnation += 1;
            // A process reads the bytes that are on disk.
            self.peers = PeerStores::decode(&self.peers.encode()).expect("its own bytes");
            let known = [NodeId(1), NodeId(2), NodeId(3)];
            self.peers.open(self.store, self.incarnation, known, &mut || nonce);
        }

        fn hello(&self, to: &Self) -> Hello {
            Hello {
                incarnation: self.incarnation,
                proof: self.peers.proof(to.node),
                ..Hello::of(self.node.get())
            }
        }

        /// Dials until it is let in or refused, by the acceptor or by itself.
        fn dial(&mut self, to: &mut Self) -> Result<(), Refused> {
            for _ in 0..2 {
                let met = to.peers.meet(&self.hello(to)).map_err(|refusal| {
                    let counts = !refusal.is_for_good() || self.peers.may_be(to.node, to.store);
                    if counts { Refused::By(refusal) } else { Refused::Nobody }
                })?;
                let acceptor = to.hello(self);
                self.peers.check(&acceptor).map_err(Refused::Self_)?;
                self.peers.note(&acceptor);
                if met != Meeting::Introduced {
                    return Ok(());
                }
            }
            panic!("{self:?} and {to:?} do not get on");
        }
    }

    /// How a dial ended.
    #[derive(Debug, Eq, PartialEq)]
    enum Refused {
        /// The acceptor refused it, and is believed.
        By(Refusal),
        /// The acceptor refused it for good, and is not the one that the dialer knows.
        Nobody,
        /// The dialer refused the acceptor.
        Self_(Refusal),
    }

    impl PeerStores {
        fn noted_of(&self, peer: &Directory) -> (Option<Opening>, u128) {
            let peer = self.peers[&peer.node];
            (peer.noted, peer.noted_by)
        }
    }

    fn pair() -> (Directory, Directory) {
        let (mut a, mut b) = (Directory::made(1, 100), Directory::made(2, 200));
        a.open(11);
        b.open(21);
        a.dial(&mut b).expect("they are new to each other");
        b.dial(&mut a).expect("they are new to each other");
        (a, b)
    }

    #[test]
    fn a_peer_is_known_after_restarts_of_either_and_again_on_other_connections() {
        let (mut a, mut b) = pair();
        for nonce in 30..40 {
            assert_eq!(b.peers.meet(&a.hello(&b)), Ok(Meeting::Known));
            assert_eq!(a.peers.check(&b.hello(&a)), Ok(()));
            if nonce % 3 > 0 {
                a.open(nonce);
            }
            if nonce % 3 < 2 {
                b.open(nonce);
            }
            assert_eq!(a.peers.check(&b.hello(&a)), Ok(()), "before it has dialled");
            assert_eq!(a.dial(&mut b), Ok(()));
            assert_eq!(b.dial(&mut a), Ok(()));
        }
    }

    /// RULES.md P6.
    #[test]
    fn a_directory_made_anew_is_refused_and_refuses_nobody_who_knew_the_old_one() {
        let (a, mut b) = pair();
        let mut anew = Directory::made(1, 101);
        anew.open(50);
        assert_eq!(anew.dial(&mut b), Err(Refused::By(Refusal::OtherStore)));
        let refused = Err(Refused::Self_(Refusal::OtherStore));
        assert_eq!(b.dial(&mut anew), refused, "as an acceptor, too");
        let mut a = a;
        assert_eq!(a.dial(&mut b), Ok(()), "the one that b knows is not shut out");
    }

    /// RULES.md C7.
    #[test]
    fn an_old_copy_is_refused_by_whoever_met_a_later_opening() {
        let (mut a, mut b) = pair();
        let copies = [a.clone(), {
            let mut opened = a.clone();
            opened.open(12);
            opened
        }];
        a.open(13);
        a.dial(&mut b).unwrap();
        for mut copy in copies {
            copy.open(14);
            assert_eq!(copy.dial(&mut b), Err(Refused::By(Refusal::Copy)), "{copy:?}");
            let before = b.peers.clone();
            assert_eq!(
                b.dial(&mut copy),
                Err(Refused::Self_(Refusal::Copy)),
                "as an acceptor, too"
            );
            b.open(31);
            assert_eq!(b.dial(&mut copy), Err(Refused::Self_(Refusal::Copy)));
            assert_eq!(b.peers.noted_of(&a), before.noted_of(&a), "nothing of the copy's is noted");
        }
        assert_eq!(a.dial(&mut b), Ok(()));
    }

    #[test]
    fn a_peer_that_forgot_marks_nobody_but_itself() {
        let (mut a, mut b) = pair();
        let mut old = b.clone();
        a.open(13);
        a.dial(&mut b).unwrap();
        b.open(22);
        b.dial(&mut a).unwrap();
        old.open(23);
        let forgotten = Err(Refused::By(Refusal::Forgotten));
        assert_eq!(a.dial(&mut old), forgotten, "which marks nobody");
        assert_eq!(old.dial(&mut a), Err(Refused::By(Refusal::Copy)));
        a.open(15);
        assert_eq!(a.clone().dial(&mut b.clone()), Ok(()));
        let mut older = Directory { peers: PeerStores::default(), ..old.clone() };
        older.open(24);
        assert_eq!(a.dial(&mut older), Err(Refused::By(Refusal::Forgotten)));
        assert_eq!(older.dial(&mut a), Err(Refused::By(Refusal::Copy)));
    }

    #[test]
    fn a_directory_that_was_moved_or_copied_and_left_goes_on() {
        let (a, mut b) = pair();
        let mut moved = a.clone();
        drop(a);
        for nonce in 60..63 {
            moved.open(nonce);
            assert_eq!(moved.dial(&mut b), Ok(()));
        }
    }

    #[test]
    fn a_name_and_a_huge_incarnation_shut_nobody_out() {
        let (mut a, mut b) = pair();
        let before = b.clone();
        for forged in [
            Hello { incarnation: u64::MAX, ..a.hello(&b) },
            Hello { proof: Proof { store: a.store, ..Proof::default() }, ..a.hello(&b) },
            Hello { proof: Proof { noted_by: 7, nonce: 1, ..a.hello(&b).proof }, ..a.hello(&b) },
            Hello {
                incarnation: u64::MAX,
                proof: Proof {
                    noted: Some(Opening { incarnation: u64::MAX, nonce: 1 }),
                    ..a.hello(&b).proof
                },
                ..a.hello(&b)
            },
        ] {
            let known = forged.proof.noted == a.hello(&b).proof.noted;
            // A sender that knows the secret of a and b is a, as far as b can tell.
            assert!(known || b.peers.meet(&forged).is_err(), "{forged:?}");
        }
        assert_eq!(b.peers, before.peers);
        assert_eq!(a.dial(&mut b), Ok(()));
    }

    /// Made-up hellos bring about nothing but refusals.
    #[test]
    fn hellos_that_no_directory_says_do_not_turn_an_acceptor_back() {
        let (_, mut b) = pair();
        let opening = |incarnation| Some(Opening { incarnation, nonce: incarnation });
        let said = |incarnation, noted| Hello {
            node: NodeId(3),
            incarnation,
            proof: Proof { store: 300, nonce: incarnation, noted, noted_by: 200 },
            ..b.hello(&b)
        };
        let steps = [
            (said(7, None), Ok(Meeting::Introduced)),
            (said(7, opening(7)), Ok(Meeting::Confirmed)),
            (said(8, opening(7)), Ok(Meeting::Introduced)),
            (said(7, opening(8)), Err(Refusal::Malformed)),
            (said(8, opening(8)), Ok(Meeting::Confirmed)),
            (said(7, opening(7)), Err(Refusal::Copy)),
            (said(0, None), Err(Refusal::Malformed)),
            (said(8, Some(Opening { incarnation: 8, nonce: 1 })), Err(Refusal::Malformed)),
        ];
        for (hello, wanted) in steps {
            assert_eq!(b.peers.meet(&hello), wanted, "{hello:?}");
        }
    }

    #[test]
    fn a_directory_that_was_never_confirmed_can_be_made_anew() {
        let (mut a, mut b) = (Directory::made(1, 100), Directory::made(2, 200));
        a.open(11);
        b.open(21);
        assert_eq!(b.peers.meet(&a.hello(&b)), Ok(Meeting::Introduced));
        let mut anew = Directory::made(1, 101);
        anew.open(12);
        assert_eq!(anew.dial(&mut b), Ok(()));
        assert_eq!(a.dial(&mut b), Err(Refused::By(Refusal::OtherStore)));
    }

    #[test]
    fn a_peer_that_took_our_hello_and_was_made_anew_before_it_was_confirmed_is_met_again() {
        let (mut a, mut b) = (Directory::made(1, 100), Directory::made(2, 200));
        a.open(11);
        b.open(21);
        assert_eq!(a.dial(&mut b), Ok(()));
        for store in [201, 202] {
            // B never reached A, and was founded again.
            let mut anew = Directory::made(2, store);
            anew.open(22);
            assert_eq!(a.dial(&mut anew), Ok(()));
            a.open(12);
            assert_eq!(a.dial(&mut b), Err(Refused::By(Refusal::Forgotten)), "which marks nobody");
            assert_eq!(a.dial(&mut anew), Ok(()));
            b = anew;
        }
        assert_eq!(a.dial(&mut b), Ok(()));
        assert_eq!(b.dial(&mut a), Ok(()));
        let mut late = Directory::made(2, 203);
        late.open(23);
        assert_eq!(a.dial(&mut late), Err(Refused::Self_(Refusal::OtherStore)));
        assert_eq!(late.dial(&mut a), Err(Refused::By(Refusal::OtherStore)));
        assert_eq!(a.dial(&mut b), Ok(()));
    }

    /// The peer was dialled, never dialled itself, another directory had its name for a while, and then it came back: it
    /// was dialled once more, which was not noted, and from the next opening on it refused the dialer for ever.
    #[test]
    fn a_peer_that_was_never_confirmed_and_comes_back_after_another_is_met_in_later_openings() {
        let (mut a, mut b) = (Directory::made(1, 100), Directory::made(2, 200));
        a.open(11);
        b.open(21);
        let mut other = Directory::made(2, 201);
        other.open(22);
        for _ in 0..2 {
            assert_eq!(a.dial(&mut b), Ok(()));
            assert_eq!(a.dial(&mut other), Ok(()));
        }
        assert_eq!(a.dial(&mut b), Ok(()));
        for nonce in 12..15 {
            a.open(nonce);
            assert_eq!(a.dial(&mut b), Ok(()), "it was the last to say that it remembers");
        }
        assert_eq!(b.dial(&mut a), Ok(()));
    }

    #[test]
    fn a_note_that_changes_nothing_is_not_saved() {
        let (mut a, b) = pair();
        a.open(12);
        let saves = Arc::new(AtomicU32::new(0));
        let counted = saves.clone();
        let save = move |_: &[u8]| {
            counted.fetch_add(1, Ordering::Relaxed);
            Ok(())
        };
        let stores = Acquaintances::new(a.peers.clone(), Box::new(save));
        let acceptor = b.hello(&a);
        for _ in 0..3 {
            assert_eq!(stores.has_noted(&acceptor), saves.load(Ordering::Relaxed) > 0);
            stores.note(&acceptor).expect("saved");
            assert_eq!(saves.load(Ordering::Relaxed), 1);
        }
    }

    /// RULES.md P11.
    #[test]
    fn a_peer_with_commands_that_the_segments_here_do_not_hold_is_refused_both_ways_and_leaves_nothing()
     {
        let (a, mut b) = pair();
        let mut anew = Directory::made(3, 300);
        anew.open(31);
        let told = Arc::new(Mutex::new(Vec::new()));
        let tell = told.clone();
        let save = |_: &[u8]| panic!("nothing of it is kept");
        b.open(22);
        let stores = Acquaintances::new(b.peers.clone(), Box::new(save))
            .holding(1000, Box::new(move |peer, bytes| tell.lock().unwrap().push((peer, bytes))));
        for (peer, is_known) in [(&a, true), (&anew, false)] {
            let founded = |bytes| Hello { command_bytes_founded: bytes, ..peer.hello(&b) };
            let (fits, larger) = (founded(1000), founded(1001));
            assert_eq!(stores.recognise(&fits), is_known.then_some(Ok(Meeting::Known)));
            assert_eq!(told.lock().unwrap().len(), 0);
            assert_eq!(stores.recognise(&larger), Some(Err(Refusal::SmallSegments)));
            let met = stores.meet(&larger);
            let is_refused =
                |error| matches!(error, Some(crate::NetError::Refused(Refusal::SmallSegments)));
            assert!(is_refused(met.err()));
            let me = b.hello(peer);
            for answer in [larger.encode(b.node), larger.encode_introduced(b.node)] {
                assert!(is_refused(stores.hear(&me, peer.node, &answer).err()));
            }
            let said = std::mem::take(&mut *told.lock().unwrap());
            assert_eq!(said, [(peer.node, 1001); 4]);
            assert!(stores.hear(&me, peer.node, &fits.encode(b.node)).is_ok());
        }
        assert_eq!(format!("{stores:?}"), format!("{:?}", b.peers));
    }

    /// RULES.md C7, P6.
    #[test]
    fn a_refusal_for_good_counts_only_from_the_store_that_the_peer_was_confirmed_with() {
        let (mut a, b) = pair();
        // Another cluster of the same name, where another directory of node 1 is known.
        let (mut other_a, mut other_b) = (Directory::made(1, 900), Directory::made(2, 901));
        other_a.open(1);
        other_b.open(2);
        other_a.dial(&mut other_b).unwrap();
        other_b.dial(&mut other_a).unwrap();
        assert_eq!(a.dial(&mut other_b), Err(Refused::Nobody));
        assert_eq!(a.dial(&mut b.clone()), Ok(()));
        // The answers themselves, over the wire.
        let stores = Acquaintances::new(a.peers.clone(), Box::new(|_| Ok(())));
        let me = a.hello(&b);
        for refusal in [Refusal::OtherStore, Refusal::Copy] {
            let heard = |store| stores.hear(&me, NodeId(2), &refusal.encode(store));
            for store in [0, 901] {
                let error = heard(store).expect_err("a refusal");
                let own = matches!(error, crate::NetError::Refused(Refusal::OtherStore));
                assert!(own, "{refusal:?} of {store}: {error:?}");
            }
            let error = heard(b.store).expect_err("a refusal");
            assert!(matches!(error, crate::NetError::RefusedByPeer(r) if r == refusal));
        }
        let never_met = Acquaintances::forgetful(a.store, 1, &[NodeId(2)]);
        let error =
            never_met.hear(&me, NodeId(2), &Refusal::Copy.encode(901)).expect_err("refused");
        assert!(matches!(error, crate::NetError::RefusedByPeer(Refusal::Copy)));
    }

    #[test]
    fn readers_do_not_wait_for_a_save() {
        let (entered, wait) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
        let (a, b) = pair();
        let (at_save, until) = (entered.clone(), wait.clone());
        let save = move |_: &[u8]| {
            at_save.wait();
            until.wait();
            Ok(())
        };
        let stores = Acquaintances::new(b.peers.clone(), Box::new(save));
        let mut later = a.clone();
        later.open(12);
        let hello = later.hello(&b);
        std::thread::scope(|scope| {
            let saving = scope.spawn(|| stores.meet(&hello).expect("a later opening"));
            entered.wait();
            assert_eq!(stores.recognise(&a.hello(&b)), Some(Ok(Meeting::Known)));
            assert_eq!(stores.recognise(&hello), None, "nothing counts before it is saved");
            assert_eq!(stores.present(&b.hello(&a), NodeId(1)), b.hello(&a));
            wait.wait();
            assert_eq!(saving.join().expect("no panic"), Meeting::Introduced);
        });
        assert_eq!(stores.recognise(&hello), Some(Ok(Meeting::Introduced)));
    }

    #[test]
    fn the_room_is_for_as_many_peers_as_it_says() {
        let mut peers = PeerStores::default();
        let all = (1..=PEERS_MAX as u64).map(NodeId);
        peers.open(7, u64::MAX, all, &mut || u64::MAX);
        assert_eq!(peers.encode().len(), PEER_STORES_BYTES_MAX);
        let read = PeerStores::decode(&peers.encode()).expect("its own bytes");
        assert_eq!(PeerStores { store: 7, ..read }, peers);
        assert_eq!(PeerStores::decode(&[0; PEER_BYTES - 1]), None);
    }

    proptest! {
        /// Crashes between any two steps, at either end, and hellos that arrive late, also after their sender's end.
        #[test]
        fn no_crash_makes_strangers(
            steps in proptest::collection::vec((0..8_u8, any::<proptest::sample::Index>()), 1..80)
        ) {
            let (mut a, mut b) = pair();
            let mut sent = vec![a.hello(&b)];
            for (nonce, (step, late)) in (100..).zip(steps) {
                match step {
                    0 => a.open(nonce),
                    1 => b.open(nonce),
                    2 => sent.push(a.hello(&b)),
                    3 => {
                        // The answer is heard only if its dialer still lives, and then perhaps nothing else happens.
                        let hello = late.get(&sent).clone();
                        let met = b.peers.meet(&hello);
                        let lives = hello.incarnation == a.incarnation;
                        prop_assert!(!lives || met.is_ok(), "{:?} to {:?}", met, hello);
                        if lives && met == Ok(Meeting::Introduced) {
                            let acceptor = b.hello(&a);
                            prop_assert_eq!(a.peers.check(&acceptor), Ok(()));
                            a.peers.note(&acceptor);
                        }
                    }
                    4 => drop(b.peers.meet(&a.hello(&b)).expect("b knows a")),
                    5 => drop(a.peers.meet(&b.hello(&a)).expect("a knows b")),
                    6 => a.dial(&mut b).expect("b knows a"),
                    _ => b.dial(&mut a).expect("a knows b"),
                }
                prop_assert_eq!(a.peers.check(&b.hello(&a)), Ok(()));
                prop_assert_eq!(b.peers.check(&a.hello(&b)), Ok(()));
            }
        }

        /// Of a directory and its copies, no acceptor ever delivers for one after it delivered for another.
        #[test]
        fn an_acceptor_goes_on_with_one_line_of_openings(
            steps in proptest::collection::vec((0..4_u8, 0..3_usize), 1..60)
        ) {
            let (a, mut b) = pair();
            // Each copy with the openings that led to it.
            let mut copies = vec![(a, vec![0_u64])];
            let mut delivered = vec![0_u64];
            for (nonce, (step, which)) in (100..).zip(steps) {
                let which = which % copies.len();
                match step {
                    0 => {
                        copies[which].0.open(nonce);
                        copies[which].1.push(nonce);
                    }
                    1 if copies.len() < 4 => {
                        let mut copy = copies[which].clone();
                        copy.0.open(nonce);
                        copy.1.push(nonce);
                        copies.push(copy);
                    }
                    _ => {
                        let (copy, line) = &mut copies[which];
                        if copy.dial(&mut b).is_ok() {
                            prop_assert!(
                                delivered.iter().all(|opening| line.contains(opening)),
                                "{:?} after {:?}", line, delivered
                            );
                            delivered.push(*line.last().expect("one"));
                        }
                    }
                }
            }
        }
    }
}
