//! Exact counts of a queue.
//!
//! Which source is exact:
//!
//! | source | ready | unacked |
//! |---|---|---|
//! | passive declare | exact; 0 while a quorum queue has no leader | not known |
//! | `GET /api/queues/vhost/name` | old | old |
//! | `GET /api/queues/vhost?disable_stats=true&enable_queue_totals=true`, classic queue | exact | exact |
//! | the same, quorum queue | old | old |
//! | asking the queue's own process inside the broker | exact | exact |
//!
//! "Old" is up to 5 s with the broker's defaults and 2 s on the suite's nodes, whose script sets
//! `collect_statistics_interval` and `quorum_tick_interval` for it.
//!
//! So the helper asks inside the broker. It evaluates `probe.erl` in the node once (0.7 s), and
//! after that a count takes less than a millisecond. For a broker of `AMQP_URL` this is not
//! possible. There the helper uses the list, and unacked messages of quorum queues are as old as
//! the broker's last tick.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::management::encode;
use super::vhost::VHost;
use super::wait::{DEADLINE, wait_until};

/// The code that is evaluated inside the broker.
const PROBE: &str = include_str!("probe.erl");

/// The global parameter of the broker that holds the probe's port, for the next test to find.
const PARAMETER: &str = "global-parameters/lapwing_probe";

/// The greeting of a probe, which distinguishes it from any other program on its port.
const GREETING: &str = "lapwing-probe\n";

/// The answer of a probe if there is no such queue.
const ABSENT: &str = "absent\n";

/// The messages of a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages that no consumer holds.
    pub ready: u32,
    /// Messages delivered to a consumer that has not settled them.
    pub unacked: u32,
    /// Neither: not yet confirmed by their dead-letter target, or held back by the delayed retry of
    /// 4.3. Known for quorum queues only.
    pub aside: u32,
}

impl Counts {
    /// This many messages ready, and no others.
    pub fn of(ready: u32, unacked: u32) -> Self {
        let aside = 0;
        Self {
            ready,
            unacked,
            aside,
        }
    }

    /// All messages of the queue.
    pub fn total(self) -> u32 {
        self.ready + self.unacked + self.aside
    }
}

impl VHost {
    /// The counts of a queue. Exact on the suite's nodes; see the [module](self) for others.
    pub async fn counts(&self, queue: &str) -> Counts {
        match self.broker().script_name() {
            Some(_) => self.probed(queue).await,
            None => self.listed(queue).await,
        }
    }

    /// Waits until a queue holds exactly this many messages.
    pub async fn wait_for_counts(&self, queue: &str, ready: u32, unacked: u32, deadline: Duration) {
        let what = format!("queue {queue} has {ready} ready and {unacked} unacked messages");
        let wanted = Counts::of(ready, unacked);
        wait_until(
            &what,
            deadline,
            async || self.counts(queue).await,
            |seen| *seen == wanted,
        )
        .await;
    }

    /// Waits until a queue has exactly this many consumers. A missing queue has none.
    pub async fn wait_for_consumers(&self, queue: &str, n: u32, deadline: Duration) {
        let what = format!("queue {queue} has {n} consumers");
        let observe = async || self.consumers(queue).await;
        wait_until(&what, deadline, observe, |seen| *seen == n).await;
    }

    /// Starts the probe of a new node. On a busy machine that takes longer than a wait for counts.
    pub(super) async fn prepare_counts(&self) {
        if self.broker().script_name().is_some() {
            // After an error the first question tries again.
            let _started = self.probe().await;
        }
    }

    /// The counts from the queue's own process. After a start of the node a quorum queue has no
    /// counts until its leader is elected; this waits for the leader.
    async fn probed(&self, queue: &str) -> Counts {
        // The first question to a node that was restarted starts its probe.
        if let Ok(Ok(counts)) = timeout(4 * DEADLINE, self.ask(queue)).await {
            return counts;
        }
        let what = format!("queue {queue} tells its counts");
        let ask = async || self.ask(queue).await;
        wait_until(&what, DEADLINE, ask, Result::is_ok)
            .await
            .expect("it is what was waited for")
    }

    /// Sends one question to the probe. The error is the probe's answer.
    async fn ask(&self, queue: &str) -> Result<Counts, String> {
        let mut probe = self.probe().await?;
        let question = format!("{} {}\n", self.path(), encode(queue));
        let mut answer = String::new();
        probe
            .write_all(question.as_bytes())
            .await
            .map_err(|error| error.to_string())?;
        probe
            .read_line(&mut answer)
            .await
            .map_err(|error| error.to_string())?;
        assert_ne!(answer, ABSENT, "there is no queue {queue}");
        let numbers: Vec<u32> = answer
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        match numbers[..] {
            [ready, unacked, aside] => Ok(Counts {
                ready,
                unacked,
                aside,
            }),
            _ => Err(answer),
        }
    }

    /// A connection to the probe. Starts the probe in a node that is new or was restarted. If
    /// several tests do so at the same time, one may get an error; its next attempt finds the other
    /// test's probe.
    async fn probe(&self) -> Result<BufReader<TcpStream>, String> {
        let management = self.broker().management();
        let known = management
            .try_call(reqwest::Method::GET, PARAMETER, None)
            .await;
        if let Some(port) = known
            .ok()
            .and_then(|(_, parameter)| parameter["value"].as_u64())
            && let Some(probe) = greeted(port).await
        {
            return Ok(probe);
        }
        let printed = self.broker().ctl(&["eval", PROBE]).await;
        let port = printed.trim().parse();
        let port = port.map_err(|_| format!("the probe did not start: {printed}"))?;
        management.put(PARAMETER, &json!({ "value": port })).await;
        let probe = greeted(port).await;
        probe.ok_or_else(|| format!("no probe greets on port {port}"))
    }

    /// The counts as the management API lists them.
    async fn listed(&self, queue: &str) -> Counts {
        let path = format!(
            "queues/{}?disable_stats=true&enable_queue_totals=true",
            self.path()
        );
        let queues = self.broker().management().get(&path).await;
        let found = queues
            .as_array()
            .into_iter()
            .flatten()
            .find(|seen| seen["name"] == queue);
        let found = found.unwrap_or_else(|| panic!("there is no queue {queue}"));
        let unacked = found["messages_unacknowledged"]
            .as_u64()
            .unwrap_or_default();
        let unacked = u32::try_from(unacked).expect("a test publishes fewer messages");
        Counts {
            ready: self.ready(queue).await,
            unacked,
            aside: 0,
        }
    }
}

/// A connection to the probe on this port; `None` if no probe listens there.
async fn greeted(port: u64) -> Option<BufReader<TcpStream>> {
    let port = u16::try_from(port).ok()?;
    let mut probe = BufReader::new(TcpStream::connect(("127.0.0.1", port)).await.ok()?);
    let mut greeting = String::new();
    probe.read_line(&mut greeting).await.ok()?;
    (greeting == GREETING).then_some(probe)
}
