//! Warnings about a proxy of the environment that cannot work as written.

use hyper_util::client::proxy::matcher::Matcher;
use url::{Host, Url};

/// What is wrong with the environment's proxy for this URL, or with the exceptions from it. `variable`
/// reads a variable of the environment. The message shows no value, because a proxy's URL can hold a
/// password.
pub(crate) fn warning(url: &str, variable: impl Fn(&str) -> Option<String>) -> Option<String> {
    let url = Url::parse(url).ok()?;
    let uri: hyper::Uri = url.as_str().parse().ok()?;
    // The client uses no proxy in a CGI program, where a request sets `HTTP_PROXY`.
    if variable("REQUEST_METHOD").is_some() {
        return None;
    }
    let set = |names: [&'static str; 2]| {
        let named = |name| Some((name, variable(name)?));
        names.into_iter().find_map(named)
    };
    let own = match url.scheme() {
        "https" => ["HTTPS_PROXY", "https_proxy"],
        _ => ["HTTP_PROXY", "http_proxy"],
    };
    let (_, no) = set(["NO_PROXY", "no_proxy"]).unwrap_or_default();
    let used = [own, ["ALL_PROXY", "all_proxy"]].map(set);
    let (name, value) = used
        .into_iter()
        .flatten()
        .find(|(_, value)| !value.is_empty())?;
    let proxy = |no: &str| {
        let matcher = Matcher::builder().all(value.clone()).no(no.to_owned());
        matcher.build().intercept(&uri)
    };
    if proxy("").is_none() {
        return Some(format!(
            "{name} of the environment is not used: it must be http://HOST:PORT"
        ));
    }
    let proxy = proxy(&no)?;
    let host = url.host_str().unwrap_or_default();
    if !matches!(proxy.uri().scheme_str(), Some("http" | "https")) {
        return Some(format!(
            "every request will fail: {name} of the environment names a SOCKS proxy, and the handler \
             knows HTTP proxies only; NO_PROXY={host} reaches the service directly"
        ));
    }
    let mut exceptions = no.split(',').map(str::trim);
    let with_port = |entry: &&str| {
        let port = entry
            .strip_prefix(host)
            .and_then(|rest| rest.strip_prefix(':'));
        port.is_some_and(|port| port.parse::<u16>().is_ok())
    };
    if exceptions.clone().any(|entry| with_port(&entry)) {
        return Some(format!(
            "requests go through the proxy of {name}: NO_PROXY of the environment must name {host} \
             without a port"
        ));
    }
    let is_name = matches!(url.host(), Some(Host::Domain(_)));
    if !is_name && exceptions.any(|entry| entry == "*") {
        return Some(format!(
            "requests go through the proxy of {name}: `*` in NO_PROXY of the environment stands for \
             names, not for addresses; add {host}"
        ));
    }
    let is_here = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    is_here.then(|| {
        format!(
            "requests to this machine go through the proxy that {name} of the environment names; \
             NO_PROXY={host} reaches the service directly"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The warning about this URL in an environment.
    fn warned(url: &str, environment: &[(&str, &str)]) -> String {
        let variable = |name: &str| {
            let found = environment.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        warning(url, variable).unwrap_or_default()
    }

    #[test]
    fn a_socks_proxy_is_said_before_the_first_request() {
        let socks = [("ALL_PROXY", "socks5://u:s3cret@proxy:1080")];
        let text = warned("http://shop/orders", &socks);
        assert!(
            text.contains("ALL_PROXY of the environment names a SOCKS proxy"),
            "{text}"
        );
        assert!(!text.contains("s3cret"), "{text}");
        let excepted = [socks[0], ("NO_PROXY", "shop")];
        assert_eq!(warned("http://shop/orders", &excepted), "");
        // The variable of the scheme comes first.
        let both = [socks[0], ("http_proxy", "http://proxy:3128")];
        assert_eq!(warned("http://shop/orders", &both), "");
        assert!(warned("https://shop/orders", &both).contains("SOCKS"));
    }

    #[test]
    fn a_proxy_that_is_no_url_is_said_to_be_ignored() {
        for value in ["::::", "ftp://proxy", "http://"] {
            let text = warned("http://shop/", &[("HTTP_PROXY", value)]);
            assert!(
                text.contains("HTTP_PROXY of the environment is not used"),
                "{value}: {text}"
            );
        }
        assert_eq!(warned("http://shop/", &[("HTTP_PROXY", "")]), "");
        let cgi = [("HTTP_PROXY", "::::"), ("REQUEST_METHOD", "GET")];
        assert_eq!(warned("http://shop/", &cgi), "");
    }

    #[test]
    fn an_exception_that_matches_nothing_is_said() {
        let proxy = ("HTTP_PROXY", "http://proxy:3128");
        let text = warned(
            "http://127.0.0.1:8000/",
            &[proxy, ("NO_PROXY", "a, 127.0.0.1:8000")],
        );
        assert!(
            text.contains("must name 127.0.0.1 without a port"),
            "{text}"
        );
        let text = warned("http://10.1.2.3/", &[proxy, ("NO_PROXY", "*")]);
        assert!(text.contains("add 10.1.2.3"), "{text}");
        assert_eq!(warned("http://shop/", &[proxy, ("NO_PROXY", "*")]), "");
        assert_eq!(
            warned("http://10.1.2.3/", &[proxy, ("NO_PROXY", "10.0.0.0/8")]),
            ""
        );
    }

    #[test]
    fn a_proxy_for_this_machine_is_said() {
        let proxy = ("HTTP_PROXY", "http://proxy:3128");
        for url in [
            "http://localhost:8000/",
            "http://127.0.0.1/",
            "http://[::1]/",
        ] {
            let text = warned(url, &[proxy]);
            assert!(
                text.contains("to this machine go through the proxy"),
                "{url}: {text}"
            );
            assert_eq!(warned(url, &[]), "");
        }
        assert_eq!(warned("http://shop/", &[proxy]), "");
    }
}
