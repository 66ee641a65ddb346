//! Which settings of the HTTP handler are refused.

use super::*;
use crate::{
    config::samples::{CERTIFICATE, KEY, Sample, file, sections},
    handler::HandlerSettings,
};

sections!({ handler: HandlerSettings }, |it, findings| {
    it.handler.check(findings, &KeyPath::of("handler"));
});

#[test]
fn passwords_and_header_values_never_print() {
    let handler = HttpHandlerSettings {
        url: "http://u:s3cret@localhost/orders?token=s3cret".to_owned(),
        headers: BTreeMap::from([("authorization".to_owned(), Secret::from("s3cret"))]),
        ..HttpHandlerSettings::default()
    };
    let shown = format!("{handler:?} {}", serde_json::to_string(&handler).unwrap());
    assert!(!shown.contains("s3cret"), "{shown}");
    assert!(
        shown.contains("http://u:***@localhost/orders?***"),
        "{shown}"
    );
}

#[test]
fn http_handlers_have_a_whole_url_and_headers_of_their_own() {
    let http = |rest: &str| format!("handler.kind = \"http\"\n{rest}");
    let pem = file(CERTIFICATE);
    let pem = pem.path().display();
    for url in [
        "orders",
        "/orders",
        "127.0.0.1:8000",
        "ftp://a/",
        "http://",
        "amqp://a",
    ] {
        let text = http(&format!("handler.url = \"{url}\""));
        Sections::refused(&[(&text, "handler.url: must be a complete URL")]);
    }
    let url = "handler.url = \"http://a/\"";
    for name in [
        "connection",
        "content-encoding",
        "Content-Length",
        "host",
        "te",
        "traceparent",
        "tracestate",
        "transfer-encoding",
        "upgrade",
    ] {
        let text = http(&format!("{url}\nhandler.headers = {{ {name} = \"x\" }}"));
        let beginning = format!("handler.headers.{name}: lapwing sets this header itself");
        Sections::refused(&[(&text, &beginning)]);
    }
    let headers = "handler.headers";
    Sections::refused(&[
        (
            &http(&format!("{url}\nhandler.headers = {{ \"a b\" = \"x\" }}")),
            &format!("{headers}.\"a b\": is not a header name"),
        ),
        (
            &http(&format!(
                "{url}\nhandler.headers = {{ Lapwing-Queue = \"x\" }}"
            )),
            &format!("{headers}.Lapwing-Queue: names that begin with `lapwing-` are reserved"),
        ),
        (
            &http(&format!("{url}\nhandler.headers = {{ a = \"x\\ny\" }}")),
            &format!("{headers}.a: has a value that no header can carry"),
        ),
        (
            &http(&format!(
                "{url}\nhandler.headers = {{ a = \"x\", A = \"y\" }}"
            )),
            &format!("{headers}.a: is set twice"),
        ),
        (
            &http(&format!("{url}\nhandler.connect_timeout = \"0s\"")),
            "handler.connect_timeout: is 0s, must be 1ms",
        ),
        (
            &http(&format!("{url}\nhandler.ca_file = \"{pem}\"")),
            "handler.ca_file: needs TLS",
        ),
        (
            &http("handler.url = \"https://a/\"\nhandler.system_authorities = false"),
            "handler.system_authorities: is false, so `ca_file` is needed",
        ),
        (
            &http("handler.url = \"https://a/\"\nhandler.ca_file = \"/missing\""),
            "handler.ca_file: cannot read /missing",
        ),
    ]);
    Sections::allowed(&[
        &http("handler.url = \"http://u:p@[::1]:8000/orders?x=y\""),
        &http(&format!(
            "handler.url = \"https://a/\"\nhandler.ca_file = \"{pem}\""
        )),
        &http(&format!(
            "{url}\nhandler.headers = {{ Authorization = \"Bearer x\" }}"
        )),
        &http(&format!(
            "{url}\nhandler.headers = {{ Content-Type = \"application/json\" }}"
        )),
    ]);
}

#[test]
fn a_client_certificate_needs_its_key_and_tls() {
    let [pem, key] = [CERTIFICATE, KEY].map(file);
    let [pem, key] = [&pem, &key].map(|file| file.path().display());
    let with =
        |url: &str, rest: &str| format!("handler.kind = \"http\"\nhandler.url = \"{url}\"\n{rest}");
    let cert_file = format!("handler.cert_file = \"{pem}\"\n");
    let key_file = format!("handler.key_file = \"{key}\"\n");
    Sections::allowed(&[&with("https://a/", &format!("{cert_file}{key_file}"))]);
    Sections::refused(&[
        (
            &with("https://a/", &cert_file),
            "handler.cert_file: needs `key_file` too",
        ),
        (
            &with("https://a/", &key_file),
            "handler.key_file: needs `cert_file` too",
        ),
        (
            &with(
                "https://a/",
                &format!("{cert_file}handler.key_file = \"{pem}\""),
            ),
            "handler.key_file: ",
        ),
    ]);
}

#[test]
fn tokens_and_signatures_need_files_and_headers_of_their_own() {
    let secret = file("s3cret");
    let signing = file("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    let short = file("whsec_AAAA");
    let [secret, signing, short] = [&secret, &signing, &short].map(|file| file.path().display());
    let with = |rest: &str| format!("handler.kind = \"http\"\nhandler.url = \"http://a/\"\n{rest}");
    let oauth = format!(
        "handler.oauth = {{ token_url = \"https://a/token\", client_id = \"a\", \
         client_secret_file = \"{secret}\""
    );
    let authorization = "handler.headers.authorization = \"x\"";
    let signature = "handler.headers.Webhook-Id = \"x\"";
    Sections::allowed(&[
        &with(&format!("{oauth} }}")),
        &with(&format!(
            "{oauth}, scope = \"a b\", audience = \"c\", secret_in = \"body\" }}"
        )),
        &with(&format!(
            "handler.signing_file = \"{signing}\"\n{authorization}"
        )),
        &with(signature),
    ]);
    Sections::refused(&[
        (
            &with(&format!("{oauth} }}\n{authorization}")),
            "handler.headers.authorization: is a header that `oauth` sets",
        ),
        (
            &with(&format!(
                "handler.signing_file = \"{signing}\"\n{signature}"
            )),
            "handler.headers.Webhook-Id: is a header that `signing_file` sets",
        ),
        (
            &with(&format!("handler.signing_file = \"{short}\"")),
            &format!("handler.signing_file: {short}: line 1 has 3 bytes"),
        ),
        (
            &with("handler.signing_file = \"/missing\""),
            "handler.signing_file: cannot read /missing",
        ),
        (
            &with(&format!("{oauth}, other = 1 }}")),
            "handler.oauth.other: ",
        ),
    ]);
    for (missing, beginning) in [
        (
            "token_url = \"https://a/token\", ",
            "handler.oauth.token_url: must be a complete URL",
        ),
        (
            "client_id = \"a\", ",
            "handler.oauth.client_id: is required",
        ),
    ] {
        let text = with(&format!("{oauth} }}").replace(missing, ""));
        Sections::refused(&[(&text, beginning)]);
    }
}
