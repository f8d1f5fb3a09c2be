//! The task of one outbound lane: dial, shake hands, keep the socket fed, back off, dial again.
//!
//! In:     a peer's address, and the bytes its [`Link`] could not write at once.
//! Out:    [`Inbound::up`] and [`Inbound::down`].
//! Cost:   asleep while the socket keeps up. While the peer is away: one attempt per pause (see `backoff`).
//! Fails:  never ends by itself; every failure is a pause and another attempt.
//! Source: RULES.md N10 (flaps, half-open peers), N13 (wrong address), I6 (no retry storm), P6 and C7 (see `stores`).

use crate::handshake::{MessageReader, Refusal};
use crate::lane::Link;
use crate::saving::saved;
use crate::stores::{Acquaintances, Heard};
use crate::{AbortOnPanic, Backoff, Hello, Inbound, Lane, NetError, Settings};
use logdrive_raft::NodeId;
use socket2::{SockRef, TcpKeepalive};
use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// Keeps one lane to one peer connected, for ever; a bulk lane as long as there is something to send.
pub(crate) struct Dialer<M> {
    link: Rc<Link>,
    address: String,
    /// Our hello on this lane.
    me: Hello,
    stores: Arc<Acquaintances>,
    settings: Settings,
    inbound: Rc<dyn Inbound<M>>,
    /// Attempts that have failed: each one begins with the next address of the peer's name.
    failed: Cell<usize>,
}

impl<M> Dialer<M> {
    /// Starts the task of a lane on which the node says `me` of itself.
    pub(crate) fn start(
        me: &Hello,
        peer: NodeId,
        address: String,
        lane: Lane,
        stores: &Arc<Acquaintances>,
        settings: &Settings,
        inbound: &Rc<dyn Inbound<M>>,
    ) -> (Rc<Link>, JoinHandle<()>)
    where
        M: 'static,
    {
        let link = Rc::new(Link::new(me, peer, lane, settings));
        let dialer = Self {
            link: Rc::clone(&link),
            address,
            me: Hello { lane, ..me.clone() },
            stores: Arc::clone(stores),
            settings: settings.clone(),
            inbound: Rc::clone(inbound),
            failed: Cell::new(0),
        };
        let task = tokio::task::spawn_local(async {
            let _abort = AbortOnPanic;
            dialer.run().await;
        });
        (link, task)
    }

    async fn run(self) {
        let (peer, lane) = (self.link.peer, self.link.lane);
        let mut backoff = Backoff::new(&self.settings, &self.me, peer);
        loop {
            self.link.wanted().await;
            let (error, pause) = match self.connect().await {
                Ok((stream, hello)) => {
                    let since = Instant::now();
                    let stream = Rc::new(stream);
                    self.link.set_up(Rc::clone(&stream), hello.clone());
                    if self.stores.log.is_news_up(peer) {
                        tracing::info!(%peer, ?lane, address = %self.address, "lane is up");
                    }
                    self.inbound.up(peer, lane, &hello);
                    let error = tokio::select! {
                        error = self.keep(&stream) => error,
                        () = self.link.idle(self.settings.bulk_idle_timeout), if lane == Lane::Bulk => {
                            self.link.close();
                            continue;
                        }
                    };
                    self.link.set_down();
                    self.link.set_rests(true);
                    self.inbound.down(peer, lane);
                    (error, backoff.after_loss(since.elapsed()))
                }
                Err(error) => {
                    let refused =
                        matches!(error, NetError::Refused(_) | NetError::RefusedByPeer(_));
                    self.link.count_failure(refused);
                    self.failed.update(|failed| failed.wrapping_add(1));
                    self.link.set_rests(true);
                    match error {
                        NetError::RefusedByPeer(refusal) => self.inbound.refused(peer, refusal),
                        NetError::Refused(refusal) => self.inbound.turned_away(peer, refusal),
                        _ => {}
                    }
                    if lane == Lane::Bulk {
                        // The messages that were sent meanwhile are lost.
                        self.link.close();
                        self.inbound.down(peer, lane);
                    }
                    (error, backoff.after_failure(refused))
                }
            };
            if let Some(more) = self.stores.log.is_news_down(peer, &error, Instant::now()) {
                let address = &self.address;
                tracing::warn!(%peer, ?lane, %address, %error, more, "lane is down");
            }
            tokio::select! {
                () = sleep(pause) => {}
                () = self.link.hurry.notified() => {}
            }
            self.link.set_rests(false);
        }
    }

    /// Connects; once more if the peer did not remember this opening of our directory, and does now.
    async fn connect(&self) -> Result<(TcpStream, Hello), NetError> {
        for _ in 0..2 {
            let (stream, heard) = self.try_once().await?;
            let (Heard::Up(acceptor) | Heard::Introduced(acceptor)) = &heard;
            self.note(acceptor).await?;
            if let Heard::Up(hello) = heard {
                return Ok((stream, hello));
            }
        }
        Err(NetError::Refused(Refusal::Forgotten))
    }

    /// [`Acquaintances::note`], for a shard's thread, which does not wait for the disk.
    async fn note(&self, acceptor: &Hello) -> Result<(), NetError> {
        let noted = acceptor.clone();
        let look = |stores: &Acquaintances| stores.has_noted(acceptor).then_some(Ok(()));
        saved(&self.stores, look, move |stores| stores.note(&noted)).await
    }

    async fn try_once(&self) -> Result<(TcpStream, Heard), NetError> {
        let unreachable = |source| NetError::Connect { address: self.address.clone(), source };
        let deadline = Instant::now() + self.settings.handshake_timeout;
        let attempt = async {
            let mut stream = self.reach(deadline).await.map_err(unreachable)?;
            set_options(&stream, &self.settings)?;
            let me = self.stores.present(&self.me, self.link.peer);
            stream.write_all(&me.encode(self.link.peer)).await?;
            let answer = read_message(&mut stream).await?;
            let heard = self.stores.hear(&self.me, self.link.peer, &answer)?;
            if matches!(heard, Heard::Up(_)) {
                // A socket says that it takes bytes only once asked: senders must find that out before.
                stream.writable().await?;
            }
            Ok((stream, heard))
        };
        timeout_at(deadline, attempt).await.unwrap_or(Err(NetError::Timeout("handshake")))
    }

    async fn reach(&self, deadline: Instant) -> io::Result<TcpStream> {
        // The resolver runs on the blocking pool: do not start a thread for what is an address already.
        if let Ok(address) = self.address.parse::<SocketAddr>() {
            return TcpStream::connect(address).await;
        }
        let mut places: Vec<SocketAddr> = lookup_host(&self.address).await?.collect();
        // At one of the addresses there may be another process. The next attempt begins with another one.
        let first = self.failed.get() % places.len().max(1);
        places.rotate_left(first);
        reach_one_of(&places, deadline).await
    }

    /// Serves the connection until it ends, and says why it did.
    async fn keep(&self, stream: &TcpStream) -> NetError {
        loop {
            let waits = match self.link.flush() {
                Ok(waits) => waits,
                Err(error) => return error,
            };
            let written = self.link.written_bytes();
            tokio::select! {
                ready = stream.readable() => {
                    if let Err(error) = ready.map_err(NetError::Io).and_then(|()| notice_end(stream)) {
                        return error;
                    }
                }
                ready = timeout(self.settings.progress_timeout, stream.writable()), if waits => {
                    match ready {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => return NetError::Io(error),
                        Err(_) if self.link.written_bytes() > written => {}
                        Err(_) => return NetError::Timeout("peer to take what is sent"),
                    }
                }
                () = self.link.wake.notified() => {}
            }
        }
    }
}

/// Connects to the first of the addresses at which somebody accepts. None of them takes the time of those behind it.
async fn reach_one_of(places: &[SocketAddr], deadline: Instant) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for (at, place) in places.iter().enumerate() {
        let left = u32::try_from(places.len() - at).expect("a few addresses");
        let part = deadline.saturating_duration_since(Instant::now()) / left;
        let error = match timeout(part, TcpStream::connect(place)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => error,
            Err(_) => io::ErrorKind::TimedOut.into(),
        };
        last = io::Error::new(error.kind(), format!("{place}: {error}"));
    }
    Err(last)
}

/// A readable lane of ours is one that ended, for the acceptor has nothing to say on it.
fn notice_end(stream: &TcpStream) -> Result<(), NetError> {
    match stream.try_read(&mut [0; 64]) {
        Ok(0) => Err(NetError::Closed),
        Ok(_) => Err(NetError::Unexpected),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(NetError::Io(error)),
    }
}

/// Reads the bytes of one message of the handshake, and not one byte more.
pub(crate) async fn read_message(stream: &mut TcpStream) -> Result<Vec<u8>, NetError> {
    let mut reader = MessageReader::new();
    loop {
        let read = stream.read(reader.room()).await?;
        if let Some(message) = reader.filled(read)? {
            return Ok(message.to_vec());
        }
    }
}

/// Sets the socket options that every peer connection has, at both ends.
pub(crate) fn set_options(stream: &TcpStream, settings: &Settings) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_user_timeout(Some(settings.unacknowledged_timeout))?;
    // The kernel counts in whole seconds here, and refuses zero.
    let idle = (settings.unacknowledged_timeout / 2).max(Duration::from_secs(1));
    let interval = (settings.unacknowledged_timeout / 8).max(Duration::from_secs(1));
    let keepalive =
        TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(KEEPALIVE_PROBES);
    socket.set_tcp_keepalive(&keepalive)
}

const KEEPALIVE_PROBES: u32 = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::{Domain, Socket, Type};
    use std::net::TcpListener;

    /// RULES.md N13.
    #[test]
    fn an_address_at_which_nobody_answers_leaves_time_for_the_next() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let there = listener.local_addr().unwrap();
        let closed = {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap()
        };
        // Its queue is full: the system lets connections to it wait.
        let full = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        full.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        full.listen(0).unwrap();
        let silent = full.local_addr().unwrap().as_socket().unwrap();
        let patience = Duration::from_millis(200);
        let connect = || std::net::TcpStream::connect_timeout(&silent, patience).ok();
        let _held: Vec<_> = std::iter::from_fn(connect).take(8).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let reach = async |places: &[SocketAddr], time| {
                timeout(time, reach_one_of(places, Instant::now() + time)).await
            };
            let time = Duration::from_secs(4);
            let reached = reach(&[silent, closed, there], time).await.expect("in time").unwrap();
            assert_eq!(reached.peer_addr().unwrap(), there);
            let error = reach(&[silent, closed], time).await.expect("in time").unwrap_err();
            assert!(error.to_string().contains(&closed.to_string()), "{error}");
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        });
    }
}
