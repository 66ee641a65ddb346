//! Suggestions for a key or a word that does not exist.

use crate::Settings;

/// The suggestion in the first problem of reading.
fn suggested(text: &str) -> Option<String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let error = Settings::load_unvalidated(Some(file.path()), []).unwrap_err();
    let (_, hint) = error.problems[0].message.split_once("did you mean ")?;
    Some(hint.to_owned())
}

#[test]
fn the_nearest_key_or_word_is_suggested() {
    for (text, suggestion) in [
        ("broker.nmae = \"a\"", Some("`name`?")),
        ("broker.hearbeat = \"5s\"", Some("`heartbeat`?")),
        ("publish.chanels = 5", Some("`channels`?")),
        ("publish.chnnl = 5", Some("`channels`?")),
        ("consumer = 5", Some("`consumers`?")),
        ("log.format = \"jason\"", Some("\"json\"?")),
        ("log.format = \"xml\"", None),
        ("broker.colour = \"red\"", None),
        ("broker.uri = \"amqp://a\"", Some("`url`?")),
        ("consumers.a.workers = 5", Some("`concurrency`?")),
        ("consumers.a.max_retries = 5", Some("`retry.max_attempts`?")),
        (
            "consumers.a.handler = { kind = \"http\", method = \"PUT\" }",
            None,
        ),
    ] {
        assert_eq!(suggested(text).as_deref(), suggestion, "{text}");
    }
}

#[test]
fn a_key_one_table_too_far_out_is_shown_its_place() {
    for (text, suggestion) in [
        (
            "consumers.a.max_attempts = 5",
            Some("`retry.max_attempts`?"),
        ),
        ("consumers.a.url = \"http://a\"", Some("`handler.url`?")),
        (
            "consumers.a.handler.authorization = \"x\"",
            Some("`headers.authorization`?"),
        ),
        ("orders.queue = \"orders\"", Some("`consumers.orders`?")),
        ("broker.ca_file = \"/x\"", Some("`tls.ca_file`?")),
        ("grace = \"5s\"", Some("`drain.grace`?")),
        (
            "consumers.a.handler = { kind = \"log\", timeout = \"5s\" }",
            Some("`consumers.a.timeout`?"),
        ),
        ("max_attempts = 5", None),
        ("consumers.a.bindings = [{ max_attempts = 5 }]", None),
    ] {
        assert_eq!(suggested(text).as_deref(), suggestion, "{text}");
    }
}

#[test]
fn a_key_of_an_earlier_version_is_told_its_new_place() {
    let text = "[consumers.a]\nqueue = 'a'\ntypes.'order.paid' = { kind = 'log' }";
    let error = Settings::from_toml(text).unwrap_err().to_string();
    assert!(
        error.contains("consumers.a.types: is `routes` now"),
        "{error}"
    );
    assert!(
        error.contains("[consumers.NAME.routes.\"TYPE\"]"),
        "{error}"
    );
}
