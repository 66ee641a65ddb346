use super::*;
use std::{net::TcpListener, thread};

/// Two ends of a connection.
fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (ours, listener.accept().unwrap().0)
}

fn traffic() -> (Traffic, TcpStream) {
    let (socket, peer) = pair();
    (Traffic::new(Arc::new(Ends::new(socket))), peer)
}

fn is_busy(traffic: &Traffic) -> bool {
    traffic.ends.busy.load(Ordering::Relaxed)
}

#[test]
fn a_connection_is_busy_after_many_reads_in_a_row() {
    let (mut traffic, _peer) = traffic();
    let mut now = Instant::now();
    for _ in 0..MANY {
        traffic.read(now);
        now += SOON / 2;
    }
    assert!(!is_busy(&traffic));
    now += SOON;
    traffic.read(now);
    for _ in 1..MANY {
        now += SOON / 2;
        traffic.read(now);
    }
    assert!(!is_busy(&traffic), "a pause begins the count anew");
    now += SOON / 2;
    traffic.read(now);
    assert!(is_busy(&traffic));
}

#[test]
fn a_busy_connection_waits_for_bytes_and_is_no_longer_busy_when_none_come() {
    let (mut traffic, mut peer) = traffic();
    let bell = Bell::new().unwrap();
    assert_eq!(traffic.wait(&bell), Waited::NotAtAll);
    traffic.ends.busy.store(true, Ordering::Relaxed);
    peer.write_all(b"bytes").unwrap();
    while !traffic.ends.has_bytes.load(Ordering::Relaxed) {
        traffic.ends.busy.store(true, Ordering::Relaxed);
        assert_eq!(traffic.wait(&bell), Waited::Look);
    }
    assert!(is_busy(&traffic));
    (&traffic.ends.socket).read_exact(&mut [0; 5]).unwrap();
    assert_eq!(traffic.wait(&bell), Waited::Look);
    assert!(!is_busy(&traffic));
    assert_eq!(traffic.wait(&bell), Waited::NotAtAll);
}

#[test]
fn the_end_of_a_connection_ends_a_wait() {
    let (mut traffic, peer) = traffic();
    let bell = Bell::new().unwrap();
    traffic.ends.busy.store(true, Ordering::Relaxed);
    drop(peer);
    while !traffic.ends.has_bytes.load(Ordering::Relaxed) {
        traffic.ends.busy.store(true, Ordering::Relaxed);
        assert_eq!(traffic.wait(&bell), Waited::Look);
    }
}

#[test]
fn whoever_rings_before_or_during_a_wait_ends_it_once() {
    let (socket, _peer) = pair();
    let bell = Arc::new(Bell::new().unwrap());
    bell.ring();
    bell.ring();
    assert_eq!(bell.wait(&socket), Heard::Bell);
    assert_eq!(bell.wait(&socket), Heard::Nothing);
    // A ring that comes before the wait, between its two looks, or in it.
    for _ in 0..200 {
        let ringer = Arc::clone(&bell);
        let ringer = thread::spawn(move || ringer.ring());
        while bell.wait(&socket) == Heard::Nothing {}
        ringer.join().unwrap();
        // The byte of a ring that came between the looks can come late.
        while bell.wait(&socket) != Heard::Nothing {}
    }
}

#[test]
fn a_ring_is_heard_although_bytes_have_come_too() {
    let (socket, mut peer) = pair();
    let bell = Bell::new().unwrap();
    peer.write_all(b"bytes").unwrap();
    while bell.wait(&socket) != Heard::Socket {}
    bell.waits.store(true, Ordering::SeqCst);
    bell.ring();
    bell.rung.store(false, Ordering::SeqCst);
    assert_eq!(
        bell.wait(&socket),
        Heard::Bell,
        "the byte of the ring is there"
    );
    assert_eq!(bell.wait(&socket), Heard::Socket);
}
