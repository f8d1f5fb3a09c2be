//! Accepts clients and hands them round the shards.
//!
//! In:     a listening socket, on shard 0's thread.
//! Out:    one [`Connection`] task per client, on shard 0, 1, .. in turn.
//! Cost:   as clients' work, a client that comes is a part of the time that all have between two looks of the thread at
//!         its events ([`work`]): that many come at once costs no heartbeat.
//! Fails:  too many clients: the next is told so and closed. Out of descriptors: waits, then tries again.

use super::{
    Server,
    connection::{Connection, Seat},
    work,
};
use crate::resp;
use bytes::BytesMut;
use logdrive::SpawnError;
use socket2::{SockRef, TcpKeepalive};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    time::Instant,
};

/// Begins to accept; ends with the node.
pub(crate) fn start(
    listener: std::net::TcpListener,
    server: &Arc<Server>,
) -> Result<(), SpawnError> {
    let shared = Arc::clone(server);
    server.node.spawn_on(0, move || accept(listener, shared)).map(drop)
}

async fn accept(listener: std::net::TcpListener, server: Arc<Server>) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            return tracing::error!(%error, "connections of clients cannot be accepted: this node serves none");
        }
    };
    let mut next_shard = 0;
    let mut log = LogLimit::of("a client could not be served");
    let mut log_accept = LogLimit::of("a client could not be accepted: tried again soon");
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let _work = work::time().await;
                if let Err(error) = admit(stream, peer, &server, next_shard) {
                    log.warn(&error);
                }
                next_shard = (next_shard + 1) % server.node.shards();
            }
            Err(error) => {
                // Out of descriptors or memory (a client that left early is none of these, but rare): trying at
                // once would spin.
                log_accept.warn(&error);
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn admit(
    stream: TcpStream,
    peer: SocketAddr,
    server: &Arc<Server>,
    shard: usize,
) -> std::io::Result<()> {
    let Some(seat) = Seat::take(&server.clients, server.clients_max) else {
        let mut reply = BytesMut::new();
        resp::write_error(&mut reply, "ERR max number of clients reached");
        // A fresh socket's buffer is empty: this goes out whole or the client is gone.
        let _ = stream.try_write(&reply);
        return Ok(());
    };
    stream.set_nodelay(true)?;
    end_when_silent(&SockRef::from(&stream), SILENCE_MAX)?;
    let stream = stream.into_std()?;
    let shared = Arc::clone(server);
    let task = move || -> std::pin::Pin<Box<dyn Future<Output = ()>>> {
        match Connection::new(stream, peer, shared, seat) {
            Ok(connection) => Box::pin(connection),
            Err(error) => {
                tracing::warn!(%error, "a client could not be served");
                Box::pin(std::future::ready(()))
            }
        }
    };
    server.node.spawn_on(shard, task).map(drop).map_err(std::io::Error::other)
}

/// Has the system end a connection whose other end does not answer for `silence_max`. A client whose host has vanished says
/// nothing, not even an end: it is asked whether it is there. Where bytes wait for it nobody asks, and they are given up
/// after as long; so are those for a client that is there and does not read.
fn end_when_silent(socket: &SockRef<'_>, silence_max: Duration) -> std::io::Result<()> {
    let keepalive = TcpKeepalive::new()
        .with_time(silence_max / 2)
        .with_interval(silence_max / 2 / KEEPALIVE_PROBES)
        .with_retries(KEEPALIVE_PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(silence_max))
}

/// One line a second of one trouble with clients, for there may be thousands.
struct LogLimit {
    trouble: &'static str,
    open_again: Option<Instant>,
    kept_back: u64,
}

impl LogLimit {
    fn of(trouble: &'static str) -> Self {
        Self { trouble, open_again: None, kept_back: 0 }
    }

    fn warn(&mut self, error: &std::io::Error) {
        let now = Instant::now();
        if self.open_again.is_some_and(|at| now < at) {
            self.kept_back += 1;
            return;
        }
        tracing::warn!(%error, kept_back = self.kept_back, "{}", self.trouble);
        *self = Self { open_again: Some(now + LOG_PERIOD), ..Self::of(self.trouble) };
    }
}

/// A client that does not answer, or does not take what is sent to it, is gone after this long.
const SILENCE_MAX: Duration = Duration::from_secs(120);
const KEEPALIVE_PROBES: u32 = 4;
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const LOG_PERIOD: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{ErrorKind, Write};

    #[test]
    fn a_client_that_does_not_read_is_ended() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        end_when_silent(&SockRef::from(&stream), Duration::from_secs(8)).unwrap();
        let set = SockRef::from(&stream);
        assert_eq!(set.tcp_user_timeout().unwrap(), Some(Duration::from_secs(8)));
        assert_eq!(set.tcp_keepalive_time().unwrap(), Duration::from_secs(4));
        assert_eq!(set.tcp_keepalive_interval().unwrap(), Duration::from_secs(1));
        // Less, so that the test is short.
        set.set_tcp_user_timeout(Some(Duration::from_millis(300))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(60))).unwrap();
        let error = loop {
            if let Err(error) = stream.write_all(&[b'r'; 64 << 10]) {
                break error;
            }
        };
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
        drop(client);
    }
}
