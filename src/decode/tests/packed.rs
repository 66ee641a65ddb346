//! Packed bodies.

use super::*;

type Packer = fn(&[u8]) -> Vec<u8>;

#[test]
fn a_packed_body_is_seen_unpacked_and_without_its_encoding() {
    for (encoding, body, rest) in [
        ("gzip", gzip(BODY), None),
        ("GZIP", gzip(BODY), None),
        ("x-gzip", gzip(BODY), None),
        ("gzip", [gzip(b"{\"id\""), gzip(b": 1}")].concat(), None),
        ("deflate", zlib(BODY), None),
        ("deflate", deflate(BODY), None),
        ("zstd", zstd(BODY), None),
        ("zstd", [zstd(b"{\"id\""), zstd(b": 1}")].concat(), None),
        ("gzip, zstd", zstd(&gzip(BODY)), None),
        ("zstd,gzip", gzip(&zstd(BODY)), None),
        ("deflate, gzip, zstd", zstd(&gzip(&deflate(BODY))), None),
        ("identity, gzip", gzip(BODY), None),
        ("gzip, utf-8", gzip(BODY), Some("utf-8")),
    ] {
        let packed = packed(encoding, &body);
        let seen = read(&settings(), &packed).unwrap();
        let message = seen.message.unwrap();
        assert_eq!(message.body(), BODY, "{encoding}");
        assert_eq!(message.properties.content_encoding(), rest, "{encoding}");
        assert_eq!(message.properties.content_type(), Some("application/json"));
        assert_eq!(message.id(), Some("m1"));
        assert!(seen.is_json, "{encoding}");
        assert_eq!(packed.body(), body, "the delivery has changed");
        assert_eq!(packed.properties.content_encoding(), Some(encoding));
    }
}

#[test]
fn an_empty_body_is_empty_whatever_its_encoding_says() {
    let empty = typed(None, &[], b"")
        .properties
        .with_content_encoding("gzip");
    let seen = read(&settings(), &message_of(empty, b"")).unwrap();
    assert_eq!(seen.message.unwrap().body(), b"");
}

#[test]
fn a_body_with_an_encoding_that_the_worker_does_not_know_stays_as_it_is() {
    for encoding in ["br", "gzip, br", "br, gzip", "x-own"] {
        let seen = read(&settings(), &packed(encoding, b"\x01")).unwrap();
        assert!(seen.message.is_none() && !seen.is_json, "{encoding}");
    }
    let off = BodySettings {
        unpack: false,
        ..settings()
    };
    let seen = read(&off, &packed("gzip", &gzip(BODY))).unwrap();
    assert!(seen.message.is_none() && !seen.is_json);
}

#[test]
fn a_body_that_is_not_what_its_encoding_says_is_refused() {
    let cut = |body: Vec<u8>| body[..body.len() - 1].to_vec();
    let more = |body: Vec<u8>| [body, b"x".to_vec()].concat();
    for (encoding, body) in [
        ("gzip", BODY.to_vec()),
        ("gzip", cut(gzip(BODY))),
        ("gzip", more(gzip(BODY))),
        ("deflate", BODY.to_vec()),
        ("deflate", cut(zlib(BODY))),
        ("deflate", cut(deflate(BODY))),
        ("deflate", more(zlib(BODY))),
        ("deflate", more(deflate(BODY))),
        ("deflate", vec![0x78]),
        ("zstd", BODY.to_vec()),
        ("zstd", cut(zstd(BODY))),
        ("zstd", more(zstd(BODY))),
        ("zstd", gzip(BODY)),
        ("gzip, zstd", zstd(BODY)),
    ] {
        let error = error(&settings(), &packed(encoding, &body));
        let beginning = format!("the {encoding} body cannot be unpacked: ");
        assert!(error.starts_with(&beginning), "{error}");
        assert!(
            error.len() > beginning.len() && error.len() < 300,
            "{error}"
        );
    }
    let many = packed("gzip, gzip, gzip, gzip", &gzip(BODY));
    let error = error(&settings(), &many);
    assert!(
        error.ends_with("it has 4 encodings in a row, and may have 3"),
        "{error}"
    );
}

#[test]
fn unpacking_stops_at_the_limit() {
    let most = 100_000;
    let limited = BodySettings {
        unpacked_bytes: most,
        ..settings()
    };
    let text = |length: u64| format!("\"{}\"", "x".repeat(length as usize - 2)).into_bytes();
    let packers: [(&str, Packer); 5] = [
        ("gzip", gzip),
        ("deflate", zlib),
        ("zstd", zstd),
        ("gzip, zstd", |body| zstd(&gzip(body))),
        ("zstd, gzip", |body| gzip(&zstd(body))),
    ];
    for (encoding, pack) in packers {
        let fits = read(&limited, &packed(encoding, &pack(&text(most)))).unwrap();
        let body = &fits.message.unwrap().body;
        assert_eq!(body.len() as u64, most, "{encoding}");
        assert!(
            body.capacity() as u64 <= most,
            "{encoding}: {}",
            body.capacity()
        );
        let error = error(&limited, &packed(encoding, &pack(&text(most + 1))));
        assert!(error.contains("more than 100000 bytes unpacked"), "{error}");
    }
}

#[test]
fn a_step_between_two_encodings_has_the_limit_too() {
    let limited = BodySettings {
        unpacked_bytes: 1000,
        ..settings()
    };
    // Each empty file of gzip has 20 bytes: together they are an empty body.
    let empty = gzip(b"").repeat(1000);
    let error = error(&limited, &packed("gzip, zstd", &zstd(&empty)));
    assert!(error.contains("more than 1000 bytes unpacked"), "{error}");
}

#[test]
fn a_window_that_is_larger_than_a_body_may_be_is_refused() {
    // A frame that asks for a window of 2 GiB, and holds one byte.
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x09, 0x00, 0x00, b'1'];
    let error = error(&settings(), &packed("zstd", &frame));
    assert!(
        error.starts_with("the zstd body cannot be unpacked: "),
        "{error}"
    );
}
