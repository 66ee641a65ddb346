//! A server that answers on its sockets with the bytes that the test says.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
};

/// One request.
#[derive(Clone, Debug)]
pub(in super::super) struct Asked {
    /// The number of its connection, from 0.
    pub(in super::super) connection: usize,
    /// The number of requests before it on its connection.
    pub(in super::super) earlier: usize,
    /// Its request line and headers.
    pub(in super::super) head: String,
    pub(in super::super) body: Vec<u8>,
}

impl Asked {
    /// The path.
    pub(in super::super) fn path(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }

    /// The value of a header; empty if it is missing.
    pub(in super::super) fn header(&self, name: &str) -> &str {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        let mut values = lines.filter(|(other, _)| other.eq_ignore_ascii_case(name));
        values.next().map_or("", |(_, value)| value)
    }
}

/// What the server does with a request.
#[derive(Clone, Debug)]
pub(in super::super) enum Say {
    /// Sends these bytes, and keeps the connection.
    Bytes(Vec<u8>),
    /// Sends these bytes, and closes the connection.
    Last(Vec<u8>),
    /// Closes the connection.
    Close,
}

impl Say {
    /// An answer with this status, and more headers, each with its line break.
    pub(in super::super) fn status(status: &str, headers: &str) -> Self {
        Self::text(&format!(
            "HTTP/1.1 {status}\r\ncontent-length: 0\r\n{headers}\r\n"
        ))
    }

    pub(in super::super) fn ok() -> Self {
        Self::status("200 OK", "")
    }

    pub(in super::super) fn text(text: &str) -> Self {
        Self::Bytes(text.as_bytes().to_vec())
    }
}

type Answer = dyn Fn(&Asked) -> Say + Send + Sync;

/// The server. It ends when it is dropped.
pub(in super::super) struct Server {
    pub(in super::super) port: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
    accepting: JoinHandle<()>,
}

impl Server {
    pub(in super::super) async fn answering(
        answer: impl Fn(&Asked) -> Say + Send + Sync + 'static,
    ) -> Self {
        Self::start(None, answer).await
    }

    pub(in super::super) async fn start(
        tls: Option<tokio_rustls::TlsAcceptor>,
        answer: impl Fn(&Asked) -> Say + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::<Mutex<Vec<Asked>>>::default();
        let record = Arc::clone(&asked);
        let answer: Arc<Answer> = Arc::new(answer);
        let connections = AtomicUsize::new(0);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let number = connections.fetch_add(1, Ordering::Relaxed);
                let (record, answer, tls) = (Arc::clone(&record), Arc::clone(&answer), tls.clone());
                tokio::spawn(async move {
                    // An error ends the connection: the client may have ended it.
                    match tls {
                        None => drop(serve(stream, number, &record, &*answer).await),
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                drop(serve(stream, number, &record, &*answer).await);
                            }
                        }
                    }
                });
            }
        });
        Self {
            port,
            asked,
            accepting,
        }
    }

    pub(in super::super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }

    pub(in super::super) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    connection: usize,
    record: &Mutex<Vec<Asked>>,
    answer: &Answer,
) -> std::io::Result<()> {
    for earlier in 0.. {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let mut asked = Asked {
            connection,
            earlier,
            head,
            body: Vec::new(),
        };
        let length = asked.header("content-length").parse().unwrap_or(0);
        asked.body.resize(length, 0);
        stream.read_exact(&mut asked.body).await?;
        let say = answer(&asked);
        record.lock().unwrap().push(asked);
        match say {
            Say::Bytes(bytes) => stream.write_all(&bytes).await?,
            Say::Last(bytes) => return stream.write_all(&bytes).await,
            Say::Close => return Ok(()),
        }
        stream.flush().await?;
    }
    Ok(())
}
