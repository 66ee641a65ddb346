//! Everything that knows AMQP. Only this module imports lapin, and only its `settle` acks and
//! nacks.

mod access;
mod connection;
mod copies;
mod delivery;
mod depths;
mod dial;
mod error;
mod examiner;
#[cfg_attr(
    not(test),
    expect(
        dead_code,
        reason = "lapwing::testing shows a part of it, our own tests use all"
    )
)]
pub(crate) mod fake;
mod fault;
mod fill;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
pub mod headers;
mod links;
pub(crate) mod log;
mod management;
mod new_message;
mod portable;
mod publisher;
mod rabbit;
mod reconnect;
mod scouting;
mod seam;
mod seen;
mod session;
mod settings;
mod settle;
mod tolerance;
mod tools;
mod topology;
mod trust;
mod version;
mod wire;

pub use error::BrokerError;
pub use headers::{HeaderValue, Properties};
pub use new_message::NewMessage;
pub use publisher::PublishError;
pub use settings::{
    Binding, BrokerSettings, BrokerUrls, PublishSettings, QueueArgument, QueueSpec, QueueType,
    ReconnectSettings, TimeoutSettings, TlsSettings, Topology,
};
pub use topology::{Bound, Difference, QueueRole, Unfit, Values};

pub(crate) use access::{Access, is_about_a_topic};
pub(crate) use connection::{Link, LinkState, Purpose, connections_opened};
pub(crate) use copies::{CopyHeaders, Header};
pub(crate) use delivery::{Delivery, Moment};
pub(crate) use depths::Count;
pub(crate) use examiner::{Examiner, Place, places};
pub(crate) use fault::Told;
pub(crate) use links::Links;
pub(crate) use management::QueueShown;
pub(crate) use portable::Portable;
pub(crate) use publisher::{Publication, Publisher, Written};
pub(crate) use rabbit::Rabbit;
pub(crate) use reconnect::{Reconnect, Redial};
pub(crate) use scouting::Scouting;
pub(crate) use seam::{Broker, Reading, Returns, Session};
pub(crate) use settings::argument_is_ours;
pub(crate) use settle::Acks;
pub(crate) use tolerance::{Tolerance, WayBack};
pub(crate) use tools::Unknown;
pub(crate) use topology::{DeliveryLimit, Standing, Survey, SurveyedQueue, lines};
pub use version::Version;
