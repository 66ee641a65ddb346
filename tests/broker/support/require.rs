//! Requirements of some tests beyond a broker. A test whose requirement is missing fails, unless
//! `LAPWING_TEST_SKIP` allows skipping it.

/// The variable that lists, separated by commas, the requirements whose tests may be skipped.
const SKIP: &str = "LAPWING_TEST_SKIP";

/// Something that a machine or a broker may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// A node that the test may stop, kill and block.
    OwnNode,
    /// `rabbitmqctl`, and with it the exact counts of a queue.
    Rabbitmqctl,
    /// A TLS listener, with the certificates that it accepts.
    Tls,
    /// An IPv6 address on the loopback.
    Ipv6,
}

impl Requirement {
    const ALL: [Self; 4] = [Self::OwnNode, Self::Rabbitmqctl, Self::Tls, Self::Ipv6];

    /// Its name in `LAPWING_TEST_SKIP`.
    fn name(self) -> &'static str {
        match self {
            Self::OwnNode => "own-node",
            Self::Rabbitmqctl => "rabbitmqctl",
            Self::Tls => "tls",
            Self::Ipv6 => "ipv6",
        }
    }

    /// How to meet it.
    fn advice(self) -> &'static str {
        match self {
            Self::OwnNode => {
                "run 'scripts/rabbitmq install' as root, so that scripts/rabbitmq can start a node"
            }
            Self::Rabbitmqctl => {
                "unset AMQP_URL, so that the suite starts a node of its own and reaches it by \
                 rabbitmqctl"
            }
            Self::Tls => {
                "set AMQPS_URL and RABBITMQ_TLS_DIR (with ca.pem, client.pem, client.key, \
                 server.pem and server.key), or unset AMQP_URL: the suite's own node has both"
            }
            Self::Ipv6 => "give the loopback its address: sysctl net.ipv6.conf.lo.disable_ipv6=0",
        }
    }

    /// The error if it is not met.
    fn missing(self, why: &str) -> String {
        let (name, advice) = (self.name(), self.advice());
        format!("this test needs {name}: {why}\nEither {advice}.\nOr allow skipping: {SKIP}={name}")
    }
}

/// The value that was `found`, or `None` if it is missing and `LAPWING_TEST_SKIP` allows skipping.
/// Panics otherwise. Tests call this through [`require!`](crate::support::require).
pub fn met<T>(requirement: Requirement, found: Result<T, String>) -> Option<T> {
    let skipped = std::env::var(SKIP).unwrap_or_default();
    met_or_skipped(requirement, found, &skipped)
}

/// The same, with the value of `LAPWING_TEST_SKIP`.
pub(super) fn met_or_skipped<T>(
    requirement: Requirement,
    found: Result<T, String>,
    skipped: &str,
) -> Option<T> {
    let names: Vec<_> = skipped.split(',').map(str::trim).collect();
    for name in names.iter().filter(|name| !name.is_empty()) {
        let known = Requirement::ALL.map(Requirement::name);
        assert!(known.contains(name), "{SKIP}: {name} is none of {known:?}");
    }
    match found {
        Ok(found) => Some(found),
        Err(why) if names.contains(&requirement.name()) => {
            eprintln!("skipped, as {SKIP} allows: {}", requirement.missing(&why));
            None
        }
        Err(why) => panic!("{}", requirement.missing(&why)),
    }
}

/// Unwraps a test's requirement from a `Result<T, String>`. If the requirement is missing, the test
/// fails and says how to meet it, or returns if `LAPWING_TEST_SKIP` names it.
macro_rules! require {
    ($requirement:ident, $found:expr) => {
        match $crate::support::require::met(
            $crate::support::require::Requirement::$requirement,
            $found,
        ) {
            Some(found) => found,
            None => return,
        }
    };
}

pub(crate) use require;
