//! The task of one outbound lane: dial, shake hands, keep the socket fed, back off, dial again.
//!
//! In:     a peer's address, and the bytes its [`Link`] could not write at once.
//! Out:    [`Inbound::up`] and [`Inbound::down`].
//! Cost:   asleep while the socket keeps up. While the peer is away: one attempt per pause (see `backoff`).
//! Fails:  never ends by itself; every failure is a pause and another attempt.
//! Source: RULES.md N10 (flaps, half-open peers), N13 (wrong address), I6 (no retry storm), P6 and C7 (see `stores`).

use crate::handshake::{MessageReader, Refusal};
use crate::lane::Link;
use crate::metrics::LogLimit;
use crate::saving::saved;
use crate::stores::{Acquaintances, Heard};
use crate::{Backoff, Hello, Inbound, NetError, Settings};
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// Keeps one lane to one peer connected, for ever.
pub(crate) struct Dialer {
    pub(crate) link: Rc<Link>,
    pub(crate) address: String,
    /// Our hello on this lane.
    pub(crate) me: Hello,
    pub(crate) stores: Arc<Acquaintances>,
    pub(crate) settings: Settings,
    pub(crate) inbound: Rc<dyn Inbound>,
}

impl Dialer {
    pub(crate) async fn run(self) {
        let (peer, lane) = (self.link.peer, self.link.lane);
        let mut backoff = Backoff::new(&self.settings, &self.me, peer);
        let log = LogLimit::new(LOG_PERIOD);
        loop {
            let (error, pause) = match self.connect().await {
                Ok((stream, hello)) => {
                    let since = Instant::now();
                    let stream = Rc::new(stream);
                    self.link.set_up(Rc::clone(&stream), hello.clone());
                    tracing::info!(%peer, ?lane, address = %self.address, "lane is up");
                    self.inbound.up(peer, lane, &hello);
                    let error = self.keep(&stream).await;
                    self.link.set_down();
                    self.inbound.down(peer, lane);
                    (error, backoff.after_loss(since.elapsed()))
                }
                Err(error) => {
                    let refused =
                        matches!(error, NetError::Refused(_) | NetError::RefusedByPeer(_));
                    self.link.count_failure(refused);
                    match error {
                        NetError::RefusedByPeer(refusal) => self.inbound.refused(peer, refusal),
                        NetError::Refused(refusal) => self.inbound.turned_away(peer, refusal),
                        _ => {}
                    }
                    (error, backoff.after_failure(refused))
                }
            };
            if let Some(more) = log.pass(Instant::now()) {
                let address = &self.address;
                tracing::warn!(%peer, ?lane, %address, %error, more, "lane is down");
            }
            tokio::select! {
                () = sleep(pause) => {}
                () = self.link.hurry.notified() => {}
            }
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
            let mut stream = self.reach().await.map_err(unreachable)?;
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

    async fn reach(&self) -> io::Result<TcpStream> {
        // The resolver runs on the blocking pool: do not start a thread for what is an address already.
        if let Ok(address) = self.address.parse::<SocketAddr>() {
            return TcpStream::connect(address).await;
        }
        TcpStream::connect(&self.address).await
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
const LOG_PERIOD: Duration = Duration::from_secs(5);
