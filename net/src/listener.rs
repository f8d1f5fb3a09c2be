//! A node's front door: accepts, learns who dials, hands the connection to a shard.
//!
//! In:     TCP connections from anyone.
//! Out:    [`Accepted`] connections of known peers; a typed refusal or a plain close for the rest.
//! Cost:   a stranger costs a task and less than 4 KiB, for at most the handshake's time limit.
//! Fails:  a connection's trouble is its own; out of file descriptors, accepting pauses.
//! Source: RULES.md I2, I3, I6, N8, I13.

use crate::door::{Door, Greeted, LeaseId, Turned, Welcome};
use crate::metrics::{InboundMeter, LogLimit, add};
use crate::saving::saved;
use crate::stores::Acquaintances;
use crate::{AbortOnPanic, Accepted, Hello, NetError, Refusal, Settings, peer};
use logdrive_raft::NodeId;
use socket2::{Domain, Protocol, Socket, Type};
use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio::time::{Instant, sleep, timeout};

/// The listening socket of a node. Can be bound before there is a runtime.
#[derive(Debug)]
pub struct Listener {
    socket: std::net::TcpListener,
    meter: Arc<InboundMeter>,
}

impl Listener {
    /// Listens on `address`, the first of its meanings that this machine has.
    ///
    /// # Errors
    /// [`NetError::Bind`] with the address and the system's reason, such as a port in use. If that is in use at the first
    /// meaning, no other is taken: peers would reach another process under this name.
    pub fn bind(address: impl ToSocketAddrs + std::fmt::Debug) -> Result<Self, NetError> {
        let name = format!("{address:?}").trim_matches('"').to_owned();
        let fail = |source| NetError::Bind { address: name.clone(), source };
        let mut last = fail(io::ErrorKind::AddrNotAvailable.into());
        for meaning in address.to_socket_addrs().map_err(fail)? {
            match listen(meaning) {
                Ok(socket) => return Ok(Self { socket, meter: Arc::default() }),
                Err(source) => {
                    let is_in_use = source.kind() == io::ErrorKind::AddrInUse;
                    let meaning = meaning.to_string();
                    let address = match meaning == name {
                        true => meaning,
                        false => format!("{name} ({meaning})"),
                    };
                    last = NetError::Bind { address, source };
                    if is_in_use {
                        break;
                    }
                }
            }
        }
        Err(last)
    }

    /// The address listened on; tells the port if any was asked for.
    ///
    /// # Errors
    /// The system's, if the socket is gone.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// The counts of all connections accepted here, also after their hand-over.
    #[must_use]
    pub fn meter(&self) -> Arc<InboundMeter> {
        Arc::clone(&self.meter)
    }

    /// Accepts for ever, and hands over every connection of a node in `known`; that is for shard
    /// `hello.shard % me.shards`. `me.lane` and `me.shard` do not matter; `stores` is what all of the node's threads know
    /// of its peers' directories. `turned_away` is told of each dialer that said it is a node in `known` and was refused.
    /// Returns only if the socket cannot be waited on.
    ///
    /// The connections handed over live as long as this: when it is dropped, they end.
    pub async fn run(
        self,
        me: Hello,
        known: Vec<NodeId>,
        stores: Arc<Acquaintances>,
        settings: Settings,
        hand_over: Box<dyn Fn(Accepted)>,
        turned_away: Box<dyn Fn(NodeId, Refusal)>,
    ) -> NetError {
        let socket = match TcpListener::from_std(self.socket) {
            Ok(socket) => socket,
            Err(error) => return NetError::Io(error),
        };
        let meter = self.meter;
        let entrance = Rc::new(Entrance {
            door: RefCell::new(Door::new(me, known.clone(), Arc::clone(&stores))),
            known,
            stores,
            leases: RefCell::default(),
            settings,
            hand_over,
            turned_away,
            meter: Arc::clone(&meter),
            log: LogLimit::new(Duration::from_secs(1)),
        });
        let mut tasks = JoinSet::new();
        let mut strangers = Strangers::default();
        loop {
            tokio::select! {
                Some(done) = tasks.join_next_with_id() => {
                    strangers.forget(match done {
                        Ok((id, ())) => id,
                        Err(error) => error.id(),
                    });
                }
                accepted = socket.accept() => match accepted {
                    Ok((stream, from)) => {
                        add(&meter.accepted, 1);
                        let evicted = strangers.make_room(from.ip(), &entrance.settings);
                        add(&meter.evicted, evicted);
                        let entrance = Rc::clone(&entrance);
                        let task = tasks.spawn_local(async move {
                            let _abort = AbortOnPanic;
                            entrance.admit(stream, from).await;
                        });
                        strangers.remember(from.ip(), task);
                    }
                    Err(error) => {
                        if let Some(more) = entrance.log.pass(Instant::now()) {
                            tracing::warn!(%error, more, "connections of peers cannot be accepted now: tried again soon");
                        }
                        // Out of descriptors or memory: asking again at once would only spin.
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restarted node must have its port back while old connections are still closing.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Connections that have not said who they are, oldest first.
#[derive(Default)]
struct Strangers(Vec<(IpAddr, AbortHandle)>);

impl Strangers {
    /// Turns out the oldest if there are too many, of this address or of all. The oldest, because a
    /// peer says who it is within a round trip, and only who means to hold the place stays longer.
    fn make_room(&mut self, ip: IpAddr, settings: &Settings) -> u64 {
        let mut evicted = 0;
        if self.0.iter().filter(|(other, _)| *other == ip).count()
            >= settings.strangers_per_address_max
            && let Some(oldest) = self.0.iter().position(|(other, _)| *other == ip)
        {
            self.0.remove(oldest).1.abort();
            evicted += 1;
        }
        if self.0.len() >= settings.strangers_max.max(1) {
            self.0.remove(0).1.abort();
            evicted += 1;
        }
        evicted
    }

    fn remember(&mut self, ip: IpAddr, task: AbortHandle) {
        self.0.push((ip, task));
    }

    fn forget(&mut self, id: Id) {
        self.0.retain(|(_, task)| task.id() != id);
    }
}

/// The state that all handshakes share.
struct Entrance {
    door: RefCell<Door>,
    known: Vec<NodeId>,
    stores: Arc<Acquaintances>,
    /// Dropping a sender ends the connection that holds its receiver.
    leases: RefCell<HashMap<LeaseId, watch::Sender<()>>>,
    settings: Settings,
    hand_over: Box<dyn Fn(Accepted)>,
    turned_away: Box<dyn Fn(NodeId, Refusal)>,
    meter: Arc<InboundMeter>,
    log: LogLimit,
}

impl Entrance {
    async fn admit(&self, stream: TcpStream, from: SocketAddr) {
        let limit = self.settings.handshake_timeout;
        let error = match timeout(limit, self.greet(stream)).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error,
            Err(_) => NetError::Timeout("handshake"),
        };
        let refused = matches!(error, NetError::Refused(_));
        add(if refused { &self.meter.refused } else { &self.meter.garbage }, 1);
        if let Some(more) = self.log.pass(Instant::now()) {
            tracing::warn!(%from, %error, more, "a connection to the port for peers was refused");
        }
    }

    async fn greet(&self, mut stream: TcpStream) -> Result<(), NetError> {
        peer::set_options(&stream, &self.settings)?;
        let greeted = match peer::read_message(&mut stream).await {
            Ok(message) => self.judge(&message).await,
            Err(NetError::Handshake(error)) => Err(self.door.borrow().unreadable(error)),
            Err(error) => return Err(error),
        };
        let Welcome { hello, answer, lease, ended } = match greeted {
            Ok(Greeted::Welcome(welcome)) => *welcome,
            Ok(Greeted::Introduced { answer }) => {
                // Nothing is wrong: the peer dials again.
                stream.write_all(&answer).await?;
                return Ok(());
            }
            Err(Turned { error, dialer, answer }) => {
                if let (NetError::Refused(refusal), Some(dialer)) = (&error, dialer)
                    && self.known.contains(&dialer)
                {
                    (self.turned_away)(dialer, *refusal);
                }
                if let Some(answer) = answer {
                    stream.write_all(&answer).await?;
                }
                return Err(error);
            }
        };
        // Earlier connections end before the answer is sent: frames that the dialer sends after the answer are then
        // never read beside those of an older connection.
        let lease = self.replace(lease, &ended);
        stream.write_all(&answer).await?;
        let stream = stream.into_std()?;
        add(&self.meter.authenticated, 1);
        (self.hand_over)(Accepted { hello, stream, lease, meter: Arc::clone(&self.meter) });
        Ok(())
    }

    /// [`Door::greet`], saving what is met away from this thread, which is a shard's. One at a time: dialers that want to
    /// be remembered, be they who they say or not, keep one thread and no more than part of the disk's time.
    async fn judge(&self, message: &[u8]) -> Result<Greeted, Turned> {
        let hello = self.door.borrow().judge(message)?;
        let said = hello.clone();
        let recognise =
            |stores: &Acquaintances| Some(stores.recognise(&hello)?.map_err(NetError::Refused));
        let meet = move |stores: &Acquaintances| {
            let met = stores.meet(&said);
            std::thread::sleep(SAVE_PAUSE);
            met
        };
        let met = saved(&self.stores, recognise, meet).await;
        self.door.borrow_mut().answer(hello, met)
    }

    /// Ends the connections of `ended`. The connection of `lease` must watch the receiver.
    fn replace(&self, lease: LeaseId, ended: &[LeaseId]) -> watch::Receiver<()> {
        let mut leases = self.leases.borrow_mut();
        for lease in ended {
            leases.remove(lease);
        }
        let (sender, receiver) = watch::channel(());
        leases.insert(lease, sender);
        receiver
    }
}

const BACKLOG: i32 = 1024;
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// After a save, before the next one. A whole cluster of [`crate::stores::PEERS_MAX`] nodes that comes back at once needs two
/// saves for each, half a second.
const SAVE_PAUSE: Duration = Duration::from_millis(2);
