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
use logdrive::NodeError;
use socket2::{SockRef, TcpKeepalive};
use std::{sync::Arc, time::Duration};
use tokio::net::{TcpListener, TcpStream};

/// Begins to accept; ends with the node.
pub(crate) fn start(
    listener: std::net::TcpListener,
    server: &Arc<Server>,
) -> Result<(), NodeError> {
    let shared = Arc::clone(server);
    server.node.spawn_on(0, move || Box::pin(accept(listener, shared)))
}

async fn accept(listener: std::net::TcpListener, server: Arc<Server>) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "clients cannot be accepted"),
    };
    let mut next_shard = 0;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let _work = work::time().await;
                if let Err(error) = admit(stream, &server, next_shard) {
                    tracing::warn!(%error, "a client could not be served");
                }
                next_shard = (next_shard + 1) % server.node.shards();
            }
            Err(error) => {
                // Out of descriptors or memory (a client that left early is none of these, but rare): trying at
                // once would spin.
                tracing::warn!(%error, "a client could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn admit(stream: TcpStream, server: &Arc<Server>, shard: usize) -> std::io::Result<()> {
    let Some(seat) = Seat::take(&server.clients, server.clients_max) else {
        let mut reply = BytesMut::new();
        resp::write_error(&mut reply, "ERR max number of clients reached");
        // A fresh socket's buffer is empty: this goes out whole or the client is gone.
        return stream.try_write(&reply).map(drop);
    };
    stream.set_nodelay(true)?;
    // A client whose host has vanished says nothing, not even an end.
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE / 4)
        .with_retries(KEEPALIVE_PROBES);
    SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    let stream = stream.into_std()?;
    let shared = Arc::clone(server);
    let task = move || -> std::pin::Pin<Box<dyn Future<Output = ()>>> {
        match Connection::new(stream, shared, seat) {
            Ok(connection) => Box::pin(connection),
            Err(error) => {
                tracing::warn!(%error, "a client could not be served");
                Box::pin(std::future::ready(()))
            }
        }
    };
    server.node.spawn_on(shard, task).map_err(std::io::Error::other)
}

/// A silent client is asked after this long whether it is there, and gone when it has not answered for as long again.
const KEEPALIVE: Duration = Duration::from_secs(60);
const KEEPALIVE_PROBES: u32 = 4;
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
