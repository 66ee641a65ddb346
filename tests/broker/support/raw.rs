//! A publisher that writes AMQP frames itself, for messages that no client library sends: bytes
//! that are not UTF-8 in place of text, tables nested a thousand deep, completely filled frames.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use url::Url;

use super::vhost::VHost;
use super::wait::within;

/// The frame size this publisher agrees to: the broker's default, which it also enforces.
const FRAME_MAX: u32 = 131_072;

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const FRAME_END: u8 = 0xCE;

const CONNECTION: u16 = 10;
const CHANNEL: u16 = 20;
const BASIC: u16 = 60;
const CONFIRM: u16 = 85;

/// A message in bytes. The default is an empty, persistent message without an address.
#[derive(Clone, Debug, Default)]
pub struct RawMessage {
    /// The exchange; empty for the default one.
    pub exchange: Vec<u8>,
    /// The routing key.
    pub routing_key: Vec<u8>,
    /// The message id; none where it is empty.
    pub message_id: Vec<u8>,
    /// The value of every other short-string property that the broker ignores; none if it is empty.
    pub texts: Vec<u8>,
    /// The entries of the header table, one after the other: see [`entry`].
    pub headers: Vec<u8>,
    /// The body.
    pub body: Vec<u8>,
}

impl RawMessage {
    /// A message to `queue`, by the default exchange.
    pub fn to(queue: &str) -> Self {
        Self {
            routing_key: queue.as_bytes().to_vec(),
            ..Self::default()
        }
    }

    /// With one more header, of RabbitMQ's type letter `kind`.
    pub fn header(mut self, name: &[u8], kind: u8, value: &[u8]) -> Self {
        self.headers.extend(entry(name, kind, value));
        self
    }

    /// With a text of this name that makes the header frame as large as a frame can be.
    pub fn filled(self, name: &[u8]) -> Self {
        let used = self.content_header().len() + entry(name, b'S', &long(b"")).len();
        let room = FRAME_MAX as usize - 8 - used;
        let full = self.header(name, b'S', &long(&vec![b'x'; room]));
        assert_eq!(full.content_header().len(), FRAME_MAX as usize - 8);
        full
    }

    /// The payload of the header frame.
    fn content_header(&self) -> Vec<u8> {
        const HEADERS: u16 = 1 << 13;
        const DELIVERY_MODE: u16 = 1 << 12;
        const MESSAGE_ID: u16 = 1 << 7;
        // Content type and encoding; correlation id, reply-to, type, app id and cluster id.
        const TEXTS: [u16; 7] = [1 << 15, 1 << 14, 1 << 10, 1 << 9, 1 << 5, 1 << 3, 1 << 2];
        let mut flags = 0;
        let mut properties = Vec::new();
        // Properties stand in the order of their bits, the highest first.
        for flag in (0..16).rev().map(|bit| 1 << bit) {
            let value = match flag {
                HEADERS => long(&self.headers),
                DELIVERY_MODE => vec![2],
                MESSAGE_ID if !self.message_id.is_empty() => short(&self.message_id),
                text if TEXTS.contains(&text) && !self.texts.is_empty() => short(&self.texts),
                _ => continue,
            };
            flags |= flag;
            properties.extend(value);
        }
        let size = (self.body.len() as u64).to_be_bytes();
        [
            &BASIC.to_be_bytes()[..],
            &[0, 0],
            &size,
            &flags.to_be_bytes(),
            &properties,
        ]
        .concat()
    }
}

/// One entry of a table.
pub fn entry(name: &[u8], kind: u8, value: &[u8]) -> Vec<u8> {
    [&short(name)[..], &[kind], value].concat()
}

/// A short string: a length octet and that many bytes.
pub fn short(bytes: &[u8]) -> Vec<u8> {
    let length = u8::try_from(bytes.len()).expect("at most 255 bytes");
    [&[length], bytes].concat()
}

/// A long string, or the content of a table or an array: four octets of length and the bytes.
pub fn long(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).expect("a test sends less");
    [&length.to_be_bytes()[..], bytes].concat()
}

/// The value of a table (`F`) that holds a table that holds a table, `depth` deep.
pub fn nested_tables(depth: usize) -> Vec<u8> {
    nested(&[0, b'F'], depth)
}

/// The value of an array (`A`) that holds an array that holds an array, `depth` deep.
pub fn nested_arrays(depth: usize) -> Vec<u8> {
    nested(b"A", depth)
}

/// A length, and `depth` times `head` and a length: each of what is still to come.
fn nested(head: &[u8], depth: usize) -> Vec<u8> {
    let level = head.len() + size_of::<u32>();
    let mut bytes = Vec::with_capacity(level * (depth + 1));
    for inside in (0..=depth).rev() {
        let length = u32::try_from(inside * level).expect("a test sends less");
        bytes.extend(length.to_be_bytes());
        if inside > 0 {
            bytes.extend(head);
        }
    }
    bytes
}

impl VHost {
    /// Publishes a message as it is, mandatory, and waits for its confirm.
    pub async fn publish_raw(&self, message: &RawMessage) {
        let publishing = async {
            let mut peer = Peer::open(&self.amqp_url(), self.name()).await;
            peer.publish(message).await;
        };
        within("a raw publish", publishing).await;
    }
}

/// A connection with one channel in confirm mode.
struct Peer {
    stream: TcpStream,
}

impl Peer {
    async fn open(url: &str, vhost: &str) -> Self {
        let url = Url::parse(url).expect("the broker's url is one");
        let host = url.host_str().expect("an amqp url has a host");
        let address = (host, url.port().unwrap_or(5672));
        let stream = TcpStream::connect(address).await.expect("it listens");
        let mut peer = Self { stream };
        peer.write(b"AMQP\0\0\x09\x01").await;
        peer.expect(CONNECTION, 10).await;
        let (user, password) = (url.username(), url.password().unwrap_or_default());
        let secret = format!("\0{user}\0{password}");
        let start_ok = [
            &long(b"")[..],
            &short(b"PLAIN"),
            &long(secret.as_bytes()),
            &short(b"en_US"),
        ];
        peer.method(0, CONNECTION, 11, &start_ok.concat()).await;
        peer.expect(CONNECTION, 30).await;
        let tune_ok = [&[0, 1][..], &FRAME_MAX.to_be_bytes(), &[0, 0]];
        peer.method(0, CONNECTION, 31, &tune_ok.concat()).await;
        let open = [&short(vhost.as_bytes())[..], &short(b""), &[0]];
        peer.method(0, CONNECTION, 40, &open.concat()).await;
        peer.expect(CONNECTION, 41).await;
        peer.method(1, CHANNEL, 10, &short(b"")).await;
        peer.expect(CHANNEL, 11).await;
        peer.method(1, CONFIRM, 10, &[0]).await;
        peer.expect(CONFIRM, 11).await;
        peer
    }

    async fn publish(&mut self, message: &RawMessage) {
        const MANDATORY: u8 = 1;
        let (exchange, key) = (short(&message.exchange), short(&message.routing_key));
        let publish = [&[0, 0][..], &exchange, &key, &[MANDATORY]];
        self.method(1, BASIC, 40, &publish.concat()).await;
        self.frame(HEADER, 1, &message.content_header()).await;
        for part in message.body.chunks(FRAME_MAX as usize - 8) {
            self.frame(BODY, 1, part).await;
        }
        self.expect(BASIC, 80).await;
    }

    async fn method(&mut self, channel: u16, class: u16, method: u16, arguments: &[u8]) {
        let (class, method) = (class.to_be_bytes(), method.to_be_bytes());
        let payload = [&class[..], &method, arguments].concat();
        self.frame(METHOD, channel, &payload).await;
    }

    async fn frame(&mut self, kind: u8, channel: u16, payload: &[u8]) {
        let channel = channel.to_be_bytes();
        let frame = [&[kind][..], &channel, &long(payload), &[FRAME_END]].concat();
        self.write(&frame).await;
    }

    async fn write(&mut self, bytes: &[u8]) {
        self.stream
            .write_all(bytes)
            .await
            .expect("the broker reads");
    }

    /// The next method, which must be this one. A refusal is shown as it came.
    async fn expect(&mut self, class: u16, method: u16) {
        let mut head = [0; 7];
        self.stream.read_exact(&mut head).await.expect("an answer");
        let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
        let mut payload = vec![0; size + 1];
        self.stream.read_exact(&mut payload).await.expect("a frame");
        let wanted = [class.to_be_bytes(), method.to_be_bytes()].concat();
        assert!(
            head[0] == METHOD && payload.starts_with(&wanted),
            "wanted method {class}.{method}, the broker said {:?}",
            String::from_utf8_lossy(&payload)
        );
    }
}
