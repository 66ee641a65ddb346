use super::{repair::DEEPEST, *};
use proptest::prelude::*;

fn short(bytes: &[u8]) -> Vec<u8> {
    [&[u8::try_from(bytes.len()).unwrap()], bytes].concat()
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let size = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&[kind, 0, 1][..], &size, payload, &[0xCE]].concat()
}

/// A content header with a header table, message-id and routing key. `bad` holds the invalid bytes.
fn spoilt(bad: &[u8]) -> Vec<u8> {
    let inner = [short(bad), b"S\0\0\0\x02\xff\xfe".to_vec()].concat();
    let length = u32::try_from(inner.len()).unwrap().to_be_bytes();
    let nested = [&short(b"nested")[..], b"F", &length, &inner].concat();
    let table = [inner, nested].concat();
    let length = u32::try_from(table.len()).unwrap().to_be_bytes();
    let flags = (1u16 << 13 | 1 << 7).to_be_bytes();
    let header = [
        &[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3],
        &flags[..],
        &length,
        &table,
        &short(bad),
    ];
    let deliver = [
        &[0, 60, 0, 60][..],
        &short(b"tag"),
        &[0; 9],
        &short(b""),
        &short(bad),
    ];
    [
        frame(METHOD, &deliver.concat()),
        frame(HEADER, &header.concat()),
        frame(3, b"\xff\xfe\xfd"),
        frame(8, b""),
    ]
    .concat()
}

fn through(bytes: &[u8], sizes: &[usize]) -> Vec<u8> {
    let mut inbox = Inbox::default();
    let mut out = Vec::new();
    let mut rest = bytes;
    for size in sizes.iter().cycle() {
        let mut buf = vec![0; *size];
        let taken = inbox.take(&mut buf);
        out.extend_from_slice(&buf[..taken]);
        if taken > 0 {
            continue;
        }
        if rest.is_empty() || inbox.too_long.is_some() {
            return out;
        }
        let room = inbox.room();
        let count = rest.len().min(*size).min(room.len());
        room[..count].copy_from_slice(&rest[..count]);
        inbox.arrived(count);
        rest = &rest[count..];
    }
    unreachable!("sizes is not empty")
}

#[test]
fn frames_of_any_length_or_of_more_than_lapin_should_keep_are_not_agreed_on() {
    let tune = |bytes: u32| {
        let rest = [&bytes.to_be_bytes()[..], &[0, 60]].concat();
        frame(METHOD, &[&[0, 10, 0, 30, 7, 255][..], &rest].concat())
    };
    for (offered, agreed) in [
        (0, LONGEST),
        (u32::MAX, LONGEST),
        (LONGEST + 1, LONGEST),
        (LONGEST, LONGEST),
        (131_072, 131_072),
        (4096, 4096),
    ] {
        assert_eq!(through(&tune(offered), &[64]), tune(agreed));
    }
}

#[test]
fn a_frame_that_is_too_long_is_not_waited_for() {
    let head = |kind: u8, bytes: usize| {
        let size = u32::try_from(bytes).unwrap().to_be_bytes();
        [&[kind, 0, 1][..], &size].concat()
    };
    let tune = frame(METHOD, &[0, 10, 0, 30, 0, 0, 0, 2, 0, 0, 0, 60]);
    for kind in [METHOD, HEADER, 3, 8] {
        let long = [frame(8, b""), head(kind, USUAL)].concat();
        assert_eq!(
            through(&long, &[64]),
            frame(8, b""),
            "{kind}, before tuning"
        );
        let bytes = if kind < 3 { LONGEST_HEADER } else { USUAL };
        let long = [tune.clone(), head(kind, bytes)].concat();
        assert_eq!(through(&long, &[64]), tune, "{kind}, after tuning");
    }
    let body = [tune.clone(), head(3, USUAL - 8), vec![b'x'; USUAL - 7]].concat();
    assert_eq!(
        through(&body, &[4096]).len(),
        body.len(),
        "the agreed length"
    );
}

#[test]
fn the_release_is_read_from_the_brokers_first_frame() {
    let start = |version: &str| {
        let length = u32::try_from(version.len()).unwrap().to_be_bytes();
        let entry = [&short(b"version")[..], b"S", &length, version.as_bytes()].concat();
        frame(
            METHOD,
            &[&[0, 10, 0, 10, 0, 9][..], &entry, &[0; 30]].concat(),
        )
    };
    for (version, delay) in [
        ("3.10.8", false),
        ("4.0.5", true),
        ("4.2.0-rc.1", true),
        ("4.3.6", false),
        ("odd", true),
    ] {
        let mut inbox = Inbox::default();
        let bytes = start(version);
        inbox.room()[..bytes.len()].copy_from_slice(&bytes);
        inbox.arrived(bytes.len());
        assert_eq!(inbox.offered.priorities_delay(), delay, "{version}");
    }
}

#[test]
fn the_brokers_own_headers_go_first_where_a_header_is_too_long_and_then_the_longest() {
    let tune = frame(METHOD, &[0, 10, 0, 30, 0, 0, 0, 0, 1, 0, 0, 60]);
    let header = |entries: &[Vec<u8>]| {
        let table = entries.concat();
        let length = u32::try_from(table.len()).unwrap().to_be_bytes();
        let flags = (1u16 << 15 | 1 << 13 | 1 << 12).to_be_bytes();
        let kind = short(b"text/plain");
        frame(
            HEADER,
            &[&[0; 12][..], &flags, &kind, &length, &table, &[2]].concat(),
        )
    };
    let theirs = |length: usize| {
        let value = [
            &u32::try_from(length).unwrap().to_be_bytes()[..],
            &vec![b'x'; length],
        ];
        [short(b"theirs"), b"S".to_vec(), value.concat()].concat()
    };
    let list = |names: &str| {
        let length = u32::try_from(names.len()).unwrap().to_be_bytes();
        let value = [b"S", &length[..], names.as_bytes()].concat();
        [short(b"lapwing-cut-headers"), value].concat()
    };
    let count = [short(b"x-delivery-count"), b"l\0\0\0\0\0\0\0\x01".to_vec()].concat();
    let sent = |entries: &[Vec<u8>]| [tune.clone(), header(entries), frame(3, b"body")].concat();
    for sizes in [&[1][..], &[7, 100], &[70_000]] {
        let long = sent(&[theirs(190), count.clone()]);
        assert_eq!(through(&long, sizes), sent(&[theirs(190)]));
        let fits = sent(&[theirs(10), count.clone()]);
        assert_eq!(through(&fits, sizes), fits);
        let more = [theirs(500), list("before"), theirs(100)];
        let cut = [theirs(100), list("before theirs")];
        assert_eq!(through(&sent(&more), sizes), sent(&cut));
        let all = sent(&[theirs(500), count.clone(), theirs(300)]);
        assert_eq!(through(&all, sizes), sent(&[list("theirs theirs")]));
        let hopeless = [tune.clone(), frame(HEADER, &[0; 500])].concat();
        assert_eq!(through(&hopeless, sizes), hopeless);
    }
}

proptest! {
    #[test]
    fn bad_bytes_are_replaced_wherever_the_reads_fall(
        sizes in prop::collection::vec(1usize..200, 1..8), bad in prop::collection::vec(128u8.., 1..6),
    ) {
        let fixed = vec![b'?'; bad.len()];
        prop_assume!(std::str::from_utf8(&bad).is_err());
        let expected = String::from_utf8_lossy(&bad).chars().all(|c| c == '\u{fffd}');
        prop_assume!(expected);
        prop_assert_eq!(through(&spoilt(&bad), &sizes), spoilt(&fixed));
    }

    #[test]
    fn good_bytes_and_garbage_pass_unchanged(
        sizes in prop::collection::vec(1usize..200, 1..8), text in "\\PC{0,20}", kind in 9u8..,
    ) {
        let good = spoilt(text.as_bytes());
        prop_assert_eq!(&through(&good, &sizes), &good);
        let opaque = frame(kind, &good);
        prop_assert_eq!(&through(&opaque, &sizes), &opaque);
    }

    #[test]
    fn deep_nesting_ends_in_bytes_of_the_same_length(
        sizes in prop::collection::vec(1usize..200, 1..8), depth in 0usize..3 * DEEPEST, array: bool,
    ) {
        let nested = |cut: usize| {
            let mut value = b"V".to_vec();
            for level in (0..depth).rev() {
                let letter = if level == cut { b'x' } else if array { b'A' } else { b'F' };
                let name = if array { vec![] } else { short(b"k") };
                let inner = [name, value].concat();
                let length = u32::try_from(inner.len()).unwrap().to_be_bytes();
                value = [&[letter][..], &length, &inner].concat();
            }
            let table = [short(b"deep"), value].concat();
            let length = u32::try_from(table.len()).unwrap().to_be_bytes();
            let flags = (1u16 << 13).to_be_bytes();
            frame(HEADER, &[&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], &flags, &length, &table].concat())
        };
        prop_assert_eq!(through(&nested(usize::MAX), &sizes), nested(DEEPEST));
    }

    #[test]
    fn malformed_frames_do_not_panic(kind in 1u8..=2, payload in prop::collection::vec(any::<u8>(), 0..300)) {
        let bytes = frame(kind, &[&[0, 60, 0, 60][..], &payload].concat());
        prop_assert_eq!(through(&bytes, &[64]).len(), bytes.len());
    }
}
