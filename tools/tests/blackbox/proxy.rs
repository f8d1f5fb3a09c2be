//! A fault proxy: every way from one node to another leads through a link here, and each link has its own faults.
//!
//! In:     where the nodes listen; per link its [`Rules`], which may change at any time.
//! Out:    an address per link for the dialing node's `--peers`; counts of what was done.
//! Cost:   one thread for all links; a frame is read whole before it goes on.
//! Fails:  never by itself: a connection it cannot carry ends.
//! Source: RULES.md rows N1 to N5 (partitions), N8 (duplicates, replay, delay), N9 (corruption), N10 (resets, half-open
//!         peers), N13 (another node's address), I3 (drips).
//!
//! It knows as much of the protocol as its faults need: the first message's length, a frame's header, and the checksum
//! that a frame with another number needs. A link that is shut keeps what it is given, as TCP does through a partition:
//! nothing arrives, and it all arrives when the link opens again.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{Builder, JoinHandle},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::{oneshot, watch},
    time::sleep,
};

/// From a node to a node, by id. Frames flow from the first, who dials, to the second.
pub(crate) type Way = (usize, usize);

/// The treatment that a link gives to the bytes it carries.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    /// Whether anything passes.
    pub(crate) open: bool,
    /// Where it leads.
    pub(crate) target: SocketAddr,
    /// The longest that a frame waits.
    pub(crate) delay_ms_max: u64,
    /// The most bytes that pass in a millisecond; 0 for no limit.
    pub(crate) drip_bytes: usize,
    /// The faults of frames, each with its chance in a thousand.
    pub(crate) faults: Vec<(Fault, u64)>,
    /// Connections made under an earlier number are reset.
    life: u64,
}

/// A fault that may happen to a frame.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Fault {
    /// One of its bits is flipped.
    Corrupt,
    /// It does not arrive, though later ones do.
    Lose,
    /// It arrives twice.
    Repeat,
    /// An earlier frame of this link arrives before it, with the number of a new one: its messages are old, but nothing in
    /// the frame shows that.
    Replay,
    /// Half of it arrives, then the connection is reset.
    Reset,
    /// Half of it arrives, then the acceptor is told that the dialer left; the dialer is told nothing.
    HalfOpen,
    /// It and all frames behind it are held up for a while.
    Stall,
}

/// All links among some nodes.
#[derive(Debug)]
pub(crate) struct Links {
    links: Arc<BTreeMap<Way, Link>>,
    addresses: BTreeMap<Way, SocketAddr>,
    targets: BTreeMap<Way, SocketAddr>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Link {
    rules: watch::Sender<Rules>,
    /// Earlier frames, for [`Fault::Replay`].
    kept: Mutex<VecDeque<Vec<u8>>>,
    counts: Counts,
}

/// The counts of one link.
#[derive(Debug, Default)]
struct Counts {
    frames: AtomicU64,
    connections: AtomicU64,
    faults: Mutex<BTreeMap<Fault, u64>>,
    /// Connections on which a frame went out that must not be taken.
    spoilt: AtomicU64,
    /// How many of the spoilt connections the acceptor ended.
    refused: AtomicU64,
}

impl Links {
    /// Puts links between all of `nodes`, given with where they listen.
    pub(crate) fn start(nodes: &[(usize, SocketAddr)], seed: u64) -> Self {
        let ways = |from: &(usize, SocketAddr)| {
            let from = from.0;
            let others = nodes.iter().filter(move |to| to.0 != from);
            others.map(move |to| ((from, to.0), to.1)).collect::<Vec<_>>()
        };
        let targets: BTreeMap<Way, SocketAddr> = nodes.iter().flat_map(ways).collect();
        let links: BTreeMap<Way, Link> =
            targets.iter().map(|(way, target)| (*way, Link::new(*target))).collect();
        let links = Arc::new(links);
        let mut addresses = BTreeMap::new();
        let mut listeners = Vec::new();
        for way in targets.keys() {
            let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            listener.set_nonblocking(true).unwrap();
            addresses.insert(*way, listener.local_addr().unwrap());
            listeners.push((*way, listener));
        }
        let (stop, stopped) = oneshot::channel();
        let shared = Arc::clone(&links);
        let thread = Builder::new()
            .name("proxy".to_owned())
            .spawn(move || {
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    for (way, listener) in listeners {
                        tokio::spawn(accept(Arc::clone(&shared), way, listener, seed));
                    }
                    let _ = stopped.await;
                });
            })
            .unwrap();
        Self { links, addresses, targets, stop: Some(stop), thread: Some(thread) }
    }

    /// Where the dialer of this way is to dial.
    pub(crate) fn address(&self, way: Way) -> SocketAddr {
        self.addresses[&way]
    }

    /// Changes a link's rules.
    pub(crate) fn set(&self, way: Way, change: impl FnOnce(&mut Rules)) {
        self.links[&way].rules.send_modify(change);
    }

    /// Changes all links' rules.
    pub(crate) fn set_all(&self, change: impl Fn(&mut Rules)) {
        for link in self.links.values() {
            link.rules.send_modify(&change);
        }
    }

    /// Lets frames pass only between nodes that are together in one of the sets.
    pub(crate) fn only(&self, together: &[&[usize]]) {
        for (way, link) in &*self.links {
            let open = together.iter().any(|set| set.contains(&way.0) && set.contains(&way.1));
            link.rules.send_modify(|rules| rules.open = open);
        }
    }

    /// Ends all connections with a reset.
    pub(crate) fn reset_all(&self) {
        self.set_all(|rules| rules.life += 1);
    }

    /// Ends the faults of all links, and lets each lead to its own node again.
    pub(crate) fn heal(&self) {
        for (way, link) in &*self.links {
            let target = self.targets[way];
            link.rules.send_modify(|rules| {
                // A connection to the wrong node, or one whose other end is gone, does not heal.
                *rules = Rules { life: rules.life + 1, ..Rules::fair(target) };
            });
        }
    }

    /// How often this fault happened, on all links.
    pub(crate) fn count(&self, fault: Fault) -> u64 {
        let of = |link: &Link| link.counts.faults.lock().unwrap().get(&fault).copied();
        self.links.values().filter_map(of).sum()
    }

    /// Connections on which a frame went out that must not be taken, and how many of them the acceptor ended.
    pub(crate) fn spoilt_and_refused(&self) -> (u64, u64) {
        let sum = |of: fn(&Counts) -> &AtomicU64| {
            self.links.values().map(|link| of(&link.counts).load(Ordering::Relaxed)).sum()
        };
        (sum(|counts| &counts.spoilt), sum(|counts| &counts.refused))
    }

    /// Frames and connections carried, and faults, for people.
    pub(crate) fn summary(&self) -> String {
        let sum = |of: fn(&Counts) -> &AtomicU64| -> u64 {
            self.links.values().map(|link| of(&link.counts).load(Ordering::Relaxed)).sum()
        };
        let mut faults: BTreeMap<Fault, u64> = BTreeMap::new();
        for link in self.links.values() {
            for (fault, times) in &*link.counts.faults.lock().unwrap() {
                *faults.entry(*fault).or_default() += times;
            }
        }
        let (frames, connections) = (sum(|c| &c.frames), sum(|c| &c.connections));
        format!("{frames} frames on {connections} connections, {faults:?}")
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Rules {
    fn fair(target: SocketAddr) -> Self {
        Self { open: true, target, delay_ms_max: 0, drip_bytes: 0, faults: vec![], life: 0 }
    }

    fn draw(&self, random: &mut Random) -> Option<Fault> {
        let mut lot = random.below(1_000);
        for (fault, chance) in &self.faults {
            if lot < *chance {
                return Some(*fault);
            }
            lot -= chance;
        }
        None
    }
}

impl Link {
    fn new(target: SocketAddr) -> Self {
        let rules = watch::Sender::new(Rules::fair(target));
        Self { rules, kept: Mutex::default(), counts: Counts::default() }
    }

    async fn wait_open(&self) {
        let _ = self.rules.subscribe().wait_for(|rules| rules.open).await;
    }

    async fn wait_life_after(&self, life: u64) {
        let _ = self.rules.subscribe().wait_for(|rules| rules.life > life).await;
    }

    fn note(&self, fault: Fault) {
        *self.counts.faults.lock().unwrap().entry(fault).or_default() += 1;
    }

    fn keep(&self, frame: &[u8]) {
        let mut kept = self.kept.lock().unwrap();
        if frame.len() <= KEPT_BYTES_MAX {
            kept.push_back(frame.to_vec());
        }
        if kept.len() > KEPT_MAX {
            kept.pop_front();
        }
    }

    /// An earlier frame of the same lane, numbered as `frame` is.
    fn earlier(&self, frame: &[u8], random: &mut Random) -> Option<Vec<u8>> {
        let kept = self.kept.lock().unwrap();
        let fitting: Vec<&Vec<u8>> =
            kept.iter().filter(|old| old[LANE_AT] == frame[LANE_AT]).collect();
        let at = random.below(u64::try_from(fitting.len()).unwrap().max(1));
        let mut old = fitting.get(usize::try_from(at).unwrap())?.to_vec();
        old[SEQUENCE].copy_from_slice(&frame[SEQUENCE]);
        seal(&mut old);
        Some(old)
    }
}

/// How a connection came to its end.
enum End {
    DialerLeft,
    AcceptorLeft,
    Reset,
    HalfOpen,
}

async fn accept(
    links: Arc<BTreeMap<Way, Link>>,
    way: Way,
    listener: std::net::TcpListener,
    seed: u64,
) {
    let listener = TcpListener::from_std(listener).unwrap();
    loop {
        let Ok((dialer, _)) = listener.accept().await else {
            sleep(Duration::from_millis(10)).await;
            continue;
        };
        let number = links[&way].counts.connections.fetch_add(1, Ordering::Relaxed);
        let parts = [way.0 as u64, way.1 as u64, number];
        let seed = parts.into_iter().fold(seed, |seed, part| Random::new(seed ^ part).next());
        tokio::spawn(carry(Arc::clone(&links), way, dialer, Random::new(seed)));
    }
}

async fn carry(
    links: Arc<BTreeMap<Way, Link>>,
    way: Way,
    mut dialer: TcpStream,
    mut random: Random,
) {
    let (link, back) = (&links[&way], &links[&(way.1, way.0)]);
    let life = link.rules.borrow().life;
    tokio::select! {
        () = link.wait_open() => {}
        () = link.wait_life_after(life) => return,
    }
    let target = link.rules.borrow().target;
    let Ok(mut acceptor) = TcpStream::connect(target).await else { return };
    let _ = (dialer.set_nodelay(true), acceptor.set_nodelay(true));
    let spoilt = AtomicBool::new(false);
    let end = {
        let (from_dialer, to_dialer) = dialer.split();
        let (from_acceptor, to_acceptor) = acceptor.split();
        tokio::select! {
            end = forward(link, from_dialer, to_acceptor, &mut random, &spoilt) => end,
            end = backward(back, from_acceptor, to_dialer) => end,
            () = link.wait_life_after(life) => End::Reset,
        }
    };
    if spoilt.load(Ordering::Relaxed) {
        match end {
            End::AcceptorLeft => link.counts.refused.fetch_add(1, Ordering::Relaxed),
            // The link ended the connection before the acceptor could, so this one is not counted.
            End::Reset | End::HalfOpen => link.counts.spoilt.fetch_sub(1, Ordering::Relaxed),
            End::DialerLeft => 0,
        };
    }
    match end {
        End::DialerLeft | End::AcceptorLeft => {}
        End::Reset => {
            abort(&dialer);
            abort(&acceptor);
        }
        End::HalfOpen => {
            drop(acceptor);
            let mut swallowed = vec![0; 64 << 10];
            let swallow = async { while dialer.read(&mut swallowed).await.is_ok_and(|n| n > 0) {} };
            tokio::select! {
                () = swallow => {}
                () = link.wait_life_after(life) => {}
                () = sleep(HALF_OPEN_TIME) => {}
            }
            abort(&dialer);
        }
    }
}

/// Makes the connection's close send a reset.
fn abort(stream: &TcpStream) {
    let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Passes on the dialer's bytes: one message of a handshake, then frames.
async fn forward(
    link: &Link,
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    random: &mut Random,
    spoilt: &AtomicBool,
) -> End {
    let Ok(hello) = read_hello(&mut from).await else { return End::DialerLeft };
    link.wait_open().await;
    if to.write_all(&hello).await.is_err() {
        return End::AcceptorLeft;
    }
    // How many frames were added: the numbers of all later frames are raised by as many.
    let mut added = 0;
    // Whether a frame was lost: the next one that arrives shows the gap.
    let mut is_gap = false;
    loop {
        let Ok(mut frame) = read_frame(&mut from).await else { return End::DialerLeft };
        link.wait_open().await;
        let rules = link.rules.borrow().clone();
        sleep(Duration::from_millis(random.below(rules.delay_ms_max + 1))).await;
        renumber(&mut frame, added);
        link.counts.frames.fetch_add(1, Ordering::Relaxed);
        let fault = rules.draw(random);
        let mut writes = vec![frame];
        let frame = &mut writes[0];
        match fault {
            None => link.keep(frame),
            Some(Fault::Corrupt) => {
                let bit = usize::try_from(random.below(8 * frame.len() as u64)).unwrap();
                frame[bit / 8] ^= 1 << (bit % 8);
            }
            Some(Fault::Lose) => writes.clear(),
            Some(Fault::Repeat) => writes.push(writes[0].clone()),
            Some(Fault::Replay) => {
                if let Some(old) = link.earlier(frame, random) {
                    renumber(frame, 1);
                    added += 1;
                    writes.insert(0, old);
                }
            }
            Some(Fault::Reset | Fault::HalfOpen) => frame.truncate(frame.len() / 2),
            Some(Fault::Stall) => sleep(STALL_TIME).await,
        }
        if let Some(fault) = fault {
            link.note(fault);
        }
        let spoils =
            matches!(fault, Some(Fault::Corrupt | Fault::Repeat)) || (is_gap && !writes.is_empty());
        is_gap |= writes.is_empty();
        if spoils && !spoilt.swap(true, Ordering::Relaxed) {
            link.counts.spoilt.fetch_add(1, Ordering::Relaxed);
        }
        for bytes in &writes {
            if write(&mut to, bytes, rules.drip_bytes).await.is_err() {
                return End::AcceptorLeft;
            }
        }
        match fault {
            Some(Fault::Reset) => return End::Reset,
            Some(Fault::HalfOpen) => return End::HalfOpen,
            _ => {}
        }
    }
}

/// Passes on the acceptor's bytes: its answer to the handshake, and no more. The bytes take the way back.
async fn backward(back: &Link, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> End {
    let mut bytes = vec![0; 4 << 10];
    loop {
        let read = match from.read(&mut bytes).await {
            Ok(0) | Err(_) => return End::AcceptorLeft,
            Ok(read) => read,
        };
        back.wait_open().await;
        if to.write_all(&bytes[..read]).await.is_err() {
            return End::DialerLeft;
        }
    }
}

async fn write(to: &mut WriteHalf<'_>, bytes: &[u8], drip_bytes: usize) -> io::Result<()> {
    if drip_bytes == 0 {
        return to.write_all(bytes).await;
    }
    for piece in bytes.chunks(drip_bytes) {
        to.write_all(piece).await?;
        sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

async fn read_hello(from: &mut ReadHalf<'_>) -> io::Result<Vec<u8>> {
    let mut hello = vec![0; HELLO_PREFIX_BYTES];
    from.read_exact(&mut hello).await?;
    let rest = u16::from_le_bytes([hello[10], hello[11]]);
    hello.resize(HELLO_PREFIX_BYTES + usize::from(rest), 0);
    from.read_exact(&mut hello[HELLO_PREFIX_BYTES..]).await?;
    Ok(hello)
}

async fn read_frame(from: &mut ReadHalf<'_>) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; FRAME_HEADER_BYTES];
    from.read_exact(&mut frame).await?;
    let body = u32::from_le_bytes([frame[32], frame[33], frame[34], frame[35]]);
    if body > FRAME_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    frame.resize(FRAME_HEADER_BYTES + usize::try_from(body).unwrap(), 0);
    from.read_exact(&mut frame[FRAME_HEADER_BYTES..]).await?;
    Ok(frame)
}

fn renumber(frame: &mut [u8], added: u64) {
    let number = u64::from_le_bytes(frame[SEQUENCE].try_into().unwrap()) + added;
    frame[SEQUENCE].copy_from_slice(&number.to_le_bytes());
    seal(frame);
}

fn seal(frame: &mut [u8]) {
    let checksum = crc_fast::crc32_iscsi(&frame[..44]);
    frame[44..FRAME_HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
}

/// SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// One of `0..bound`, nearly evenly; the bounds here are small.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

const HELLO_PREFIX_BYTES: usize = 16;
const FRAME_HEADER_BYTES: usize = 48;
const LANE_AT: usize = 5;
const SEQUENCE: std::ops::Range<usize> = 24..32;
const FRAME_BYTES_MAX: u32 = 64 << 20;
const KEPT_MAX: usize = 32;
const KEPT_BYTES_MAX: usize = 64 << 10;
const STALL_TIME: Duration = Duration::from_millis(300);
/// Shorter than the product waits for its bytes to be acknowledged, which would be too long for a test.
const HALF_OPEN_TIME: Duration = Duration::from_millis(700);
