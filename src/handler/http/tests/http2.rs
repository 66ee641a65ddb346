//! HTTP/2: connections that stall, and streams that the server refuses.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::watch};
use tokio_rustls::TlsAcceptor;

use super::{
    tls::{acceptor, authority, issued, written},
    *,
};

/// A TLS listener for HTTP/2, and a handler that trusts it.
async fn listening() -> (TcpListener, TlsAcceptor, HttpHandler, TempDir) {
    let folder = TempDir::new().unwrap();
    let authority = authority();
    let mut server = ServerConfig::clone(acceptor(&issued(&authority), None).config());
    server.alpn_protocols = vec![b"h2".to_vec()];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let settings = HttpHandlerSettings {
        ca_file: written(folder.path(), "ca", &authority.pem()),
        // The tests let time pass for timers, and not for sockets.
        connect_timeout: Duration::from_secs(3600),
        ..settings(format!("https://localhost:{port}/"))
    };
    let handler = HttpHandler::new(&settings).unwrap();
    (
        listener,
        TlsAcceptor::from(Arc::new(server)),
        handler,
        folder,
    )
}

/// The server says that it has not worked on such a request.
#[tokio::test]
async fn streams_that_the_server_refuses_cost_no_attempt() {
    let (listener, tls, handler, _folder) = listening().await;
    let refused = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&refused);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (tls, count) = (tls.clone(), Arc::clone(&count));
            tokio::spawn(async move {
                let stream = tls.accept(stream).await.unwrap();
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    // Every second request is refused.
                    match count.fetch_add(1, Ordering::SeqCst) % 2 {
                        0 => respond.send_reset(h2::Reason::REFUSED_STREAM),
                        _ => drop(respond.send_response(hyper::Response::new(()), true)),
                    }
                }
            });
        }
    });
    for _ in 0..3 {
        assert_eq!(run(&handler, plain()).await, Outcome::Succeeded);
    }
    assert_eq!(refused.load(Ordering::SeqCst), 6);
}

/// A server on HTTP/2 whose first connection stops reading and writing when the test says so.
struct Stalling {
    stalls: watch::Sender<bool>,
    connections: Arc<AtomicUsize>,
    handler: HttpHandler,
    _folder: TempDir,
}

impl Stalling {
    async fn start() -> Self {
        let (listener, tls, handler, folder) = listening().await;
        let (stalls, connections) = (watch::Sender::new(false), Arc::<AtomicUsize>::default());
        let (stalled, count) = (stalls.subscribe(), Arc::clone(&connections));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let is_first = count.fetch_add(1, Ordering::SeqCst) == 0;
                let (tls, mut stalled) = (tls.clone(), stalled.clone());
                tokio::spawn(async move {
                    let io = TokioIo::new(tls.accept(stream).await.unwrap());
                    let answer = service_fn(async |_| {
                        Ok::<_, Infallible>(hyper::Response::new(String::new()))
                    });
                    let mut serving = std::pin::pin!(
                        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                            .serve_connection(io, answer)
                    );
                    let stall = async {
                        let stall = stalled.wait_for(|stalled| *stalled && is_first);
                        drop(stall.await);
                    };
                    tokio::select! {
                        _ = &mut serving => {}
                        // The connection stays open, but nobody serves it.
                        () = stall => std::future::pending().await,
                    }
                });
            }
        });
        Self {
            stalls,
            connections,
            handler,
            _folder: folder,
        }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn a_stalled_connection_of_http_2_is_found_by_ping_and_costs_no_attempt() {
    let stalling = Stalling::start().await;
    for _ in 0..2 {
        assert_eq!(run(&stalling.handler, plain()).await, Outcome::Succeeded);
    }
    assert_eq!(stalling.connections(), 1);
    stalling.stalls.send_replace(true);

    let mut running = stalling.handler.handle(plain());
    let mut passed = Duration::ZERO;
    let outcome = loop {
        if let Ok(outcome) = timeout(Duration::from_millis(10), &mut running).await {
            break outcome;
        }
        // The second connection is real, and needs real time.
        if stalling.connections() < 2 {
            pass(Duration::from_secs(1)).await;
            passed += Duration::from_secs(1);
        }
        assert!(passed < Duration::from_secs(60), "not found in a minute");
    };
    assert_eq!(outcome, Outcome::Succeeded);
    assert_eq!(stalling.connections(), 2);
}

#[tokio::test]
async fn requests_without_an_answer_end_the_use_of_a_connection() {
    let stalling = Stalling::start().await;
    assert_eq!(run(&stalling.handler, plain()).await, Outcome::Succeeded);
    stalling.stalls.send_replace(true);
    for _ in 0..2 {
        let late = timeout(Duration::from_millis(300), stalling.handler.handle(plain())).await;
        assert!(late.is_err(), "{late:?}");
    }
    pass(Duration::from_secs(1)).await;
    assert_eq!(run(&stalling.handler, plain()).await, Outcome::Succeeded);
    assert_eq!(stalling.connections(), 2);
}
