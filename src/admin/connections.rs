//! Connections: how many, how long, how they end.

use std::{
    net::{SocketAddr, TcpListener},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use axum::Router;
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use socket2::SockRef;
use tokio::{
    net::TcpStream,
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, error, warn};

use super::GOODBYE;

/// The head of a request must be here within this time of the one before it, or of the connection.
const HEAD: Duration = Duration::from_secs(10);
/// A peer that takes nothing of what it is sent for so long has gone away (`TCP_USER_TIMEOUT`).
const UNREAD: Duration = Duration::from_secs(20);
/// Bytes of a request's head, and of what is buffered of a body.
const BUFFER: usize = 32 * 1024;
/// Headers of a request.
const HEADERS: usize = 64;

/// A bound listener.
#[derive(Debug)]
pub(super) struct Listening {
    pub(super) listener: TcpListener,
    pub(super) address: SocketAddr,
}

/// The other side of a connection, for the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) SocketAddr);

/// Serves until `stop`, at most `most` connections at a time; then those that are open are given
/// [`GOODBYE`] to end.
pub(super) async fn serve(
    listening: Listening,
    router: Router,
    most: usize,
    stop: CancellationToken,
) {
    let listener = match tokio::net::TcpListener::from_std(listening.listener) {
        Ok(listener) => listener,
        Err(error) => return error!(%error, "admin server cannot listen"),
    };
    let places = Arc::new(Semaphore::new(most));
    let open = TaskTracker::new();
    loop {
        let next = async {
            // Never closed.
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            next = next => next,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (router, stop) = (router.clone(), stop.clone());
                open.spawn(async move {
                    let _place = place;
                    connection(stream, Peer(peer), router, stop).await;
                });
            }
            Err(error) => {
                warn!(%error, "admin server cannot accept");
                // Most likely out of file descriptors: it would fail again at once.
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
    open.close();
    // What has not ended by then is dropped with the runtime.
    let _ = timeout(GOODBYE, open.wait()).await;
}

async fn connection(stream: TcpStream, peer: Peer, router: Router, stop: CancellationToken) {
    let socket = SockRef::from(&stream);
    // Without these a connection is slower, or stays longer; it works all the same.
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_user_timeout(Some(UNREAD));
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(peer);
        router.call(request)
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(BUFFER)
        .max_headers(HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    let mut serving = pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, peer = %peer.0, "connection to the admin server");
    }
}
