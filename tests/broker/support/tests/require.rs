//! Requirements of a test that are missing.

use crate::support::require::{Requirement, met_or_skipped};

fn nothing() -> Result<u8, String> {
    Err("there is none".to_owned())
}

#[test]
fn what_is_there_is_used_even_where_it_may_be_missing() {
    assert_eq!(met_or_skipped(Requirement::Tls, Ok(1), ""), Some(1));
    assert_eq!(met_or_skipped(Requirement::Tls, Ok(1), "tls"), Some(1));
}

#[test]
#[should_panic(expected = "this test needs tls: there is none\nEither set AMQPS_URL")]
fn what_is_missing_fails_the_test_and_says_how_to_get_it() {
    met_or_skipped(Requirement::Tls, nothing(), "ipv6, own-node");
}

#[test]
fn what_is_missing_is_skipped_where_that_is_allowed_by_name() {
    let skipped = met_or_skipped(Requirement::Tls, nothing(), "ipv6, tls");
    assert_eq!(skipped, None);
}

#[test]
#[should_panic(expected = "LAPWING_TEST_SKIP: tsl is none of")]
fn a_name_that_is_no_requirement_fails_the_test() {
    met_or_skipped(Requirement::Tls, Ok(1), "tsl");
}
