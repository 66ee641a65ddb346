//! The connections of the server: how many there are, how long they live, how they end.

use std::{
    net::{SocketAddr, TcpListener},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use axum::Router;
use hyper::{
    Response,
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
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, error, warn};

use super::{
    GOODBYE,
    guests::{Guest, Guests, Reserve},
};

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

/// Serves at most `most` connections at a time until `stop`: a further one takes the place of the
/// idlest. Then open connections get [`GOODBYE`] to end.
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
    let mut guests = Guests::default();
    let mut reserve = Reserve::default();
    reserve.keep();
    let open = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                // Not before: a connection that waits needs the descriptor more.
                reserve.keep();
                let guest = guests.admit(most);
                let (router, stop) = (router.clone(), stop.clone());
                open.spawn(async move {
                    tokio::select! {
                        () = connection(stream, Peer(peer), router, stop, &guest) => {}
                        () = guest.evicted() => debug!(peer = %peer, "closed the idlest connection to the admin server"),
                    }
                });
            }
            Err(error) => {
                warn!(%error, "admin server cannot accept");
                // Most likely the process is out of file descriptors.
                guests.evict();
                if !reserve.give_up() {
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
    open.close();
    // Connections that are still open after that are dropped with the runtime.
    let _ = timeout(GOODBYE, open.wait()).await;
}

async fn connection(
    stream: TcpStream,
    peer: Peer,
    router: Router,
    stop: CancellationToken,
    guest: &Arc<Guest>,
) {
    let socket = SockRef::from(&stream);
    // A connection works without these options, only slower or for longer.
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_user_timeout(Some(UNREAD));
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(peer);
        let request = router.call(request);
        let guest = Arc::clone(guest);
        async move {
            let busy = guest.is_asked();
            let response = request.await;
            busy.until_end_of(response.as_ref().ok().map(Response::headers));
            response
        }
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn silent_connections_keep_no_request_out() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let listening = Listening { listener, address };
        let router = Router::new().fallback(|| async { "alive" });
        let stop = CancellationToken::new();
        let serving = tokio::spawn(serve(listening, router, 2, stop.clone()));
        let mut silent = Vec::new();
        for _ in 0..8 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let mut asking = TcpStream::connect(address).await.unwrap();
        let request = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        asking.write_all(request).await.unwrap();
        let mut answer = String::new();
        asking.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("alive"), "{answer}");
        // The first ones had to leave.
        let mut end = Vec::new();
        silent[0].read_to_end(&mut end).await.unwrap();
        assert_eq!(end, b"");
        stop.cancel();
        drop(silent);
        serving.await.unwrap();
    }
}
