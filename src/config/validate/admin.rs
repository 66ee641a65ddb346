//! `[admin]`.

use std::net::SocketAddr;

use url::Url;

use super::{Findings, Problem, Source};
use crate::config::{AdminSettings, Listen, problem::KeyPath};

/// Bytes of a token. A shorter one could be guessed, a longer one does not fit a header.
const TOKEN_BYTES: std::ops::RangeInclusive<usize> = 16..=1024;

pub(super) fn check(findings: &mut Findings, admin: &AdminSettings) {
    let AdminSettings {
        listen,
        probes,
        token,
        token_file,
        origins,
        trace_url,
    } = admin;
    let section = KeyPath::of("admin");
    // Port 0 is another one each time.
    let is_fixed = |address: SocketAddr| address.port() != 0;
    if listen == probes && listen.address().is_some_and(is_fixed) {
        let message = "is the address of `listen`, which serves the probes too: leave it out";
        findings.contradiction(section.key("probes"), [section.key("listen")], message);
    }
    if let Some(secret) = token {
        token_text(findings, &section.key("token"), secret.expose());
    }
    if let Some(file) = token_file {
        let path = section.key("token_file");
        if token.is_some() {
            let message = "is used in place of `token`, which is set too: set one of the two";
            findings.contradiction(path.clone(), [section.key("token")], message);
        }
        if let Some(text) = findings.text_file(&path, file) {
            token_text(findings, &path, text.trim_end_matches(['\r', '\n']));
        }
    }
    for (index, origin) in origins.iter().enumerate() {
        if !is_origin(origin) {
            let message = "must be scheme, host and port, such as https://lapwing.example.com";
            findings.add(section.key("origins").index(index), message);
        }
    }
    if let Some(url) = trace_url
        && !is_trace_url(url)
    {
        let message = "must be a whole URL with {trace_id} in it, such as \
                       http://127.0.0.1:16686/trace/{trace_id}";
        findings.add(section.key("trace_url"), message);
    }
}

fn token_text(findings: &mut Findings, path: &KeyPath, token: &str) {
    if !TOKEN_BYTES.contains(&token.len()) {
        let (low, high) = (TOKEN_BYTES.start(), TOKEN_BYTES.end());
        let message = format!("has {} bytes, must have {low} to {high}", token.len());
        findings.add(path.clone(), message);
    } else if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        findings.add(path.clone(), "must be visible ASCII without spaces");
    }
}

fn is_origin(text: &str) -> bool {
    Url::parse(text).is_ok_and(|url| {
        matches!(url.scheme(), "http" | "https") && url.origin().ascii_serialization() == text
    })
}

/// The page that has it is public to whoever can read the API, so it must hold no password.
fn is_trace_url(text: &str) -> bool {
    let filled = text.replace("{trace_id}", "0");
    filled != text
        && Url::parse(&filled).is_ok_and(|url| {
            matches!(url.scheme(), "http" | "https")
                && url.has_host()
                && url.username().is_empty()
                && url.password().is_none()
        })
}

/// What is allowed but likely to hurt.
pub(super) fn warning(admin: &AdminSettings) -> Option<Problem> {
    let Listen::At(address) = admin.listen else {
        return None;
    };
    (!address.ip().is_loopback()).then(|| Problem {
        path: "admin.listen".to_owned(),
        source: Source::Code,
        message: "is not a loopback address: whoever reaches it can read ids, errors and settings \
                  without a token; `admin.probes` serves probes and metrics alone"
            .to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use crate::config::{
        Settings,
        validate::tests::{allowed, file, refused},
    };

    #[test]
    fn addresses_and_urls_are_checked() {
        let listen = "admin.listen: expected an IP address with a port, such as";
        refused(&[
            ("admin.listen = \"localhost:9090\"", listen),
            ("admin.listen = \"127.0.0.1\"", listen),
            ("admin.listen = \"\"", listen),
            ("admin.listen = 9090", listen),
            (
                "admin.probes = \"127.0.0.1:9090\"",
                "admin.probes: is the address of `listen`",
            ),
            (
                "admin.origins = [\"https://a\", \"https://a/\"]",
                "admin.origins[1]: must be scheme, host and port",
            ),
            ("admin.origins = [\"*\"]", "admin.origins[0]: must be"),
            ("admin.origins = [\"null\"]", "admin.origins[0]: must be"),
            (
                "admin.trace_url = \"http://jaeger/trace/\"",
                "admin.trace_url: must be a whole URL with {trace_id} in it",
            ),
            (
                "admin.trace_url = \"http://u:p@jaeger/{trace_id}\"",
                "admin.trace_url: must be",
            ),
            (
                "admin.trace_url = \"javascript:{trace_id}\"",
                "admin.trace_url: must be",
            ),
        ]);
        allowed(&[
            "admin.listen = \"off\"",
            "admin.listen = \"[::]:0\"\nadmin.probes = \"[::]:0\"",
            "admin.probes = \"0.0.0.0:9091\"",
            "admin.origins = [\"https://a\", \"http://a.b:8080\", \"http://[::1]:1\"]",
            "admin.trace_url = \"https://jaeger/trace/{trace_id}?x=1\"",
        ]);
    }

    #[test]
    fn a_token_must_be_long_and_fit_a_header() {
        let long = "x".repeat(1025);
        for (token, beginning) in [
            ("", "has 0 bytes, must have 16 to 1024"),
            ("fifteen-letters", "has 15 bytes"),
            (&long, "has 1025 bytes"),
            ("sixteen letters!", "must be visible ASCII without spaces"),
            ("sixteen-lëtters", "must be visible ASCII"),
        ] {
            let text = format!("admin.token = \"{token}\"");
            refused(&[(&text, &format!("admin.token: {beginning}"))]);
            let file = file(&format!("{token}\n"));
            let text = format!("admin.token_file = {:?}", file.path());
            if !token.is_empty() {
                refused(&[(&text, &format!("admin.token_file: {beginning}"))]);
            }
        }
        let file = file("sixteen-letters!\n");
        let from_file = format!("admin.token_file = {:?}", file.path());
        allowed(&[&from_file, "admin.token = \"sixteen-letters!\""]);
        refused(&[
            (
                &format!("{from_file}\nadmin.token = \"sixteen-letters!\""),
                "admin.token_file: is used in place of `token`",
            ),
            (
                "admin.token_file = \"/nowhere/at/all\"",
                "admin.token_file: cannot read",
            ),
        ]);
    }

    #[test]
    fn an_address_that_others_reach_is_warned_of() {
        let warnings = |text: &str| Settings::from_toml(text).unwrap().warnings();
        assert_eq!(warnings(""), []);
        assert_eq!(warnings("admin.listen = \"off\""), []);
        assert_eq!(warnings("admin.probes = \"0.0.0.0:9091\""), []);
        let warned = warnings("admin.listen = \"0.0.0.0:9090\"");
        assert_eq!(warned[0].path, "admin.listen");
    }
}
