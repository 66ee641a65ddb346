//! What the fuzzer needs of this module: `fuzz/` at the root of the repository.

use super::{
    CopyHeaders, Delivery, Moment, Properties,
    copies::{self, Terms, copy_properties},
    trust::{Rungs, Trust},
    wire::fuzz::through,
};

const USER: &str = "worker";

/// The bytes that lapin gets, if the broker sends these in pieces of this size. They must not depend on
/// the size.
pub(crate) fn byte_stream(bytes: &[u8], size: usize) -> Vec<u8> {
    let passed = through(bytes, size);
    assert!(passed.len() <= bytes.len());
    assert_eq!(passed, through(bytes, bytes.len().max(1)));
    passed
}

/// A message whose content header has this property list, as a worker gets it. `None` if lapin cannot
/// read the list.
pub(crate) fn delivery(properties: &[u8], body: &[u8]) -> Option<Delivery> {
    const FRAME: usize = 7;
    const CONTENT: usize = 2 + 2 + 8;
    let size = u32::try_from(CONTENT + properties.len()).ok()?;
    let head = [&[2, 0, 1][..], &size.to_be_bytes(), &[0, 60], &[0; 10]].concat();
    let frame = [&head[..], properties, &[0xCE]].concat();
    let repaired = through(&frame, frame.len());
    let list = repaired.get(FRAME + CONTENT..repaired.len().checked_sub(1)?)?;
    let (rest, sent) = lapin::protocol::basic::parse_properties(list).ok()?;
    rest.is_empty().then_some(())?;
    Some(Delivery {
        tag: 1,
        received: Moment::now(),
        exchange: String::new(),
        routing_key: "orders".to_owned(),
        redelivered: false,
        properties: trust().read(&rungs(), sent),
        body: body.to_vec(),
    })
}

/// The properties of a copy, as a worker reads them when the copy arrives. The copy must fit a frame.
pub(crate) fn copied(original: &Properties, copy: &CopyHeaders) -> Properties {
    let terms = Terms {
        frame_max: 16 * 1024,
        user: Some(USER.to_owned()),
        priorities_delay: true,
    };
    let sent = copy_properties(original, copy, &terms);
    assert!(copies::length(&sent) <= terms.frame_max, "{sent:?}");
    trust().read(&rungs(), sent)
}

fn trust() -> Trust {
    Trust::of(USER)
}

fn rungs() -> Rungs {
    Rungs::named("orders", "orders.retry.quorum")
}
