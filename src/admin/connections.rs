//! The connections of the server: how many there are, how long they live, how they end.

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

/// The longest that the server waits for the head of the next request on a connection.
const HEAD: Duration = Duration::from_secs(10);
/// If a peer acknowledges no data for this time, the kernel closes the connection
/// (`TCP_USER_TIMEOUT`).
const UNREAD: Duration = Duration::from_secs(20);
/// The most bytes of a request's head, and of a body that is buffered.
const BUFFER: usize = 32 * 1024;
/// The most headers of a request.
const HEADERS: usize = 64;

/// A bound listener.
#[derive(Debug)]
pub(super) struct Listening {
    pub(super) listener: TcpListener,
    pub(super) address: SocketAddr,
}

/// The address of the client, for the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) SocketAddr);

/// Serves at most `most` connections at a time until `stop`. Then open connections get [`GOODBYE`]
/// to end.
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
            // This fails only for a closed semaphore, and nobody closes this one.
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
                // Most likely the process is out of file descriptors: another attempt would fail at
                // once.
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
    open.close();
    // Connections that are still open after that are dropped with the runtime.
    let _ = timeout(GOODBYE, open.wait()).await;
}

async fn connection(stream: TcpStream, peer: Peer, router: Router, stop: CancellationToken) {
    let socket = SockRef::from(&stream);
    // A connection works without these options, only slower or for longer.
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
