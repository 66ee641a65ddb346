//! The hosts by which a client may call the server.
//!
//! A web page can point its own DNS name at the server's address, and then read from the server as from
//! its own origin (DNS rebinding). Such a request names the page's host.

use std::net::IpAddr;

use axum::http::uri::Authority;

use super::AdminSettings;

/// The hosts that a request may name.
#[derive(Clone, Debug)]
pub(super) struct Hosts {
    /// The server listens at a loopback address.
    only_loopback: bool,
    /// `admin.hosts`, and the hosts of `admin.origins`.
    named: Vec<String>,
}

impl Hosts {
    pub(super) fn new(address: IpAddr, admin: &AdminSettings) -> Self {
        let origins = admin.origins.iter().filter_map(|origin| {
            let url = url::Url::parse(origin).ok()?;
            url.host_str().map(str::to_owned)
        });
        Self {
            only_loopback: address.is_loopback(),
            named: admin.hosts.iter().cloned().chain(origins).collect(),
        }
    }

    /// Whether a request may name this host. At an address that is not loopback these are: each IP
    /// address, which no DNS name can be; names that no public DNS has, of a container or of a service
    /// in a cluster; and those of the settings.
    pub(super) fn allow(&self, host: &Authority) -> bool {
        let name = host.host();
        let address = name.trim_start_matches('[').trim_end_matches(']');
        let address = address.parse::<IpAddr>();
        let is_loopback = match address {
            Ok(address) => address.is_loopback(),
            Err(_) => name.eq_ignore_ascii_case("localhost"),
        };
        let is_named = self.named.iter().any(|own| own.eq_ignore_ascii_case(name));
        is_loopback || is_named || (!self.only_loopback && (address.is_ok() || is_private(name)))
    }
}

/// Whether no public DNS has this name: one without a dot, or with a last part that is reserved for
/// private use.
fn is_private(name: &str) -> bool {
    const ENDS: [&str; 4] = ["svc", "cluster.local", "internal", "local"];
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let ends = |end: &&str| {
        let rest = name.strip_suffix(*end);
        rest.is_some_and(|rest| rest.ends_with('.'))
    };
    !name.is_empty() && (!name.contains('.') || ENDS.iter().any(ends))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(address: &str, admin: &AdminSettings, host: &str) -> bool {
        let hosts = Hosts::new(address.parse().unwrap(), admin);
        hosts.allow(&Authority::try_from(host).unwrap())
    }

    #[test]
    fn at_a_loopback_address_only_loopback_hosts_and_those_of_the_settings_are_allowed() {
        let admin = AdminSettings {
            hosts: vec!["lapwing.example.com".to_owned()],
            origins: vec!["https://console.example.com".to_owned()],
            ..AdminSettings::default()
        };
        for host in [
            "127.0.0.1",
            "127.0.0.1:8672",
            "127.1.2.3",
            "[::1]:8672",
            "localhost",
            "LOCALHOST:1",
            "lapwing.example.com:80",
            "console.example.com",
        ] {
            assert!(allowed("127.0.0.1", &admin, host), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example:8672",
            "10.0.0.1",
            "[fe80::1]",
            "0.0.0.0",
            "worker",
        ] {
            assert!(!allowed("127.0.0.1", &admin, host), "{host}");
        }
    }

    #[test]
    fn at_another_address_names_of_the_public_dns_must_be_in_the_settings() {
        let admin = AdminSettings {
            hosts: vec!["lapwing.example.com".to_owned()],
            ..AdminSettings::default()
        };
        for host in [
            "10.0.0.1:8672",
            "[fe80::1]",
            "localhost",
            "worker:8672",
            "lapwing.default.svc",
            "lapwing.default.svc.cluster.local:8672",
            "Lapwing.Example.com",
        ] {
            assert!(allowed("0.0.0.0", &admin, host), "{host}");
        }
        for host in [
            "evil.example",
            "svc.evil.example",
            "lapwing.example.com.evil.example",
        ] {
            assert!(!allowed("0.0.0.0", &admin, host), "{host}");
        }
    }
}
