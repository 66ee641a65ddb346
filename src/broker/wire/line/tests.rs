use super::*;
use crate::broker::wire::{Gate, Gated, Wire, traffic::Traffic};
use lapin::tcp::AsyncTcpStream;
use std::{
    net::TcpListener,
    sync::mpsc,
    task::{Wake, Waker},
    thread,
    time::{Duration, Instant},
};

/// The wake-ups of a thread like lapin's.
struct Events(mpsc::Sender<()>);

impl Wake for Events {
    fn wake(self: Arc<Self>) {
        // The thread may have ended.
        let _ = self.0.send(());
    }
}

fn events() -> (Waker, mpsc::Receiver<()>) {
    let (sender, events) = mpsc::channel();
    (Waker::from(Arc::new(Events(sender))), events)
}

/// A line, and the other end of its connection.
async fn line() -> (Line, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = net::TcpStream::connect(listener.local_addr().unwrap()).await;
    let (peer, _) = listener.accept().unwrap();
    (Line::new(ours.unwrap()).unwrap(), peer)
}

/// Reads as lapin does: until there is no more, then again when it is woken. Answers all bytes with
/// themselves, and counts how often the line was busy.
fn echo(mut wire: Wire, ends: &Ends, count: usize) -> (Vec<u8>, usize) {
    let (waker, events) = events();
    let cx = &mut Context::from_waker(&waker);
    let (mut heard, mut busy) = (Vec::new(), 0);
    let mut buf = [0; 64];
    while heard.len() < count {
        assert!(Pin::new(&mut wire).poll_flush(cx).is_ready());
        let mut unanswered = Vec::new();
        while let Poll::Ready(read) = Pin::new(&mut wire).poll_read(cx, &mut buf) {
            let read = read.unwrap();
            assert_ne!(read, 0, "the other end stays");
            unanswered.extend_from_slice(&buf[..read]);
        }
        busy += usize::from(ends.busy.load(Ordering::Relaxed));
        if !unanswered.is_empty() {
            let written = Pin::new(&mut wire).poll_write(cx, &unanswered);
            assert!(matches!(written, Poll::Ready(Ok(count)) if count == unanswered.len()));
            heard.append(&mut unanswered);
        }
        if heard.len() < count {
            events.recv_timeout(Duration::from_secs(60)).unwrap();
        }
    }
    (heard, busy)
}

/// The other end sends many words, each once the one before was answered, and pauses now and then for longer
/// than a busy line waits.
#[tokio::test(flavor = "multi_thread")]
async fn all_bytes_arrive_while_a_line_is_busy_and_while_it_is_not() {
    const WORDS: usize = 2000;
    const LENGTH: usize = 8;
    for has_consumer in [true, false] {
        let (line, mut peer) = line().await;
        let (ends, gate) = (line.ends(), Arc::new(Gate::default()));
        if has_consumer {
            Gated::new(Arc::clone(&gate));
        }
        let stream = AsyncTcpStream::Plain(line);
        let mut wire = Wire::new(stream, Arc::clone(&ends), gate, Arc::default());
        // However slow the machine is, the words follow each other closely.
        wire.traffic.soon = Duration::from_secs(60);
        let reader = thread::spawn(move || echo(wire, &ends, WORDS * LENGTH));
        // Not the beginning of a frame, so the stream passes the bytes on as they are.
        for number in 0..WORDS {
            let word = [b'a' + u8::try_from(number % 26).unwrap(); LENGTH];
            if number % 500 == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            peer.write_all(&word).unwrap();
            let mut answer = [0; LENGTH];
            peer.read_exact(&mut answer).unwrap();
            assert_eq!(answer, word);
        }
        let (heard, busy) = reader.join().unwrap();
        assert_eq!(heard.len(), WORDS * LENGTH);
        assert_eq!(busy > 0, has_consumer, "busy {busy} times");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_line_without_room_to_write_is_woken_by_tokio() {
    let (mut line, mut peer) = line().await;
    let (waker, events) = events();
    let cx = &mut Context::from_waker(&waker);
    line.ends.busy.store(true, Ordering::Relaxed);
    let chunk = [7; 64 * 1024];
    let mut sent = 0;
    while let Poll::Ready(written) = Pin::new(&mut line).poll_write(cx, &chunk) {
        assert!(line.is_busy());
        sent += written.unwrap();
    }
    assert!(!line.is_busy());
    let mut all = vec![0; sent];
    peer.read_exact(&mut all).unwrap();
    events.recv_timeout(Duration::from_secs(60)).unwrap();
    assert!(Pin::new(&mut line).poll_write(cx, b"more").is_ready());
}

/// If the line were busy again, tokio would forget whom to wake, and lapin would never write again.
#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_waits_for_room_is_not_busy_however_much_is_read() {
    let (mut line, mut peer) = line().await;
    let (waker, events) = events();
    let cx = &mut Context::from_waker(&waker);
    let mut traffic = Traffic::new(line.ends());
    let mut now = Instant::now();
    let mut read = |traffic: &mut Traffic| {
        for _ in 0..100 {
            traffic.read(now);
            now += Duration::from_micros(1);
        }
    };
    read(&mut traffic);
    assert!(line.is_busy());
    let chunk = [7; 64 * 1024];
    let mut sent = 0;
    while let Poll::Ready(written) = Pin::new(&mut line).poll_write(cx, &chunk) {
        sent += written.unwrap();
    }
    read(&mut traffic);
    assert!(!line.is_busy());
    assert!(Pin::new(&mut line).poll_read(cx, &mut [0; 16]).is_pending());
    let mut all = vec![0; sent];
    peer.read_exact(&mut all).unwrap();
    events.recv_timeout(Duration::from_secs(60)).unwrap();
    assert!(Pin::new(&mut line).poll_write(cx, b"more").is_ready());
    read(&mut traffic);
    assert!(line.is_busy());
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_came_while_the_line_was_busy_wake_it_afterwards() {
    let (mut line, mut peer) = line().await;
    let (waker, events) = events();
    let cx = &mut Context::from_waker(&waker);
    let mut buf = [0; 16];
    line.ends.busy.store(true, Ordering::Relaxed);
    assert!(Pin::new(&mut line).poll_read(cx, &mut buf).is_pending());
    peer.write_all(b"late").unwrap();
    // Nobody has waited for them: a busy line does not look by itself.
    assert!(Pin::new(&mut line).poll_read(cx, &mut buf).is_pending());
    line.ends.busy.store(false, Ordering::Relaxed);
    let read = loop {
        match Pin::new(&mut line).poll_read(cx, &mut buf) {
            Poll::Ready(read) => break read.unwrap(),
            Poll::Pending => events.recv_timeout(Duration::from_secs(60)).unwrap(),
        }
    };
    assert_eq!(&buf[..read], b"late");
}
