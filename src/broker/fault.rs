//! The errors of an attempt to connect, in words that name the broker and the likely cause.

use std::{
    fmt,
    io::{self, ErrorKind as Io},
    sync::Mutex,
    time::Duration,
};

use lapin::{ErrorKind, uri::AMQPScheme};
use tokio::time::Instant;

use super::{
    dial::Target,
    error::{BrokerError, is_refusal},
};
use crate::lock::lock;

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let colons = self.host.contains(':');
        let (open, close) = if colons { ("[", "]") } else { ("", "") };
        write!(f, "{open}{}{close}:{}", self.host, self.port)
    }
}

/// The error of an attempt to connect to this broker.
pub(super) fn named(error: &lapin::Error, at: &Target) -> BrokerError {
    match error.kind() {
        ErrorKind::IOError(error) => BrokerError::Lost(of_network(error, at)),
        ErrorKind::ParsingError(_) | ErrorKind::InvalidProtocolVersion(_) => {
            BrokerError::Lost(format!(
                "{at} answers, but not in AMQP 0-9-1: another service listens there, or it is a TLS \
                 port (amqps://)"
            ))
        }
        ErrorKind::ProtocolError(refusal) if is_refusal(refusal) => {
            let (text, code) = (refusal.get_message(), refusal.get_id());
            let user = &at.amqp.authority.userinfo.username;
            let vhost = &at.amqp.vhost;
            BrokerError::Refused(format!(
                "{at}, user `{user}`, virtual host `{vhost}`: {text} ({code})"
            ))
        }
        _ => BrokerError::Lost(format!("{at}: {error}")),
    }
}

/// The error of an attempt that got no answer.
pub(super) fn silent(at: &Target, limit: Duration) -> BrokerError {
    BrokerError::Lost(format!(
        "{at} accepts connections, but does not answer in AMQP within {limit:?}: another service \
         listens there, or the broker is overloaded"
    ))
}

fn of_network(error: &io::Error, at: &Target) -> String {
    let text = error.to_string();
    let uses_tls = at.amqp.scheme == AMQPScheme::AMQPS;
    match error.kind() {
        Io::ConnectionRefused => format!("{at}: connection refused, nothing listens there"),
        Io::ConnectionAborted | Io::ConnectionReset | Io::UnexpectedEof | Io::BrokenPipe => {
            let other = match uses_tls {
                true => "it is a plain port (amqp://)",
                false => "it is a TLS port (amqps://)",
            };
            format!(
                "{at} accepts the connection and closes it before the handshake: it is a proxy \
                 without a broker behind it, or {other}"
            )
        }
        _ if text.contains("InvalidContentType") => {
            format!("{at} does not speak TLS: use amqp://, or the broker's TLS port")
        }
        _ if text.contains("UnknownIssuer") => format!(
            "{at}: the certificate is from an unknown authority ({text}): set broker.tls.ca_file"
        ),
        _ => format!("{at}: {text}"),
    }
}

/// Finds connections that end again and again after the same time: something on the way cuts idle
/// connections.
#[derive(Debug, Default)]
pub(super) struct Cuts {
    lasted: Duration,
    times: u32,
}

impl Cuts {
    /// Notes how long a lost connection lasted. Returns a hint after the third of the same length.
    /// A longer connection than half of the heartbeat interval was not idle: both sides send
    /// heartbeats that often.
    pub(super) fn note(&mut self, lasted: Duration, heartbeat: Duration) -> Option<String> {
        const TIMES: u32 = 3;
        const SHORT: Duration = Duration::from_millis(500);
        let tolerance = self.lasted / 5 + Duration::from_millis(100);
        let is_same = self.times > 0 && lasted.abs_diff(self.lasted) <= tolerance;
        self.times = if is_same { self.times + 1 } else { 1 };
        self.lasted = lasted;
        if self.times < TIMES || lasted < SHORT || lasted > heartbeat / 2 + SHORT {
            return None;
        }
        let seconds = lasted.as_secs().max(1);
        Some(format!(
            "{} connections in a row ended after {:.1} s: something between worker and broker cuts \
             idle connections; set broker.heartbeat to \"{seconds}s\" or less",
            self.times,
            lasted.as_secs_f64(),
        ))
    }
}

/// The faults that the log has told, shared by the connections of a worker: both meet the same
/// fault, and meet it again at each attempt.
#[derive(Debug, Default)]
pub(crate) struct Told(Mutex<Vec<(String, Instant)>>);

impl Told {
    /// Whether the log is to tell this fault: a new one at once, the same one once a minute.
    pub(super) fn is_news(&self, fault: &str) -> bool {
        const AGAIN: Duration = Duration::from_secs(60);
        let mut told = lock(&self.0);
        told.retain(|(_, at)| at.elapsed() < AGAIN);
        let is_news = !told.iter().any(|(text, _)| text == fault);
        if is_news {
            told.push((fault.to_owned(), Instant::now()));
        }
        is_news
    }

    /// A connection is open: the next fault is a new one.
    pub(super) fn forget(&self) {
        lock(&self.0).clear();
    }
}

#[cfg(test)]
mod tests {
    use std::{future::Future, sync::Arc};

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::broker::{BrokerSettings, BrokerUrls, Link, Purpose, Scouting, TimeoutSettings};

    /// The error of a first attempt to connect to this URL.
    async fn error(url: &str) -> String {
        // On a busy machine a handshake takes its time, and reading the system's authorities more.
        error_within(url, Duration::from_secs(30)).await
    }

    /// The same, where each step may take this long.
    async fn error_within(url: &str, limit: Duration) -> String {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let broker = BrokerSettings {
            url: BrokerUrls::parse(url),
            ..BrokerSettings::default()
        };
        let timeouts = TimeoutSettings {
            connect: limit,
            handshake: limit,
            ..TimeoutSettings::default()
        };
        let stop = CancellationToken::new();
        let _stop = stop.clone().drop_guard();
        let (broker, timeouts, told) = (Arc::new(broker), Arc::new(timeouts), Arc::default());
        let name = "test".to_owned();
        let (mut link, _) = Link::start(
            Purpose::Consume,
            broker,
            timeouts,
            name,
            Scouting::default(),
            told,
            stop,
        );
        let connected = link.connected().await.unwrap();
        connected.unwrap_err().to_string()
    }

    /// The port of a server that serves one connection after the other.
    async fn server<F: Future<Output = ()> + Send>(
        serve: impl Fn(TcpStream) -> F + Send + 'static,
    ) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                serve(stream).await;
            }
        });
        port
    }

    /// Reads something, answers with these bytes, and reads to the end.
    async fn answering(bytes: &'static [u8]) -> u16 {
        server(move |mut stream| async move {
            let mut room = [0; 4096];
            let _ = stream.read(&mut room).await;
            let _ = stream.write_all(bytes).await;
            let _ = stream.shutdown().await;
            while stream.read(&mut room).await.is_ok_and(|read| read > 0) {}
        })
        .await
    }

    #[tokio::test]
    async fn a_port_where_nothing_listens_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let text = error(&format!("amqp://127.0.0.1:{port}")).await;
        let expected = format!("127.0.0.1:{port}: connection refused, nothing listens there");
        assert_eq!(text, expected);
    }

    #[tokio::test]
    async fn a_name_that_does_not_exist_is_named() {
        let text = error("amqp://nowhere.invalid:5672").await;
        assert!(text.starts_with("nowhere.invalid:5672: "), "{text}");
    }

    #[tokio::test]
    async fn a_proxy_without_a_broker_is_recognised() {
        let port = server(|stream| async move { drop(stream) }).await;
        let text = error(&format!("amqp://127.0.0.1:{port}")).await;
        let beginning = format!("127.0.0.1:{port} accepts the connection and closes it before");
        assert!(text.starts_with(&beginning), "{text}");
        assert!(
            text.contains("a proxy without a broker behind it"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn a_tls_port_and_a_plain_one_are_told_apart() {
        // A TLS alert, as a TLS server answers to something else than TLS.
        let port = answering(&[0x15, 3, 3, 0, 2, 2, 10]).await;
        let text = error(&format!("amqp://127.0.0.1:{port}")).await;
        assert!(text.contains("TLS port (amqps://)"), "{text}");
        // The header with which RabbitMQ answers to something else than AMQP.
        let port = answering(b"AMQP\x00\x00\x09\x01").await;
        let text = error(&format!("amqps://127.0.0.1:{port}")).await;
        let expected =
            format!("127.0.0.1:{port} does not speak TLS: use amqp://, or the broker's TLS port");
        assert_eq!(text, expected);
    }

    #[tokio::test]
    async fn a_service_that_says_nothing_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let silent = listener.local_addr().unwrap().port();
        let url = format!("amqp://127.0.0.1:{silent}");
        // The limit counts for the connection as well, which on a busy machine takes its time.
        let text = error_within(&url, Duration::from_secs(3)).await;
        let beginning = format!("127.0.0.1:{silent} accepts connections, but does not answer");
        assert!(text.starts_with(&beginning), "{text}");
    }

    #[test]
    fn connections_that_end_after_the_same_time_are_noticed_at_the_third() {
        let heartbeat = Duration::from_secs(10);
        let mut cuts = Cuts::default();
        let mut note = |millis| cuts.note(Duration::from_millis(millis), heartbeat);
        assert_eq!([note(3_010), note(3_050)], [None, None]);
        let hint = note(2_990).unwrap();
        assert!(
            hint.contains("3 connections in a row ended after 3.0 s"),
            "{hint}"
        );
        assert!(note(3_100).unwrap().contains("to \"3s\" or less"));
        assert_eq!([note(60_000), note(3_000), note(3_000)], [None, None, None]);
        assert!(note(3_000).is_some());
        // Not idle, or too short for an idle time-out.
        assert_eq!([note(9_000), note(9_000), note(9_000)], [None, None, None]);
        assert_eq!([note(10), note(10), note(10)], [None, None, None]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_fault_is_told_once_a_minute_or_after_a_connection_and_another_one_at_once() {
        let told = Told::default();
        assert!(told.is_news("a") && !told.is_news("a"));
        assert!(told.is_news("b") && !told.is_news("a") && !told.is_news("b"));
        tokio::time::advance(Duration::from_secs(61)).await;
        assert!(told.is_news("a") && !told.is_news("a"));
        told.forget();
        assert!(told.is_news("a"));
    }
}
